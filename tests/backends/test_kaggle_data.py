"""Data that lies on Kaggle, read by a run on a machine that is not Kaggle's."""

from pathlib import Path

import pytest

from kaggleops.backends.lookup import backend_named
from kaggleops.git.commits import find_commit
from kaggleops.launch.launcher import Launch
from tests import secrets_of
from tests.command import kaggleops_here
from tests.fakes.runpod_server import RunPodServer

from .world import TRACKING, World

KAGGLES = ("KAGGLE_API_ENVIRONMENT", "HTTP_PROXY", "NO_PROXY")

TRAIN = """
import kaggleops, mlflow
with mlflow.start_run():
    mlflow.log_metric("rows", len(kaggleops.resources("words").read_csv("train.csv")))
"""


def test_a_pod_fetches_a_dataset_from_kaggle(
    outside: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kaggle, repository = outside.kaggle, outside.repository
    kaggle.add_dataset("ada/words", {"train.csv": b"id,y\n1,2\n3,4\n"})
    added = ("data", "add", "words", "kaggle://datasets/ada/words")
    for command in (added, ("data", "fetch", "words")):
        done = kaggleops_here(*command, cwd=repository.folder)
        assert done.code == 0, done.errors
    repository.write(train_py=TRAIN)
    repository.commit("Read what lies on Kaggle")

    # The way to the loopback Kaggle is the pod's own; who asks there comes with the job.
    around = {name: kaggle.environment("ada")[name] for name in KAGGLES}
    around |= {"STORAGE_EMULATOR_HOST": outside.gcs.url, "KAGGLEOPS_FLUSH_SECONDS": "1"}
    with RunPodServer(tmp_path / "runpod", around) as server:
        server.secrets["kaggleops_key"] = secrets_of.SERVICE_ACCOUNT
        server.secrets["kaggle_key"] = secrets_of.HEX
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        backend = backend_named("runpod")
        env = {"KAGGLE_USERNAME": "ada", "KAGGLE_KEY": "{{ RUNPOD_SECRET_kaggle_key }}"}
        config = backend.read_config({"packages": [], "env": env}, "a test")
        kaggle.reset_counts()
        run = backend.submit(find_commit(repository.folder), Launch(TRACKING), config)
        pod = server.pod(f"kaggleops-{run.run_id}")
        pod.wait()
    assert run.get_status() == "FINISHED", pod.text
    read = outside.run(run.run_id)
    assert read.data.metrics == {"rows": 2}
    assert [each.dataset.name for each in read.inputs.dataset_inputs] == ["words"]
    assert kaggle.count("output file") == 1
    assert pod.volume
    (fetched,) = pod.volume.rglob("train.csv")
    assert fetched.read_bytes() == b"id,y\n1,2\n3,4\n"
    assert secrets_of.HEX not in pod.text
