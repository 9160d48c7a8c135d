"""notebooks/run.ipynb, the file itself, executed where each platform would execute it."""

import ast
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from copy import deepcopy
from pathlib import Path

import mlflow
import nbformat
import pytest

from kaggleops.bucket import open_bucket
from kaggleops.git.checkouts import bundle, send
from kaggleops.git.commits import find_commit
from kaggleops.launch.legs import legs_of
from kaggleops.notebook import Notebook
from kaggleops.tags import PARENT, UNCOMMITTED
from notebooks import addresses
from tests import secrets_of
from tests.canaries import found_below, found_in_bucket, marks_in
from tests.command import kaggleops, kaggleops_here
from tests.fakes import platforms
from tests.fakes.gcs_server import GcsServer
from tests.fakes.s3_server import S3Server

from .execution import NOTEBOOKS, Papermill, execute, joined, parametrised, pictures, until
from .world import World, world

CANARY = secrets_of.AUTHORIZED_USER  # a service account's goes through tests/backends
COMMIT = "mlflow.source.git.commit"


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("world")) as made:
        made.server.create_bucket("our-bucket")
        made.server.create_bucket("forbidden")
        made.server.deny("forbidden", read=True, write=True)
        yield made


@pytest.fixture(autouse=True)
def leads_there(outside: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in outside.variables.items():
        monkeypatch.setenv(name, value)


def assert_canary_only_in(
    stores: set[str],
    folder: Path,
    outside: World,
    said: Iterable[str],
    server: GcsServer | S3Server | None = None,
) -> None:
    """The marked key is in the platform's own store and in the private file made of it alone.

    Args:
        stores: the names of these files.
        folder: everything that the platform's disk holds: notebooks, logs, outputs, clones.
        outside: where its bucket lies.
        said: what it showed, and the command lines of its processes.
        server: what has the bucket, if not Cloud Storage.
    """
    assert marks_in("\n".join(said)) == set()
    holding = [Path(name) for name in found_below(folder)]
    assert {file.name for file in holding} == stores
    for file in holding:
        assert not {"working", "content", "workspace"} & set(file.relative_to(folder).parts)
    assert found_in_bucket(server or outside.server, "our-bucket") == {}
    # The objects of a bundle are compressed one by one.
    assert marks_in(outside.repository.git("log", "--patch", "main")) == set()


def runs(outside: World, experiment: str) -> list[mlflow.entities.Run]:
    client = outside.client("our-bucket")
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id], order_by=["start_time ASC"]))


def test_on_a_plain_machine_run_twice_and_called_wrongly(outside: World, tmp_path: Path) -> None:
    good = {
        "repository": outside.address,
        "version": "main",
        "bucket": "gs://our-bucket",
        "experiment": "plain",
        "overrides": "steps=4 'note=two words'",
    }
    wrong = [
        ("train", "couldn't find remote ref nonsense", {"version": "nonsense"}),
        ("train", "Check the address", {"repository": "git://127.0.0.1:9/none.git"}),
        ("train", "No closing quotation", {"overrides": "'open"}),
        ("train", "0000' not found", {"run_id": "0" * 32}),
        ("machine", "gs://not-there", {"bucket": "gs://not-there"}),
        ("machine", "gs://forbidden", {"bucket": "gs://forbidden"}),
        ("machine", "Fill in `bucket`", {"bucket": ""}),
    ]
    notebooks = [parametrised("run.ipynb", **good), parametrised("run.ipynb", **good)]
    notebooks += [until(cell, parametrised("run.ipynb", **good | each)) for cell, _, each in wrong]
    whole = joined(*notebooks)
    environment = platforms.plain(tmp_path, **outside.variables)
    shown = execute(whole, tmp_path, environment, go_on=True)
    cells = sum(cell.cell_type == "code" for cell in notebooks[0].cells)

    first = "".join(shown[:cells])
    assert "Machine  this machine" in first
    assert "Sign-in  none needed" in first
    assert f"Commit   {outside.sha}  Train a toy" in first
    assert "training from step 0" in first  # what the child process printed
    assert first.count("step 3:") == 1  # a bar that redraws itself is one line
    assert "step 3: 100%" in first
    assert "0.7500" in first
    assert "'plain'" in first
    assert first.count(outside.sha[:10]) == 2  # where it says what it runs, and in the table
    assert pictures(whole) == 2

    found = runs(outside, "plain")
    assert [run.info.status for run in found] == ["FINISHED"] * 2
    tags = found[0].data.tags
    assert tags["mlflow.source.git.commit"] == outside.sha
    assert tags["mlflow.source.git.repoURL"] == outside.address
    assert tags["git_branch"] == "main"
    assert (tags["backend"], tags["accelerator"]) == ("local", "none")
    assert found[0].data.params["steps"] == "4"

    errors = [text for text in shown if "error:" in text]
    assert len(errors) == len(wrong)
    for said, (_, problem, _) in zip(errors, wrong, strict=True):
        assert problem in said
        assert "Traceback" not in said


