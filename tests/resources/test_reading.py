"""`kaggleops.resources(NAME)[FILE]`: what is locked, no look-alike, under one name everywhere."""

import io
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pandas as pd
import pytest

import kaggleops
from kaggleops.bucket import Bucket, open_bucket
from kaggleops.bucket.location import tracking_uri
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.resources.sync import fetch, lock
from tests import command
from tests.fakes.gcs_server import GcsServer
from tests.fakes.git_server import Repository

from .conftest import Project, fill

TABLE = pd.DataFrame({"id": [1, 2], "text": ["null", "é"]})


def parquet() -> bytes:
    content = io.BytesIO()
    TABLE.to_parquet(content)
    return content.getvalue()


@pytest.fixture
def experiment(bucket: Bucket, project: Project) -> Project:
    """A locked resource of two tables, none of which is on this disk yet."""
    bucket.write("exp1/oof.parquet", parquet(), expected="0")
    fill(bucket, exp1__a_csv=b"x,y\n1,2\n")
    lock(project.declare(experiment1={"source": f"{bucket.uri}/exp1"}))
    return project


def test_what_is_read_is_what_is_locked(bucket: Bucket, experiment: Project) -> None:
    read = kaggleops.resources("experiment1")
    path = read["oof.parquet"]  # it comes by itself
    assert path == experiment.folder / "data/experiment1/oof.parquet"
    assert path.read_bytes() == parquet()
    assert not path.with_name("a.csv").exists()
    assert read.read_parquet("oof.parquet").equals(TABLE)
    assert read.read_csv("a.csv", usecols=["y"]).to_dict("list") == {"y": [2]}
    assert read.open("a.csv", "r").read() == "x,y\n1,2\n"
    assert sorted(path.name for path in read.folder.iterdir()) == ["a.csv", "oof.parquet"]
    path.write_bytes(parquet()[::-1])
    for again in (read, kaggleops.resources("experiment1")):
        with pytest.raises(KaggleOpsError, match=r"oof.parquet is not the file that is locked"):
            again["oof.parquet"]


def test_names_that_nothing_has(experiment: Project) -> None:
    with pytest.raises(UsageError, match=r"no such file. It has oof\.parquet"):
        kaggleops.resources("experiment1")["oof.parq"]
    with pytest.raises(UsageError, match=r"Did you mean experiment1\?"):
        kaggleops.resources("experiment2")
    with pytest.raises(AttributeError, match="no attribute 'ressources'"):
        kaggleops.ressources  # noqa: B018
    experiment.declare(experiment1={"source": "gs://b-1/elsewhere"})
    with pytest.raises(UsageError, match=r"manifest has changed since.*data lock experiment1"):
        kaggleops.resources("experiment1")
    experiment.lock.unlink()
    with pytest.raises(UsageError, match="it is not locked"):
        kaggleops.resources("experiment1")


def test_the_run_says_what_it_read(bucket: Bucket, experiment: Project) -> None:
    mlflow.set_tracking_uri(tracking_uri(bucket.uri))
    with mlflow.start_run() as run:
        read = kaggleops.resources("experiment1")
        read["a.csv"], read["a.csv"], read["oof.parquet"]
    (given,) = mlflow.get_run(run.info.run_id).inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("experiment1", read.version)
    assert json.loads(given.dataset.source) == {"uri": f"{bucket.uri}/exp1"}
    said = json.loads(given.dataset.profile)
    assert said["num_files"] == 2
    assert said["files"]["a.csv"][1:] == [8, json.loads(experiment.lock.read_text())[
        "experiment1"]["files"]["a.csv"]["checksum"]]  # fmt: skip
    if bucket.uri.startswith("gs://"):
        assert mlflow.data.get_source(given).uri == f"{bucket.uri}/exp1"


def inputs_of(run_id: str) -> list[str]:
    return [each.dataset.name for each in mlflow.get_run(run_id).inputs.dataset_inputs]


def test_what_is_read_before_a_run_is_on_its_page(bucket: Bucket, experiment: Project) -> None:
    mlflow.set_tracking_uri(tracking_uri(bucket.uri))
    with mlflow.start_run() as before:
        pass
    read = kaggleops.resources("experiment1")
    read["a.csv"], read["oof.parquet"]
    with mlflow.start_run() as first:
        read["a.csv"]
    with mlflow.start_run() as second:
        pass
    with mlflow.start_run(run_id=before.info.run_id):
        pass
    for run in (first, second, before):
        assert inputs_of(run.info.run_id) == ["experiment1"]


