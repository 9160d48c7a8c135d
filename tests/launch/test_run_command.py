"""`kaggleops run`: a commit, run by MLflow from a fresh clone, its run in the bucket."""

import json
import os
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest

from kaggleops.bucket import Bucket
from kaggleops.git.commits import find_commit
from kaggleops.launch.launcher import tags_of
from kaggleops.notebook import Notebook
from kaggleops.platforms.folders import provide_home, state_folder
from kaggleops.platforms.machine import user_name
from tests import secrets_of
from tests.buckets import ON_BOTH_SERVICES
from tests.command import kaggleops, kaggleops_here
from tests.fakes.gcs_server import GcsServer
from tests.fakes.git_server import Repository


@ON_BOTH_SERVICES
def test_a_commit_becomes_a_run_with_its_metrics_artifacts_and_tags(
    toy: Repository, bucket: Bucket
) -> None:
    toy.git("remote", "add", "origin", "git@github.com:ada/toy.git")
    sha = toy.git("rev-parse", "HEAD")
    done = kaggleops(
        "run", "--bucket", bucket.uri, "alpha=0.5", "x=[1, 2]", "--json", cwd=toy.folder
    )
    assert done.code == 0, done.errors
    assert done.json["status"] == "FINISHED"
    assert done.json["commit"] == sha
    assert done.json["link"] == f"https://github.com/ada/toy/commit/{sha}"
    assert done.json["metrics"] == {"alpha": 0.5}
    assert done.json["artifacts"].startswith(f"{bucket.artifact_uri}/artifacts/")

    client = mlflow.MlflowClient(f"{bucket.uri}/mlruns")
    run = client.get_run(done.json["run_id"])
    assert client.get_experiment(run.info.experiment_id).name == "toy"
    assert run.data.params == {"alpha": "0.5", "overrides": "'x=[1, 2]'"}
    expected = {
        "mlflow.source.git.commit": sha,
        "mlflow.source.git.branch": "main",
        "mlflow.source.git.repoURL": "git@github.com:ada/toy.git",
        "mlflow.source.name": "git@github.com:ada/toy.git",
        "mlflow.source.type": "PROJECT",
        "mlflow.project.entryPoint": "main",
        "git_commit": sha[:10],
        "git_branch": "main",
        "git_subject": "Second version",
        "settings": "alpha=0.5 'x=[1, 2]'",
        "backend": "local",
    }
    assert expected.items() <= run.data.tags.items()
    logs = kaggleops_here("logs", run.info.run_id, "--bucket", bucket.uri)
    assert (logs.code, logs.output) == (0, "training\n")
    arguments = Path(client.download_artifacts(run.info.run_id, "arguments.json"))
    assert json.loads(arguments.read_text()) == {"arguments": ["x=[1, 2]"]}


def test_the_table_for_people(toy: Repository, tmp_path: Path) -> None:
    toy.git("remote", "add", "origin", "https://github.com/ada/toy")
    train = (toy.folder / "train.py").read_text()
    many = "    mlflow.log_metrics({f'norm_{each:02}': each for each in range(19)})\n"
    toy.write(MLproject="score: the_score\n" + (toy.folder / "MLproject").read_text())
    toy.write(train_py=f"{train}{many}    mlflow.log_metric('the_score', 0.75)\n")
    toy.commit("Log many metrics")
    done = kaggleops("run", "--bucket", tmp_path / "a bucket", "alpha=0.5", cwd=toy.folder)
    assert done.code == 0, done.errors
    sha = toy.git("rev-parse", "HEAD")
    assert f"{sha[:10]}  Log many metrics" in done.errors
    assert "changed here" not in done.errors
    lines = {line.split()[0]: line for line in done.output.splitlines() if line.strip()}
    assert lines["Commit"].split()[1] == sha
    assert f"https://github.com/ada/toy/commit/{sha}" in done.output.split()
    assert lines["alpha"].split()[1] == "0.5000"
    assert lines["the_score"].split()[1] == "0.7500"
    assert len([name for name in lines if name.startswith("norm_")]) == 8  # ten metrics in all
    assert "and 11 more metrics" in done.output
    assert lines["Artifacts"].split()[1].startswith(f"file://{tmp_path}/a%20bucket/artifacts/")
    assert lines["Show"].split()[2:] == ["kaggleops", "ui"]