def test_two_platforms_at_once_on_one_experiment(outside: World, tmp_path: Path) -> None:
    kaggle, colab = tmp_path / "on kaggle", tmp_path / "on colab"
    filled = {"bucket": "gs://our-bucket", "experiment": "both"}
    environment = platforms.kaggle(kaggle, {"KAGGLEOPS_KEY": CANARY}, **outside.variables)
    working = kaggle / "kaggle/working"
    session = Papermill(
        "run.ipynb", working, environment, **filled, repository=outside.address, overrides="steps=9"
    )
    # Colab cannot clone it: it is private, and comes through the bucket.
    private = f"{outside.address}-that-is-private"
    send(find_commit(outside.repository.folder), open_bucket("gs://our-bucket"))
    environment = platforms.colab(colab, key=CANARY, **outside.variables)
    notebook = parametrised("run.ipynb", **filled, repository=private, version=outside.sha)
    shown = "".join(execute(notebook, colab / "content", environment))
    assert session.wait() == 0, session.log
    assert "Machine  Kaggle" in session.log
    assert "session 12 h" in session.log
    assert "Sign-in  the Kaggle secret KAGGLEOPS_KEY" in session.log
    # papermill itself, which is Kaggle's, and neither the kernel nor the training.
    assert all("papermill" in line for line in (kaggle / "hooked").read_text().splitlines())
    assert "training from step 0" in session.log
    assert "Machine  Colab" in shown
    assert "Sign-in  Colab's sign-in" in shown

    both = {run.data.tags["backend"]: run for run in runs(outside, "both")}
    assert both.keys() == {"kaggle", "colab"}
    assert {run.info.status for run in both.values()} == {"FINISHED"}
    assert len({run.info.experiment_id for run in both.values()}) == 1
    tags = both["colab"].data.tags
    assert tags["mlflow.source.git.repoURL"] == private
    assert tags["mlflow.source.git.commit"] == outside.sha

    said = (shown, session.log, nbformat.writes(notebook))
    stores = {"secrets.json", "colab-key.json", "application_default_credentials.json"}
    assert_canary_only_in({*stores, "kaggleops-key.json"}, tmp_path, outside, said)


def test_two_platforms_at_once_on_a_bucket_of_another_service(
    outside: World, s3_server: S3Server, tmp_path: Path
) -> None:
    kaggle, colab = tmp_path / "on kaggle", tmp_path / "on colab"
    s3_server.create_bucket("our-bucket")
    s3_server.add_key(secrets_of.S3_KEY_ID, secrets_of.S3_SECRET, "our-bucket", "runs/")
    bucket = s3_server.address("our-bucket", "runs")
    filled = {"bucket": bucket, "experiment": "both", "repository": outside.address}
    secret = {"KAGGLEOPS_KEY": secrets_of.S3_KEY}
    working = kaggle / "kaggle/working"
    session = Papermill("run.ipynb", working, platforms.kaggle(kaggle, secret), **filled)
    notebook = parametrised("run.ipynb", **filled)
    environment = platforms.colab(colab, secrets=secret)
    shown = "".join(execute(notebook, colab / "content", environment))
    assert session.wait() == 0, session.log
    assert "Sign-in  the Kaggle secret KAGGLEOPS_KEY" in session.log
    assert "Sign-in  the Colab secret KAGGLEOPS_KEY" in shown
    assert bucket in shown
    said = (shown, session.log, nbformat.writes(notebook))
    stores = {"secrets.json", "kaggleops-key.json"}
    assert_canary_only_in(stores, tmp_path, outside, said, s3_server)
    kept = [key for key in s3_server.objects("our-bucket") if "/artifacts/" in key]
    assert sorted(key.rpartition("/")[2] for key in kept) == ["note.txt"] * 2 + ["output.txt"] * 2


