"""One story on every kind of bucket: afterwards all of them hold and say the same.

A commit is run, its code edited; the second run breaks off, and another machine goes on with it.
Its model is registered, runs of earlier days are imported, one of them is deleted for good.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from kaggleops.bucket import Bucket, open_bucket
from kaggleops.tracking.session import close_all
from tests.command import kaggleops, kaggleops_here
from tests.fakes.gcs_server import GcsServer
from tests.fakes.git_server import Repository
from tests.fakes.s3_server import S3Server
from tests.tracking.processes import train

MLPROJECT = """
name: spans
entry_points:
  main:
    parameters:
      lr: {type: float, default: 0.1}
      until: {type: int, default: 4}
    command: "python train.py {lr} {until}"
"""

TRAIN = """
import sys
from pathlib import Path
import mlflow

lr, until = float(sys.argv[1]), int(sys.argv[2])
with mlflow.start_run() as run:
    mlflow.set_tag("mlflow.runName", "WHICH")  # else MLflow makes one up
    known = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    for step in range(len(known), 4):
        if step == until:
            raise SystemExit("the machine is gone")
        mlflow.log_metric("loss", 1 / (1 + step) + lr, step=step)
        mlflow.log_text(f"{lr} {step}", f"checkpoints/{step}.txt")
    for fold in range(2):
        with mlflow.start_run(run_name=f"WHICH, fold {fold}", nested=True):
            mlflow.log_metrics({"score": SCORE + fold / 100, "odd": float("nan")}, step=fold)
            mlflow.log_param("fold", fold)
    mlflow.log_metric("score", SCORE)
    Path("weights.bin").write_bytes(bytes(range(256)) * 80_000)
    mlflow.log_artifact("weights.bin", "über all")
    mlflow.pyfunc.log_model(name="model", python_model="model.py", pip_requirements=["mlflow"])
"""

MODEL = """
import mlflow

class Double(mlflow.pyfunc.PythonModel):
    def predict(self, model_input: list[int]) -> list[int]:
        return [2 * each for each in model_input]

mlflow.models.set_model(Double())
"""

RESUME = """
import runpy
sys.argv = ["train.py", "0.2", "4"]
runpy.run_path("train.py", run_name="__main__")
"""

DIFFERS = re.compile(
    r"\b1[6-9]\d{11}\b"  # ms since the epoch
    r"|\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d[.\d]*"
    r'|(?<="silent_seconds": )\d+|(?<="seconds": )\d+'
    rf"|{re.escape(tempfile.gettempdir())}/kaggleops-\w+"
    r"| · \[artifacts\]\(http[^)]*\)"  # a service's page, where it has one
)
"""What is another time different even on the same bucket, or is the service's own."""

PLAIN = """
import os, sys, time
import mlflow

mlflow.set_experiment("plain")
with mlflow.start_run() as run:
    begun = len(mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss"))
    mlflow.log_param("lr", 0.1)
    for step in range(begun, begun + 50):
        mlflow.log_metric("loss", 1 / (1 + step), step=step)
    mlflow.log_text(f"{begun}", f"from {begun}.txt")
    print("logged", flush=True)
    if begun == 0:
        time.sleep(600)
"""