def test_uncommitted_changes_are_refused_unless_they_are_allowed(
    toy: Repository, tmp_path: Path
) -> None:
    (toy.folder / "version.txt").write_text("third, not committed")
    options = ("run", "--bucket", tmp_path / "bucket", "--json")
    refused = kaggleops_here(*options, cwd=toy.folder)
    assert refused.code == 2
    assert "version.txt is new or changed, and not committed. Commit" in refused.error

    (toy.folder / "kaggle.json").write_text(f"\n{secrets_of.KAGGLE_KEY}\n")
    refused = kaggleops_here(*options, "--uncommitted", cwd=toy.folder)
    assert refused.code == 2
    assert "there are secrets in it (kaggle.json, line 2: Kaggle key). Take them" in refused.error
    assert secrets_of.HEX not in refused.errors + refused.output
    assert not (tmp_path / "bucket").exists()

    allowed = kaggleops_here(*options, "--uncommitted", "--allow-secrets", cwd=toy.folder)
    assert "new or changed here; that runs too, as a patch" in allowed.errors
    artifacts = allowed.json["artifacts"]
    assert mlflow.artifacts.load_text(f"{artifacts}/version.txt") == "third, not committed"
    patch = mlflow.artifacts.load_text(f"{artifacts}/uncommitted.patch")
    assert "+third, not committed" in patch
    client = mlflow.MlflowClient(f"bucket+file://{tmp_path}/bucket/mlruns")
    tags = client.get_run(allowed.json["run_id"]).data.tags
    assert tags["uncommitted"] == "see uncommitted.patch"
    assert tags["commit"].endswith(" Second version + uncommitted changes")  # by which a UI groups
    assert tags["mlflow.source.git.commit"] == toy.git("rev-parse", "HEAD")
    assert (toy.folder / "version.txt").read_text() == "third, not committed"


def test_mlflow_tracks_afterwards_where_it_did_before(toy: Repository, tmp_path: Path) -> None:
    mlflow.set_tracking_uri("sqlite:///mine.db")
    place = ("--bucket", tmp_path / "bucket")
    for words in ["run"], ["run", "-b", "manual"], ["sweep", "--detach", "alpha=1,2"]:
        done = kaggleops_here(*words, *place, cwd=toy.folder)
        assert done.code == 0, done.errors
    assert len(Notebook(str(tmp_path / "bucket")).runs()) == 3
    assert mlflow.get_tracking_uri() == "sqlite:///mine.db"
    assert os.environ["MLFLOW_TRACKING_URI"] == "sqlite:///mine.db"
    assert "MLFLOW_REGISTRY_URI" not in os.environ


@pytest.mark.parametrize(("version", "content"), [("HEAD~1", "first"), ("HEAD", "second")])
def test_a_version_runs_without_touching_the_working_tree(
    toy: Repository, tmp_path: Path, version: str, content: str
) -> None:
    (toy.folder / "version.txt").write_text("third, not committed")
    done = kaggleops(
        "run", "--bucket", tmp_path / "bucket", "--version", version, "--json", cwd=toy.folder
    )
    assert mlflow.artifacts.load_text(f"{done.json['artifacts']}/version.txt") == content
    assert ("version.txt is new or changed here; that does not run" in done.errors) == (
        version == "HEAD"
    )
    client = mlflow.MlflowClient(f"bucket+file://{tmp_path}/bucket/mlruns")
    assert "uncommitted" not in client.get_run(done.json["run_id"]).data.tags
    assert (toy.folder / "version.txt").read_text() == "third, not committed"


