"""One sweep on all that there is: the watcher itself, and each platform as its clients see it."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import mlflow
import pytest

from kaggleops.backends.lookup import submitted_run
from kaggleops.campaign.sweep import trial_id
from kaggleops.campaign.watch import Watcher
from kaggleops.server.settings import default_index
from kaggleops.tags import SUBMITTED_TO
from tests.command import kaggleops_here

from .places import OnColab, OnKaggle, OnRunPod, Place, job_of
from .world import BUCKET, TRACKING, World

# Each waits until all seven have begun: fewer at once would wait for ever.
TRAIN = """
import os, sys, time
from pathlib import Path
import mlflow
with mlflow.start_run() as run:
    mlflow.log_metric("score", float(sys.argv[1]))
    mlflow.set_tag("gpu", os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    begun = Path({begun!r})
    (begun / run.info.run_id).touch()
    while len(list(begun.iterdir())) < 7:
        time.sleep(0.1)
"""

GPUS = """#!/bin/sh
for number in 0 1; do
  case "$1" in
    *index*) echo "$number, NVIDIA GeForce RTX 3090, 24576" ;;
    *) echo "NVIDIA GeForce RTX 3090" ;;
  esac
done
"""


@pytest.fixture
def places(
    outside: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Place]]:
    """Kaggle, Colab and RunPod, set up in the repository; and two GPUs in this machine."""
    (tmp_path / "nvidia-smi").write_text(GPUS)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with ExitStack() as stack:
        kinds = (OnKaggle, OnColab, OnRunPod)
        made = [stack.enter_context(closing(kind(outside))) for kind in kinds]
        (tmp_path / "begun").mkdir()
        outside.repository.write(
            train_py=TRAIN.format(begun=str(tmp_path / "begun")),
            **{f"config__backend__{each.name}.yaml": json.dumps(each.fields) for each in made},
        )
        outside.repository.commit("Train where there is room")
        yield {each.name: each for each in made}


def test_two_kaggle_sessions_colab_two_pods_and_our_own_gpus_at_once(
    outside: World, places: dict[str, Place]
) -> None:
    given = ("alpha=range(1,8)", "-b", "auto", "--budget", 20, "--detach", "--json")
    begun = kaggleops_here("sweep", "--bucket", BUCKET, *given, cwd=outside.repository.folder)
    assert begun.code == 0, begun.errors
    watcher = Watcher(BUCKET, index=default_index(BUCKET))
    assert watcher.turn().problems == []
    client = mlflow.MlflowClient(TRACKING)
    ids = [trial_id(begun.json["sweep"], number) for number in range(7)]
    where = {run_id: client.get_run(run_id).data.tags.get(SUBMITTED_TO, "") for run_id in ids}
    assert Counter(where.values()) == {"kaggle": 2, "colab": 1, "runpod": 2, "local": 2}
    runs = [submitted_run(TRACKING, run_id) for run_id in ids]
    for run in runs:
        if place := places.get(where[run.run_id]):
            place.start(run)
    for run in runs:
        place = places.get(where[run.run_id])
        place.wait(run) if place else job_of(run).wait()
    assert watcher.turn().problems == []
    watcher.close()
    ended = [client.get_run(run_id) for run_id in ids]
    assert {run.info.status for run in ended} == {"FINISHED"}
    ours = [run.data.tags["gpu"] for run in ended if where[run.info.run_id] == "local"]
    assert sorted(ours) == ["0", "1"]
    assert client.get_run(begun.json["sweep"]).info.status == "FINISHED"
