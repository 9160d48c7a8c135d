"""`data=resource`: training reads what the manifest declares, and its run says so."""

from pathlib import Path

import mlflow
import pytest

from competitions import runs
from competitions.config import compose
from competitions.tasks import load_task
from competitions.train import read_rows
from kaggleops.errors import KaggleOpsError
from kaggleops.resources.edits import add_entry
from kaggleops.resources.manifest import MANIFEST
from kaggleops.resources.sync import lock


def test_rows_are_read_by_the_name_of_a_resource(
    tracking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = compose(["data=resource", "data.resource=tweets"])
    (tracking / "bucket").mkdir()
    load_task(settings.config.task).write_sample(tracking / "bucket")
    source = {"source": f"bucket+file://{tracking}/bucket"}
    lock(add_entry(tracking / MANIFEST, "tweets", source))
    run_id = mlflow.MlflowClient().create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)

    task, training, validation = read_rows(settings)
    sample = read_rows(compose([]))
    assert training.equals(sample[1])
    assert validation.equals(sample[2])
    with mlflow.start_run():
        runs.log_dataset(task, training, settings.config.data.dir, "training")
    inputs = mlflow.get_run(run_id).inputs.dataset_inputs
    assert sorted(each.dataset.name for each in inputs) == sorted(["tweets", task.competition])

    (tracking / "data/tweets/train.csv").write_text("look-alike")
    with pytest.raises(KaggleOpsError, match=r"train.csv is not the file that is locked"):
        read_rows(settings)