@pytest.mark.parametrize(
    "bucket", ["gcs", "s3", pytest.param("directory", marks=pytest.mark.slow)], indirect=True
)
@pytest.mark.usefixtures("cold_python")  # what finds the bucket is the installation, not a test
def test_plain_mlflow_that_is_killed_sent_and_resumed(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{bucket.uri}/mlruns"
    (tmp_path / "train.py").write_text(PLAIN)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("KAGGLEOPS_FLUSH_SECONDS", "2000")  # what is logged is not yet sent
    training = subprocess.Popen([sys.executable, "train.py"], stdout=subprocess.PIPE, text=True)
    with training:
        assert training.stdout is not None
        assert training.stdout.readline() == "logged\n"
        training.kill()
    client = MlflowClient(uri)
    home = client.get_experiment_by_name("plain").experiment_id
    (run,) = client.search_runs([home])
    assert (run.info.status, run.data.metrics) == ("RUNNING", {})

    sent = kaggleops_here("push", "--bucket", bucket.uri)
    assert sent.code == 0, sent.errors
    (run,) = client.search_runs([home])
    assert (run.data.metrics, run.data.params) == ({"loss": 0.02}, {"lr": "0.1"})
    environment = {"MLFLOW_RUN_ID": run.info.run_id, "KAGGLEOPS_HOME": f"{tmp_path}/elsewhere"}
    subprocess.run(
        [sys.executable, "train.py"], env={**os.environ, **environment}, check=True, timeout=280
    )
    run = client.get_run(run.info.run_id)
    assert run.info.status == "FINISHED"
    points = client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [
        (step, 1 / (1 + step)) for step in range(100)
    ]
    assert [each.path for each in client.list_artifacts(run.info.run_id)] == [
        "from 0.txt",
        "from 50.txt",
    ]


@pytest.mark.timeout(900)
def test_a_story_is_the_same_on_every_kind_of_bucket(
    gcs_server: GcsServer, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_DATE", "2026-11-01T12:00:00Z")
    for server in (gcs_server, s3_server):
        server.create_bucket("our-bucket")
    places = {
        "gs": "gs://our-bucket/some/prefix",
        "s3": s3_server.address("our-bucket", "some/prefix"),
        "folder": f"{tmp_path}/a bucket",
    }
    told = {}
    for kind, place in places.items():
        folder = tmp_path / kind
        monkeypatch.setenv("KAGGLEOPS_HOME", f"{folder}/home")
        story = Story(place, folder)
        story.happen()
        told[kind] = story.told()
    expected = told.pop("folder")
    assert expected["loss"] == [1.2, 0.7, 1 / 3 + 0.2, 0.45]
    assert expected["predicted"] == [2, 4]
    assert expected["ended"]["second"] == "FINISHED"
    for kind, each in told.items():
        for what, found in each.items():
            assert found == expected[what], f"{what} on {kind}"
    assert all(each.keys() == expected.keys() for each in told.values())


class Story:
    """What happens in a bucket.

    Args:
        place: its address.
        folder: where everything else lies.
    """

    def __init__(self, place: str, folder: Path) -> None:
        self.bucket: Bucket = open_bucket(place)
        self.uri = f"{self.bucket.uri}/mlruns"
        self.folder = folder
        self.code = Repository(folder / "code")
        self.code.git("remote", "add", "origin", "git@github.com:ada/spans.git")
        self.client = MlflowClient(self.uri, self.uri)

    def happen(self) -> None:
        """Play it."""
        first = self.commit("first", 0.6)
        assert self.run("lr=0.1").code == 0
        second = self.commit("second", 0.7)
        broken_off = self.run("lr=0.2", "until=2")
        assert broken_off.code == 1
        assert "ended with an error" in broken_off.error
        self.go_on_elsewhere(self.runs()["second"].info.run_id)
        self.register(self.runs()["second"].info.run_id)
        self.import_and_forget()
        self.commits = first, second

    def commit(self, which: str, score: float) -> str:
        """Commit the training with another name and score."""
        script = TRAIN.replace("WHICH", which).replace("SCORE", str(score))
        self.code.write(MLproject=MLPROJECT, train_py=script, model_py=MODEL)
        return self.code.commit(f"The {which}")

    def run(self, *arguments: str) -> Any:
        """Run the commit that is checked out."""
        return kaggleops("run", *arguments, "--bucket", self.bucket.uri, cwd=self.code.folder)

    def go_on_elsewhere(self, run_id: str) -> None:
        """Go on with a run in a process that shares nothing with the one before but the bucket."""
        elsewhere = self.folder / "elsewhere"
        elsewhere.mkdir()
        for name in ("train.py", "model.py"):
            (elsewhere / name).write_text(self.code.git("show", f"HEAD:{name}"))
        script = f"os.chdir({str(elsewhere)!r})\n{RESUME}"
        home = self.client.get_run(run_id).info.experiment_id
        variables = {"MLFLOW_RUN_ID": run_id, "MLFLOW_EXPERIMENT_ID": home}
        ended = train(script, self.uri, elsewhere / "home", **variables)
        assert ended.code == 0, ended.errors

    def register(self, run_id: str) -> None:
        """Register a run's model, and edit what people edit in the UI."""
        mlflow.set_tracking_uri(self.uri)
        mlflow.set_registry_uri(self.uri)
        mlflow.register_model(f"runs:/{run_id}/model", "spans", tags={"size": "small"})
        self.client.set_registered_model_alias("spans", "best", "1")
        self.client.update_model_version("spans", "1", "The first that is good")
        self.client.set_tag(run_id, "mlflow.note.content", "Better than before.")
        self.client.delete_tag(run_id, "backend")

    def import_and_forget(self) -> None:
        """Take in two runs of earlier days, and delete one of them for good."""
        earlier = self.folder / "earlier"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
            client = MlflowClient(earlier.as_uri())
            home = client.create_experiment("earlier days")
            for name in ("kept", "forgotten"):
                run_id = client.create_run(home, run_name=name).info.run_id
                client.log_param(run_id, "lr", "0.3")
                client.log_text(run_id, f"what {name} has left", "left/behind.txt")
                client.set_terminated(run_id)
        self.ask("import", earlier)
        forgotten = self.runs()["forgotten"].info.run_id
        self.ask("forget", forgotten, "--yes")

    # -- what is told of it -----------------------------------------------------------------------

    def ask(self, *command: object) -> Any:
        """Run a command here, and return its JSON."""
        done = kaggleops_here(*command, "--bucket", self.bucket.uri, "--json", cwd=self.code.folder)
        assert done.code == 0, done.errors
        return done.json

    def runs(self) -> dict[str, Any]:
        """Return the bucket's runs by their names."""
        homes = [each.experiment_id for each in self.client.search_experiments()]
        return {each.info.run_name: each for each in self.client.search_runs(homes)}

    def told(self) -> dict[str, Any]:
        """Return all that can be known of it, without times, ids and the bucket's address."""
        close_all()  # what this process has logged is in the bucket
        runs, names = self.runs(), self.names()
        loss = self.client.get_metric_history(runs["second"].info.run_id, "loss")
        exported = self.folder / "exported"
        self.ask("export", exported, "--artifacts")
        files = [path for path in exported.rglob("*") if path.is_file()]
        commands = {
            "status": ("status",),
            "leaderboard": ("leaderboard", "--experiment", "spans", "--metric", "score"),
            "compare": ("compare", *self.commits),
        }
        return {
            "loss": [point.value for point in loss],
            "ended": {name: run.info.status for name, run in runs.items()},
            "keys": sorted(self.plain(each.key, names) for each in self.bucket.list()),
            "files": {
                self.plain(str(path.relative_to(exported)), names): self.content(path, names)
                for path in files
            },
            **{
                name: self.plain(json.dumps(self.ask(*command)), names)
                for name, command in commands.items()
            },
            # Last: of a folder's model, which it loads where it is, MLflow changes a file.
            "predicted": mlflow.pyfunc.load_model("models:/spans@best").predict([1, 2]),
        }

    def names(self) -> dict[str, str]:
        """Return what each id stands for."""
        homes = {each.experiment_id: each.name for each in self.client.search_experiments()}
        models = self.client.search_logged_models(experiment_ids=list(homes))
        found = {run.info.run_id: name for name, run in self.runs().items()}
        of_models = {each.model_id: f"model of {found[each.source_run_id]}" for each in models}
        names = {**homes, **found, **of_models}
        return {known: f"<{name}>" for known, name in names.items() if known != "0"}

    def content(self, path: Path, names: dict[str, str]) -> str:
        """Return a file's content, that of a large one as its hash."""
        data = path.read_bytes()
        if len(data) > 1 << 20:
            return hashlib.sha256(data).hexdigest()
        return self.plain(data.decode(), names)

    def plain(self, text: str, names: dict[str, str]) -> str:
        """Return a text with names for ids, and without what differs anyway."""
        for uri in (self.bucket.artifact_uri, self.bucket.uri):
            text = text.replace(uri, "…")
        text = text.replace(str(self.folder), "~")
        for known, name in names.items():
            text = text.replace(known, name)
        return DIFFERS.sub("", text)