def test_a_failed_training_fails_the_notebook_after_all_is_sent(
    outside: World, tmp_path: Path
) -> None:
    environment = platforms.kaggle(tmp_path, **outside.variables)
    mounted = tmp_path / "kaggle/input/datasets/ada/kaggleops-credentials"
    mounted.mkdir(parents=True)
    (mounted / "kaggleops-key.json").write_text(CANARY)
    session = Papermill(
        "run.ipynb",
        tmp_path / "kaggle/working",
        environment,
        repository=outside.address,
        bucket="gs://our-bucket",
        experiment="failing",
        overrides="steps=-1",
    )
    assert session.wait() != 0
    assert "the loss is not a number" in session.log
    assert "ended with an error" in session.log
    assert f"Sign-in  the credentials dataset, {mounted}" in session.log
    assert_canary_only_in({"kaggleops-key.json"}, tmp_path, outside, [session.log])
    (run,) = runs(outside, "failing")
    assert run.info.status == "FAILED"
    assert run.data.metrics["loss"] == 9.0


def test_a_session_killed_on_kaggle_goes_on_at_runpod(outside: World, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    os.mkfifo(f"{fifo}.never")
    kaggle, runpod = tmp_path / "first", tmp_path / "second"
    environment = platforms.kaggle(kaggle, {"KAGGLEOPS_KEY": CANARY}, **outside.variables)
    filled = {"repository": outside.address, "bucket": "gs://our-bucket", "experiment": "moving"}
    session = Papermill(
        "run.ipynb", kaggle / "kaggle/working", environment, **filled, overrides=f"wait={fifo}"
    )
    fifo.read_text()  # returns when the training has sent what it logged
    command_lines = session.command_lines
    session.kill()
    assert any("train.py" in line for line in command_lines)
    assert_canary_only_in({"secrets.json", "kaggleops-key.json"}, kaggle, outside, command_lines)
    (run,) = runs(outside, "moving")
    assert run.info.status == "RUNNING"

    # Meanwhile somebody pushed; the run stays with its commit.
    outside.repository.write(README="something else")
    pushed = outside.repository.commit("Something else")
    notebook = parametrised("run.ipynb", **filled, run_id=run.info.run_id)
    environment = platforms.runpod(runpod, key=CANARY, **outside.variables)
    shown = "".join(execute(notebook, runpod / "workspace", environment))
    assert "Machine  RunPod" in shown
    assert "Sign-in  the RunPod secret KAGGLEOPS_KEY" in shown
    assert_canary_only_in({"kaggleops-key.json"}, runpod, outside, [shown])
    assert "training from step 3" in shown
    (run,) = runs(outside, "moving")
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.source.git.commit"] != pushed
    assert run.data.tags["backend"] == "runpod"
    points = outside.client("our-bucket").get_metric_history(run.info.run_id, "loss")
    assert [point.step for point in points] == [0, 1, 2, 3, 4]


def test_a_session_that_ends_in_time_goes_on_elsewhere(outside: World, tmp_path: Path) -> None:
    kaggle, colab = tmp_path / "first", tmp_path / "second"
    filled = {"repository": outside.address, "bucket": "gs://our-bucket", "experiment": "legs"}
    notebook = parametrised("run.ipynb", **filled, session_hours="0.000001")
    environment = platforms.kaggle(kaggle, {"KAGGLEOPS_KEY": CANARY}, **outside.variables)
    shown = "".join(execute(notebook, kaggle / "kaggle/working", environment))
    (run,) = runs(outside, "legs")
    assert run.info.status == "SCHEDULED"
    told = run.data.tags["to_be_continued"]
    assert told.endswith("at step 2")
    assert f"To be continued {told}" in shown
    assert f"kaggleops resume {run.info.run_id}" in shown
    done = kaggleops_here("status", run.info.run_id, "--bucket", "gs://our-bucket")
    assert "to be continued" in " ".join(done.output.split()), done.output

    notebook = parametrised("run.ipynb", **filled, run_id=run.info.run_id)
    environment = platforms.colab(colab, key=CANARY, **outside.variables)
    shown = "".join(execute(notebook, colab / "content", environment))
    assert "training from step 3" in shown
    (run,) = runs(outside, "legs")
    assert run.info.status == "FINISHED"
    assert [(leg.backend, leg.how) for leg in legs_of(run.data.tags)] == [
        ("kaggle", "continued"),
        ("colab", "finished"),
    ]
    points = outside.client("our-bucket").get_metric_history(run.info.run_id, "loss")
    assert [point.step for point in points] == [0, 1, 2, 3, 4]


def test_without_internet_on_kaggle(outside: World, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
        environment = platforms.kaggle(tmp_path, STORAGE_EMULATOR_HOST=nobody)
        working = tmp_path / "kaggle/working"
        filled = {"repository": outside.address, "bucket": "gs://our-bucket"}
        notebook = parametrised("run.ipynb", **filled, experiment="offline")
        without_code = until("machine", deepcopy(notebook))
        file = bundle(find_commit(outside.repository.folder), tmp_path / f"{outside.sha}.bundle")
        mount = tmp_path / "kaggle/input/datasets/ada/my-code"
        mount.mkdir(parents=True)
        attach = f"import shutil; shutil.move({str(file)!r}, {str(mount)!r})"
        without_code.cells.append(nbformat.v4.new_code_cell(attach))
        shown = execute(joined(without_code, notebook), working, environment, go_on=True)
    said = "".join(shown)
    assert "error: reaching gs://our-bucket: this machine has no internet. Switch it on" in said
    assert "the runs stay in this notebook's output" in said

    output = tmp_path / "downloaded"
    shutil.copytree(working, output)
    done = kaggleops("import", output, "--bucket", "gs://our-bucket", "--json", cwd=tmp_path)
    assert done.code == 0, done.errors
    assert done.json["artifacts"] == 2  # with what it printed
    (run,) = runs(outside, "offline")
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.source.git.commit"] == outside.sha
    assert run.data.metrics["score"] == 0.75


def test_compare_reads_the_bucket_into_pandas(outside: World, tmp_path: Path) -> None:
    notebook = parametrised("compare.ipynb", bucket="gs://our-bucket")
    wrong = parametrised("compare.ipynb", bucket="gs://our-bucket", experiment="nobody's")
    lacking = parametrised("compare.ipynb", bucket="gs://our-bucket", metric="jaccard")
    environment = platforms.plain(tmp_path, **outside.variables)
    client = outside.client("our-bucket")
    run = client.create_run(client.create_experiment("compared"), tags={COMMIT: outside.sha})
    for step in range(3):
        client.log_metric(run.info.run_id, "loss", 1.0 - step / 4, step=step)
    client.log_metric(run.info.run_id, "score", 0.75)
    client.set_terminated(run.info.run_id)
    other = client.create_run(run.info.experiment_id, tags={COMMIT: "f" * 40})
    client.log_metric(other.info.run_id, "score", 0.5)
    client.set_terminated(other.info.run_id)
    above = {UNCOMMITTED: "see uncommitted.patch"}
    for _ in range(3):  # of no commit, as those below it
        patched = client.create_run(run.info.experiment_id, tags={COMMIT: "e" * 40, **above})
        client.log_metric(patched.info.run_id, "score", 0.9)
        client.set_terminated(patched.info.run_id)
        above = {PARENT: patched.info.run_id}
    whole = joined(notebook, until("read", lacking), until("read", wrong))
    shown = execute(whole, tmp_path, environment, go_on=True)
    assert 'error: reading gs://our-bucket: experiment "nobody\'s" has no runs' in shown[-1]
    line = "error: comparing by 'jaccard': no run has it; there are: loss, score. Name one of them"
    assert any(line in each for each in shown)
    assert pictures(whole) == 1
    tables = [
        output["data"]["text/plain"]
        for cell in whole.cells
        for output in cell.get("outputs", [])
        if "text/html" in output.get("data", {})
    ]
    assert outside.sha[:10] in tables[1]
    assert "0.75" in tables[1]
    assert "eeeeeeeeee" not in tables[1]
    assert tables[2].startswith(f"### {outside.sha[:10]} and ffffffffff")


# -- the file ------------------------------------------------------------------------------------


def source_of(cell_id: str, name: str = "run.ipynb") -> str:
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    return str(next(cell.source for cell in notebook.cells if cell.id == cell_id))


def test_both_notebooks_install_in_the_same_way() -> None:
    assert source_of("install") == source_of("install", "compare.ipynb")


def test_a_full_disk_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/proc")  # a file system that never has space, on any Linux
    with pytest.raises(SystemExit, match=r"^error: checking the disk: 0\.0 GB are free in /proc"):
        Notebook("gs://our-bucket")


def test_an_old_python_is_one_clear_line() -> None:
    cell = source_of("install")
    ast.parse(cell, feature_version=(3, 7))  # else it would be a syntax error there
    script = f"import sys; sys.version_info = (3, 10, 4); exec({cell!r})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: this is Python ")
    assert "needs 3.11" in done.stderr


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
def test_addresses_in_notebooks_are_the_projects_own(path: Path) -> None:
    """`python notebooks/addresses.py` writes them after the address in pyproject.toml changed."""
    assert addresses.updated(path.read_text()) == path.read_text()
    moved = addresses.updated(path.read_text(), "https://github.com/ada/mine")
    assert "colab.research.google.com/github/ada/mine/blob/main/notebooks/" in moved
    assert "kaggle.com/kernels/welcome?src=https://github.com/ada/mine/blob/" in moved


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_in_git_have_no_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    # "No kernel name found" is how Kaggle answers a notebook without one.
    assert notebook.metadata.kernelspec.name == "python3"
