"""Of the processes that torchrun has started, the first alone logs, whatever the script does."""

from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.entities import Metric, Param

from kaggleops.bucket import Bucket
from kaggleops.errors import UsageError
from kaggleops.tracking import ranks
from kaggleops.tracking.store import BucketTrackingStore

from .processes import train
from .test_process import OFTEN, only_run

pytestmark = pytest.mark.parametrize("bucket", ["gcs"], indirect=True)

SECOND = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}
LIGHTNINGS = {"NODE_RANK": "0", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}

# It reads what it wrote: the script does not notice.
LOGS = """
mlflow.set_experiment("mine")
client = mlflow.MlflowClient()
with mlflow.start_run() as run:
    for step in range(100):
        mlflow.log_metric("loss", step, step=step)
    mlflow.log_param("lr", 0.1)
    mlflow.log_text("weights", "model.txt")
    client.create_registered_model("digits")
    client.create_model_version("digits", f"{run.info.artifact_uri}/model")
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 100
    assert len(client.search_model_versions("name = 'digits'")) == 1
    client.delete_registered_model("digits")
    for each in session._sessions.values():
        each.flush()
    if os.environ.get("DIES"):
        os.kill(os.getpid(), signal.SIGKILL)
assert client.get_run(run.info.run_id).info.status == "FINISHED"
"""


@pytest.mark.parametrize("dies", [False, True], ids=["ends", "dies"])
def test_nothing_of_another_rank_is_sent(
    dies: bool, tracking_uri: str, state_folder: Path, bucket: Bucket
) -> None:
    more = OFTEN | ({"DIES": "yes"} if dies else {})
    ended = train(LOGS, tracking_uri, state_folder, **(LIGHTNINGS if dies else SECOND), **more)
    assert ended.code == (-9 if dies else 0), ended.errors
    assert list(bucket.list("")) == []
    assert not (state_folder / "outbox").exists()  # from where `kaggleops push` would send it
    told = "Rank 0 logs for all ranks; the others log nothing. To have every rank log: KAGGLEOPS_"
    assert ended.errors.count(told) == 1
    if not dies:
        assert train(LOGS, tracking_uri, state_folder, **SECOND, KAGGLEOPS_RANKS="all").code == 0
        assert list(bucket.list("mlruns/")) != []


# It is given the run of rank 0, and leaves it by an error.
JOINS = """
with mlflow.start_run():
    assert mlflow.active_run().data.params == {"lr": "0.1"}
    mlflow.log_metric("loss", 2.0)
    mlflow.set_tag("told by", os.environ["RANK"])
    raise SystemExit(1)
"""


def test_a_rank_that_ends_leaves_the_run_as_it_is(
    tracking_uri: str, state_folder: Path, machines: Callable[[], BucketTrackingStore]
) -> None:
    first = machines()
    run = first.create_run("0", "somebody", 1, [], "ours")
    first.log_batch(run.info.run_id, [Metric("loss", 1.0, 1, 0)], [Param("lr", "0.1")], [])
    first.flush()
    ended = train(JOINS, tracking_uri, state_folder, **SECOND, MLFLOW_RUN_ID=run.info.run_id)
    assert ended.code == 1, ended.errors
    left = only_run(machines())
    assert (left.info.status, left.data.metrics) == ("RUNNING", {"loss": 1.0})
    assert "told by" not in left.data.tags


def test_what_says_nothing_of_ranks_is_refused(
    tracking_uri: str, state_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (SECOND | {"RANK": "x"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="reading RANK: 'x' is no number"):
        ranks.rank()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert ranks.rank() == 0
    ended = train("mlflow.start_run()", tracking_uri, state_folder, **SECOND, KAGGLEOPS_RANKS="1")
    assert "reading KAGGLEOPS_RANKS: '1' is neither first nor all. Set it to all" in ended.errors