def test_nothing_is_left_on_the_machine(toy: Repository, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    kaggleops("run", "--bucket", tmp_path / "bucket", cwd=toy.folder, TMPDIR=str(temporary))
    assert [path for path in temporary.iterdir() if path.name.startswith("kaggleops")] == []
    assert not list((tmp_path / "home").rglob("meta.yaml"))


@ON_BOTH_SERVICES
def test_a_run_that_fails_is_a_failed_run_and_exit_code_1(toy: Repository, bucket: Bucket) -> None:
    done = kaggleops_here("run", "--bucket", bucket.uri, "--entry-point", "fail", cwd=toy.folder)
    assert done.code == 1
    assert "ended with an error" in done.error
    client = mlflow.MlflowClient(f"{bucket.uri}/mlruns")
    (run,) = client.search_runs([client.get_experiment_by_name("toy").experiment_id])
    assert run.info.status == "FAILED"
    assert run.info.run_id in done.error


def test_the_bucket_of_this_machine(toy: Repository, tmp_path: Path) -> None:
    (toy.folder / ".git/info/exclude").write_text("local.yaml")
    (toy.folder / "config").mkdir()
    (toy.folder / "config/local.yaml").write_text(f"bucket: {tmp_path / 'mine'}\n")
    done = kaggleops_here("run", "--json", cwd=toy.folder)
    assert done.json["artifacts"].startswith(f"file://{tmp_path}/mine/artifacts/")


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["--bucket", "azure://x"], 2, r"unsupported bucket scheme azure://"),
        ([], 2, "none is named"),
        (["--bucket", "{tmp}/b", "--version", "nonsense"], 2, "no commit 'nonsense'"),
        (["--bucket", "{tmp}/b", "--repository", "{tmp}"], 2, "not in a git repository"),
        (["--bucket", "{tmp}/b", "--entry-point", "nonsense"], 2, "nonsense"),
        (["--bucket", "{tmp}/b", "--entry-point", "needs"], 2, "beta must be given"),
        (["--bucket", "{tmp}/b", "--entry-point", "needs", "beta=1", "x=1"], 2, "does not take"),
        (["--bucket", "{tmp}/file"], 1, "is a file"),
    ],
)
def test_bad_input_is_one_clear_line(
    toy: Repository, tmp_path: Path, arguments: list[str], code: int, problem: str
) -> None:
    (tmp_path / "file").write_text("")
    filled = [argument.format(tmp=tmp_path) for argument in arguments]
    done = kaggleops_here("run", *filled, cwd=toy.folder)
    assert problem in done.error
    assert done.code == code


def test_a_commit_without_a_project_is_one_clear_line(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "bare")
    repository.write(train_py="print()")
    repository.commit("No MLproject")
    done = kaggleops_here("run", "--bucket", tmp_path / "b", cwd=repository.folder)
    assert "no MLproject file. `kaggleops init` writes one" in done.error
    assert done.code == 2
    for project, problem in {
        "": "its MLproject cannot be read (",
        ": : :": "its MLproject cannot be read (while parsing a block mapping",
        "entry_points: [main]": "its MLproject cannot be read (",
        "entry_points: {main: {parameters: [a]}}": "its MLproject cannot be read (",
        "entry_points: {main: {command: 'echo {nothing}'}}": "is no parameter ('nothing'). Declare",
        "entry_points: {main: {command: 5}}": "it has no command",
    }.items():
        repository.write(MLproject=project)
        repository.commit("Write it wrongly")
        done = kaggleops_here("run", "--bucket", tmp_path / "b", cwd=repository.folder)
        assert (done.code, problem in done.error) == (2, True), done.errors
    done = kaggleops_here("sweep", "x=1,2", "--bucket", tmp_path / "b", cwd=repository.folder)
    assert "it has no command" in done.error
    assert not (tmp_path / "b").exists()
    for project in "", "entry_points: {main: {parameters: [a]}}":
        repository.write(MLproject=project)
        done = kaggleops_here("init", "--yes", "--bucket", tmp_path / "b", cwd=repository.folder)
        assert done.code == 0, done.errors


@pytest.mark.parametrize("trouble", ["missing", "no writing", "no reading"])
def test_a_bucket_that_cannot_be_used_is_one_clear_line(
    toy: Repository, gcs_server: GcsServer, trouble: str
) -> None:
    if trouble != "missing":
        gcs_server.create_bucket("our-bucket")
        gcs_server.deny("our-bucket", write=trouble == "no writing", read=trouble == "no reading")
    done = kaggleops_here("run", "--bucket", "gs://our-bucket", cwd=toy.folder)
    assert "gs://our-bucket" in done.error
    assert done.code == 1


