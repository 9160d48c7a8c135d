"""The whole road by commands: a commit on a laptop, Kaggle, the bucket, another machine, the UI."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import mlflow.cli
import nbformat
import pytest
from click.testing import CliRunner
from mlflow.exceptions import ExecutionException

from tests.command import Done, kaggleops, kaggleops_here
from tests.server.serving import eventually, serving

from .world import BUCKET, TRACKING, Gate, World

BUCKET_OPTION = ("--bucket", BUCKET)


@pytest.fixture(autouse=True)
def calm(outside: World) -> Iterator[None]:
    """Nothing of one test's is left on Kaggle for the next."""
    yield
    outside.kaggle.heal()
    for ref in outside.kaggle.kernels:
        outside.kaggle.session(ref).cancel()


def on_the_laptop(outside: World, *arguments: object) -> Done:
    """Run a command in a process of its own, in the repository's folder."""
    environment = outside.laptop("laptop home")
    return kaggleops(*arguments, *BUCKET_OPTION, cwd=outside.repository.folder, **environment)


def here(*arguments: object) -> Done:
    """Run a command in this process, which is another machine and has no repository."""
    return kaggleops_here(*arguments)


def the_row(run_id: str) -> dict[str, str]:
    done = here("status", run_id, *BUCKET_OPTION, "--json")
    assert done.code == 0, done.errors
    (row,) = done.json["runs"]
    return dict(row)