def test_what_is_read_inside_a_run_is_only_on_its_page(bucket: Bucket, experiment: Project) -> None:
    mlflow.set_tracking_uri(tracking_uri(bucket.uri))
    with mlflow.start_run() as first:
        kaggleops.resources("experiment1")["a.csv"]
    with mlflow.start_run() as second:
        pass
    assert inputs_of(first.info.run_id) == ["experiment1"]
    assert inputs_of(second.info.run_id) == []


def test_in_a_projects_process_it_is_on_the_page_of_its_run(
    bucket: Bucket, experiment: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow.set_tracking_uri(tracking_uri(bucket.uri))
    run = mlflow.MlflowClient().create_run("0")
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    kaggleops.resources("experiment1")["a.csv"]
    assert inputs_of(run.info.run_id) == ["experiment1"]
    with mlflow.start_run():
        kaggleops.resources("experiment1")["a.csv"]
    assert inputs_of(run.info.run_id) == ["experiment1"]
    with mlflow.start_run() as other:  # what was read for that run was not for this one
        pass
    assert inputs_of(other.info.run_id) == []


def test_another_store_is_told_with_the_next_read(
    bucket: Bucket, experiment: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    source = f"{bucket.uri}/exp1"
    lock(experiment.declare(experiment1={"source": source}, other={"source": source}))
    kaggleops.resources("experiment1")["a.csv"]
    with mlflow.start_run() as run:
        assert inputs_of(run.info.run_id) == []
        kaggleops.resources("other")["a.csv"]
        assert sorted(inputs_of(run.info.run_id)) == ["experiment1", "other"]


def on_kaggle(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KAGGLEOPS_ROOT", str(root))
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    (root / "kaggle/input").mkdir(parents=True)
    return root / "kaggle/input"


@pytest.mark.parametrize("place", ["tweets", "datasets/ada/tweets", "competitions/experiment1"])
def test_on_kaggle_what_is_mounted_is_read_where_it_is(
    place: str, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "b").mkdir()
    other = open_bucket(str(tmp_path / "b"))
    fill(other, x__deep__a_csv=b"a\n1\n")
    manifest = project.declare(experiment1={"source": f"{other.uri}/x"})
    lock(manifest)
    text = project.lock.read_text().replace(f"{other.uri}/x", "kaggle://datasets/ada/tweets")
    project.lock.write_text(text)
    manifest = project.declare(experiment1={"source": "kaggle://datasets/ada/tweets"})
    inputs = on_kaggle(tmp_path / "root", monkeypatch)
    (inputs / "another/tweets").mkdir(parents=True)  # called so, and without the file
    (inputs / place / "deep").mkdir(parents=True)
    (inputs / place / "deep/a.csv").write_bytes(b"a\n1\n")
    assert kaggleops.resources("experiment1")["deep/a.csv"] == inputs / place / "deep/a.csv"
    done = fetch(manifest)
    assert (done.steps, done.mounted) == ([], {"experiment1": inputs / place})
    (inputs / place / "deep/a.csv").write_bytes(b"a\n2\n")
    with pytest.raises(KaggleOpsError, match="is not the file that is locked"):
        kaggleops.resources("experiment1")["deep/a.csv"]


def test_on_other_platforms(
    bucket: Bucket, experiment: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = on_kaggle(tmp_path / "root", monkeypatch)
    path = kaggleops.resources("experiment1")["a.csv"]  # not mounted: fetched
    assert path == experiment.folder / "data/experiment1/a.csv"

    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE")
    (tmp_path / "root/kaggle/working").mkdir()  # Kaggle's image
    assert kaggleops.resources("experiment1")["a.csv"] == inputs / "experiment1/a.csv"
    # Read-only, as -b docker mounts it: what is fetched arrives by another way to the same folder.
    inputs.rename(arrive := inputs.with_name("input-rw"))
    shutil.rmtree(arrive / "experiment1")
    with pytest.raises(FileNotFoundError):
        kaggleops.resources("experiment1")["a.csv"].read_text()
    inputs.symlink_to(arrive)
    assert kaggleops.resources("experiment1")["a.csv"] == inputs / "experiment1/a.csv"
    assert kaggleops.resources("experiment1").folder == inputs / "experiment1"
    assert (arrive / "experiment1/a.csv").read_bytes() == b"x,y\n1,2\n"

    shutil.rmtree(tmp_path / "root/kaggle")
    monkeypatch.setenv("RUNPOD_POD_ID", "abc")
    volume = tmp_path / "root/workspace/kaggleops/data/experiment1/a.csv"
    assert kaggleops.resources("experiment1")["a.csv"] == volume
    shutil.rmtree(experiment.folder / "data")
    for key in ("exp1/a.csv", "exp1/oof.parquet"):
        bucket.delete(key)
    # The next pod has it already.
    assert kaggleops.resources("experiment1")["a.csv"].read_bytes() == b"x,y\n1,2\n"


TRAIN = """
import kaggleops, mlflow
with mlflow.start_run():
    table = kaggleops.resources("tweets").read_csv()
    mlflow.log_metric("rows", len(table))
"""


@pytest.mark.parametrize("way", ["in a script", "as a value", "declared anew", "of no interest"])
def test_a_commit_that_reads_what_is_not_locked_is_refused_before_there_is_a_run(
    way: str, tmp_path: Path
) -> None:
    repository = Repository(tmp_path / "code")
    script = "kaggleops.resources(\n    'tweets').folder" if way == "in a script" else ""
    parameters = "parameters: {data: {type: string, default: none}}\n    command: 'echo {data}'"
    mlproject = f"name: t\nentry_points:\n  main:\n    {parameters}\n"
    repository.write(MLproject=mlproject, train_py=script)
    project = Project(repository.folder)
    manifest = project.declare(tweets={"source": f"bucket+file://{tmp_path}/w"})
    (tmp_path / "w").mkdir()
    (tmp_path / "w/a.csv").touch()
    if way == "declared anew":
        lock(manifest)
        project.declare(tweets={"source": f"bucket+file://{tmp_path}/v"})
    repository.commit("Train")
    place = ("--bucket", tmp_path / "bucket")
    given = ("data=tweets",) if way in ("as a value", "declared anew") else ()
    for backend in ((), ("-b", "local")):
        done = command.kaggleops_here("run", *backend, *place, *given, cwd=repository.folder)
        if way == "of no interest":
            assert done.code == 0, done.errors
            return
        assert "it reads tweets, and its resources.lock does not say which" in done.error
        assert "kaggleops data lock tweets, and commit config/data/resources.lock." in done.error
    assert not list((tmp_path / "bucket").glob("mlruns/*/*"))


def test_a_run_reads_the_data_of_its_repository(gcs_server: GcsServer, tmp_path: Path) -> None:
    gcs_server.create_bucket("our-bucket")
    gcs_server.put("our-bucket", "words/a.csv", b"a\n1\n2\n")
    repository = Repository(tmp_path / "code")
    command_line = 'command: "python train.py"'
    repository.write(
        MLproject=f"name: t\nentry_points:\n  main:\n    {command_line}\n", train_py=TRAIN
    )
    project = Project(repository.folder)
    manifest = project.declare(tweets={"source": "gs://our-bucket/words"})
    (repository.folder / ".gitignore").write_text("/data/\n")
    lock(manifest)
    repository.commit("Train")
    fetch(manifest)
    gcs_server.reset_counts()
    done = command.kaggleops("run", "--bucket", "gs://our-bucket", "--json", cwd=repository.folder)
    assert done.code == 0, done.errors
    assert done.json["metrics"] == {"rows": 2}
    assert not any(each.key == "words/a.csv" for each in gcs_server.requests)


_watching: list[Counter[str]] = []


def _watch(event: str, args: tuple[object, ...]) -> None:
    if _watching and event in ("open", "socket.connect"):
        what = f"{Path(str(args[0])).suffix} {args[1]}" if event == "open" else event
        _watching[-1][what] += 1


@contextmanager
def watched() -> Iterator[Counter[str]]:
    """Count what this process opens, by suffix and mode, its connections, and its own calls."""
    if not _watching:
        sys.addaudithook(_watch)  # which stays as long as the process
    seen: Counter[str] = Counter()

    def count(frame: object, event: str, arg: object) -> None:
        seen["calls"] += event.endswith("call")

    _watching.append(seen)
    sys.setprofile(count)
    try:
        yield seen
    finally:
        sys.setprofile(None)
        _watching.append(Counter())


def test_files_that_are_read_one_by_one_cost_one_by_one(
    gcs_server: GcsServer, project: Project
) -> None:
    gcs_server.create_bucket("b-1")
    seen = {}
    for count in (25, 100):
        for number in range(count):
            gcs_server.put("b-1", f"{count}/{number}", b"x" * number)
        lock(project.declare(many={"source": f"gs://b-1/{count}", "destination": f"d{count}"}))
        read = kaggleops.resources("many")
        gcs_server.reset_counts()
        with watched() as seen[count]:
            for name in read.files:
                assert read[name].stat().st_size == int(name)
        assert (gcs_server.count("A"), gcs_server.count("B")) == (0, count)
        assert seen[count][".lock r"] == 0  # neither the lock
        assert seen[count][".json r"] == 0  # nor the record of this disk is read again
        assert seen[count]["socket.connect"] <= 2
        gcs_server.reset_counts()
        for name in read.files:
            assert read[name].stat().st_size == int(name)
        assert gcs_server.requests == []
    assert seen[100]["calls"] < 5 * seen[25]["calls"]