def test_the_run_belongs_to_a_deleted_experiment(toy: Repository, tmp_path: Path) -> None:
    uri = f"bucket+file://{tmp_path}/bucket/mlruns"
    client = mlflow.MlflowClient(uri)
    client.delete_experiment(client.create_experiment("toy"))
    done = kaggleops_here("run", "--bucket", tmp_path / "bucket", cwd=toy.folder)
    assert "'toy'" in done.error
    assert "deleted" in done.error


def test_a_run_that_is_deleted_while_it_runs_is_one_clear_line(
    toy: Repository, tmp_path: Path
) -> None:
    project = "name: toy\nentry_points: {main: {command: python train.py}}\n"
    train = """
import os, mlflow
mlflow.log_metric("score", 0.7)
os.makedirs("results", exist_ok=True)
open("results/model.txt", "w").write("trained")
mlflow.MlflowClient().delete_run(mlflow.active_run().info.run_id)
mlflow.log_metric("score", 0.8)
"""
    toy.write(MLproject=project, train_py=train)
    toy.commit("Train a run that somebody deletes")
    done = kaggleops_here("run", "--bucket", tmp_path / "bucket", cwd=toy.folder)
    assert done.code == 1
    assert "it was deleted while it ran. Restored in the UI, run " in done.error
    run_id = done.error.partition("UI, run ")[2].split()[0]
    client = mlflow.MlflowClient(f"bucket+file://{tmp_path}/bucket/mlruns")
    before = client.get_run(run_id).to_dictionary()
    options = ("resume", run_id, "-b", "local", "--bucket", tmp_path / "bucket")
    refused = kaggleops_here(*options, cwd=toy.folder)
    assert refused.error.endswith("it was deleted. Restore it in the UI first.")
    assert client.get_run(run_id).to_dictionary() == before
    client.restore_run(run_id)
    assert client.get_run(run_id).data.metrics == {"score": 0.7}
    assert [each.path for each in client.list_artifacts(run_id, "results")] == ["results/model.txt"]


def test_json_is_all_there_is_on_stdout(toy: Repository, tmp_path: Path) -> None:
    done = kaggleops("run", "--bucket", tmp_path / "bucket", "--json", cwd=toy.folder)
    assert json.loads(done.output)["run_id"]
    assert "training" in done.errors


def _in_a_fork(do: Callable[[], object]) -> Any:
    """Do something in a child process and return what it comes to."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.write(writing, json.dumps(do()).encode())
        except BaseException:  # noqa: BLE001 - whatever it is, the test shows it
            traceback.print_exc()
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        result = told.read()
    os.waitpid(child, 0)
    return json.loads(result)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_user_without_a_name_can_run(toy: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that is started with `--user 4321`."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    commit = find_commit(toy.folder)

    def tag() -> object:
        os.setuid(4321)
        return tags_of(commit, "main")["mlflow.user"]

    assert _in_a_fork(tag) == "4321"


def test_the_training_is_told_whose_it_is(
    toy: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else MLflow and PyTorch ask for a name that there may not be."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    toy.write(MLproject="entry_points:\n  main:\n    command: 'echo $LOGNAME > $TOLD'\n")
    toy.commit("Train nothing")
    monkeypatch.setenv("TOLD", str(tmp_path / "told"))
    done = kaggleops_here("run", "--bucket", tmp_path / "b", cwd=toy.folder)
    assert done.code == 0, done.errors
    assert (tmp_path / "told").read_text().strip() == user_name()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("home", ["/", None])
def test_a_user_without_a_home_has_a_state_folder(
    monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "KAGGLEOPS_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)

    def look() -> object:
        os.environ.pop("HOME", None)
        os.environ.update({"HOME": home} if home else {})
        os.setuid(4321)
        return str(state_folder()), user_name()

    assert _in_a_fork(look) == [f"{tempfile.gettempdir()}/kaggleops-4321", "4321"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_user_without_a_home_is_given_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow asks for it as it is imported."""
    monkeypatch.delenv("KAGGLEOPS_HOME", raising=False)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        monkeypatch.setattr(tempfile, "tempdir", folder)

        def look() -> object:
            os.environ.pop("HOME", None)
            os.setuid(4321)
            provide_home()
            return str(Path.home()), Path.home().stat().st_mode & 0o777

        assert _in_a_fork(look) == [f"{folder}/kaggleops-4321", 0o700]