@pytest.fixture(scope="module")
def configured(outside: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration's file."""
    file = tmp_path_factory.mktemp("config") / "kaggle.yaml"
    file.write_text("credentials: ada/bucket-key\nmachine_shape: ''\n")
    return file


def test_from_a_commit_on_a_laptop_to_the_ui(
    outside: World, configured: Path, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    given = ("alpha=0.5", f"gate={gate.path}", "data.dir=./here", "--backend-config", configured)
    done = on_the_laptop(outside, "run", "-b", "kaggle", *given, "--json")
    assert done.code == 0, done.errors
    run_id = done.json["run_id"]
    assert (done.json["status"], done.json["commit"]) == ("SCHEDULED", outside.sha)
    assert done.json["page"] == f"https://www.kaggle.com/code/ada/kaggleops-{run_id}"

    row = the_row(run_id)
    assert (row["status"], row["backend"], row["platform"]) == ("SCHEDULED", "kaggle", "QUEUED")
    session = outside.kaggle.session(f"ada/kaggleops-{run_id}")
    session.start()
    gate.wait()
    row = the_row(run_id)
    assert (row["status"], row["platform"]) == ("RUNNING", "RUNNING")
    environment = outside.laptop("desktop home")
    following = subprocess.Popen(
        [sys.executable, "-m", "kaggleops", "logs", "-f", run_id, *BUCKET_OPTION],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert following.stdout is not None
    lines = [next(line for line in following.stdout if "the training begins" in line)]
    gate.open()
    lines += following.communicate()[0].splitlines()
    assert following.returncode == 0
    assert [line.split("  ")[-1].strip() for line in lines if "the training" in line] == [
        "the training begins",
        "the training goes on",
    ]
    logs = here("logs", run_id, "--json", *BUCKET_OPTION)
    assert any("goes on" in json.loads(line)["line"] for line in logs.output.splitlines())
    row = the_row(run_id)
    assert (row["status"], row["platform"]) == ("FINISHED", "")

    brought = here("download", run_id, tmp_path / "home", "--json", *BUCKET_OPTION)
    files = ["output.txt", "overrides.txt", "output/predictions.csv"]
    assert brought.json["files"] == files
    assert "artifacts:" not in brought.errors  # no bars of MLflow's
    # A path is of the machine that runs it.
    assert (tmp_path / "home/overrides.txt").read_text() == "data.dir=./here"
    assert "has finished" in here("resume", run_id, *BUCKET_OPTION).error
    assert here("cancel", run_id, *BUCKET_OPTION).code == 1

    cleaned = here("cleanup", run_id, *BUCKET_OPTION, "--json")
    assert cleaned.json == {"deleted": [run_id], "problems": []}
    assert here("cleanup", run_id, *BUCKET_OPTION, "--json").json["deleted"] == []
    logs = here("logs", run_id, *BUCKET_OPTION)
    assert (logs.code, logs.errors) == (0, "")  # that its platform has nothing more is no fault
    assert "the training goes on" in logs.output  # kept with the run
    brought = here("download", run_id, tmp_path / "again", "--json", *BUCKET_OPTION)
    assert (brought.code, brought.json["files"]) == (0, files[:2])
    assert "Of its job nothing is downloaded: Kaggle has no such thing" in brought.errors
    outside.kaggle.fail(503, times=None, op="ListKernelSessionOutput")
    name = outside.run(run_id).info.run_name
    brought = here("download", name, tmp_path / "again", *BUCKET_OPTION)
    assert (brought.code, "holds 2 files" in brought.output) == (1, True)
    # The notebook is called after the id, whatever the run is called by.
    said = f"listing what ada/kaggleops-{run_id} left: Kaggle has a fault (503)"
    assert said in brought.errors

    run = outside.run(run_id)
    with serving(*BUCKET_OPTION, home=tmp_path / "server", **environment) as server:
        (shown,) = eventually(lambda: server.runs(run.info.experiment_id))
    assert shown["info"]["status"] == "FINISHED"
    tags = {tag["key"]: tag["value"] for tag in shown["data"]["tags"]}
    assert tags["mlflow.source.git.commit"] == outside.sha
    assert (tags["git_commit"], tags["backend"]) == (outside.sha[:10], "kaggle")
    assert f"https://www.kaggle.com/code/ada/kaggleops-{run_id}" in tags["mlflow.note.content"]


RUN = ("run", "-b", "kaggle", "--follow", "--backend-config")


@contextmanager
def following(outside: World, *words: object) -> Iterator["subprocess.Popen[str]"]:
    """Yield a command that follows a run in a process, when it says that the run waits."""
    environment = outside.laptop("laptop home")
    process = subprocess.Popen(
        [sys.executable, "-m", "kaggleops", *map(str, words), *BUCKET_OPTION],
        cwd=outside.repository.folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        assert any("waiting in Kaggle's queue (0:" in line for line in process.stderr)
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_run_that_is_followed_ends_as_it_does_and_says_why(
    outside: World, configured: Path
) -> None:
    before = set(outside.kaggle.kernels)
    with following(outside, *RUN, configured, "-e", "fail") as process:
        (ref,) = set(outside.kaggle.kernels) - before
        outside.kaggle.session(ref).start()
        output, errors = process.communicate(timeout=240)
    run_id = ref.removeprefix("ada/kaggleops-")
    why = "no luck (exit code 1)"
    assert process.returncode == 1, errors
    assert "no luck" in output
    assert errors.splitlines()[-1] == f"{run_id} failed: {why}"

    # Everybody is told so: here, where the run is called by the first digits of its id.
    row = the_row(run_id[:8])
    assert (row["status"], row["failure"]) == ("FAILED", why)
    logs = here("logs", run_id[:8], *BUCKET_OPTION)
    assert logs.errors.splitlines()[-1].endswith(f"failed: {why}")
    assert outside.run(run_id).data.tags["failure"] == why


def test_ctrl_c_leaves_a_followed_run_where_it_is(outside: World, configured: Path) -> None:
    before = set(outside.kaggle.kernels)
    with following(outside, *RUN, configured) as process:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    (ref,) = set(outside.kaggle.kernels) - before
    run_id = ref.removeprefix("ada/kaggleops-")
    assert process.returncode == 130, errors
    assert f"See it:  kaggleops logs -f {run_id}" in errors
    with following(outside, "logs", "-f", run_id[:8]):
        pass  # it waits, and says so
    assert outside.run(run_id).info.status == "SCHEDULED"


def test_mlflow_run_submits_too(outside: World, tmp_path: Path) -> None:
    config = tmp_path / "kaggle.json"
    config.write_text('{"credentials": "ada/bucket-key", "machine_shape": ""}')
    address = outside.repository.git("remote", "get-url", "origin")
    before = set(outside.kaggle.kernels)
    mlflow.set_tracking_uri(TRACKING)
    command = ["run", address, "-v", outside.sha, "-b", "kaggle", "--experiment-name", "by mlflow"]
    parameters = ["-P", "alpha=0.3", "-P", "overrides='a=b c' d=e"]
    options = ["--backend-config", str(config), *parameters]
    done = CliRunner().invoke(mlflow.cli.cli, [*command, *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (ref,) = set(outside.kaggle.kernels) - before
    run = outside.run(ref.removeprefix("ada/kaggleops-"))
    assert run.info.status == "SCHEDULED"
    assert run.data.params == {"alpha": "0.3", "gate": "none", "overrides": "'a=b c' d=e"}
    assert run.data.tags["mlflow.source.git.commit"] == outside.sha

    # What MLflow's command shows as one line.
    wrong = {"credential": "ada/bucket-key"}
    with pytest.raises(ExecutionException, match=r"Did you mean credentials\?"):
        mlflow.projects.run(address, backend="kaggle", backend_config=wrong)


def test_a_cancelled_run_goes_on_by_hand(outside: World, configured: Path, tmp_path: Path) -> None:
    given = ("--backend-config", configured, "--repository", outside.repository.folder)
    done = here("run", "-b", "kaggle", *given, *BUCKET_OPTION, "--json")
    run_id = done.json["run_id"]
    elsewhere = here("resume", run_id, "-b", "manual", *BUCKET_OPTION)
    assert "waits for a machine of kaggle" in elsewhere.error
    assert "has not ended" in here("cleanup", run_id, *BUCKET_OPTION).error
    assert here("cancel", run_id, *BUCKET_OPTION).code == 0
    by_hand = tmp_path / "manual.yaml"
    by_hand.write_text(f"folder: {tmp_path}\n")
    done = here("resume", run_id, "-b", "manual", "--backend-config", by_hand, *BUCKET_OPTION)
    assert done.code == 0, done.errors
    file = tmp_path / f"run-{run_id[:8]}.ipynb"
    for part in (run_id, str(file), "https://colab.research.google.com", "https://www.kaggle.com"):
        assert part in done.output
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    assert f'run_id = "{run_id}"' in notebook.cells[1].source
    assert the_row(run_id)["status"] == "SCHEDULED"
    said = "only the notebook that a person opened has it. `kaggleops status` says where it is."
    assert here("logs", run_id, *BUCKET_OPTION).error.endswith(said)


def test_quota(outside: World) -> None:
    outside.kaggle.use_gpu("ada", 12.5)
    rows = [line.split() for line in here("quota").output.splitlines()[2:4]]
    assert [row[:6] for row in rows] == [
        ["kaggle", "GPU", "17.5", "h", "30", "h"],
        ["kaggle", "TPU", "20.0", "h", "20", "h"],
    ]
    assert here("quota", "-b", "kaggle", "--json").json["quotas"][0]["left_hours"] == 17.5
    outside.kaggle.use_gpu("ada", 0)


def test_status_does_without_a_platform_that_does_not_answer(
    outside: World, configured: Path
) -> None:
    given = ("--backend-config", configured, "--repository", outside.repository.folder)
    done = here("run", "-b", "kaggle", *given, *BUCKET_OPTION, "--json")
    outside.kaggle.fail(401, times=None, op="GetKernelSessionStatus")
    row = the_row(done.json["run_id"])
    assert row["status"] == "SCHEDULED"
    assert "does not accept" in row["platform"]
    table = here("status", *BUCKET_OPTION)
    assert row["name"] in table.output


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["run", "-b", "nonsense"], 2, "kaggle, local, manual"),
        (["run", "-b", "kaggle", "--backend-config", "none.yaml"], 2, "No such file"),
        (["run", "--backend-config", "none.yaml"], 2, "it is for a run on another machine"),
        (["run", "-b", "kaggle", "--uncommitted"], 2, "only gets the commit"),
        (["run", "-b", "manual", "beta=1", "--entry-point", "fail"], 2, "does not take"),
        (["logs", "0" * 32], 2, "not found"),
        (["download", "0" * 32, "here"], 2, "not found"),
        (["resume", "0" * 32], 2, "not found"),
    ],
)
def test_what_is_called_wrongly_is_one_clear_line(
    outside: World, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, problem: str
) -> None:
    monkeypatch.chdir(outside.repository.folder)
    done = here(*arguments, *BUCKET_OPTION)
    assert problem in done.error
    assert done.code == code


def test_without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAGGLE_KEY")
    done = here("quota", "-b", "kaggle", "--json")
    assert "there are no credentials on this machine" in done.error
    assert (done.code, done.output) == (2, "")


def test_quota_says_what_is_not_set_up_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("KAGGLE_KEY", "RUNPOD_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))  # no Colab CLI
    done = here("quota")
    said = done.output.split("\n")
    assert [line.split("  ")[0] for line in said if "not set up: " in line][:1] == ["kaggle"]
    assert (done.code, done.errors) == (0, "")
    for each in ("no credentials on this machine", "kaggle auth login", "google-colab-cli"):
        assert each in done.output
    assert {each["backend"] for each in here("quota", "--json").json["not_set_up"]} >= {
        *("kaggle", "colab", "runpod"),
    }


def test_without_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    # None is how Python marks a package that cannot be imported.
    for name in ("kaggle", "kaggle.api", "kaggle.api.kaggle_api_extended"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "kaggleops.platforms.kaggle.client", raising=False)
    done = here("quota", "-b", "kaggle")
    assert "pip install 'kaggleops[kaggle]'" in done.error
    assert done.code == 2
