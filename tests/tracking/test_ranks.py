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


def test_what_a_killed_rank_left_is_removed_by_the_next(
    tracking_uri: str, state_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "scratch").mkdir()
    second = SECOND | {"TMPDIR": str(tmp_path / "scratch")}
    assert train(LOGS, tracking_uri, state_folder, **second, DIES="yes").code == -9
    (left,) = tmp_path.rglob("mlruns")
    unreadable = left.parent.with_name("10000101-unreadable")  # it comes first
    (unreadable / "owner.lock").mkdir(parents=True)
    assert train(LOGS, tracking_uri, state_folder, **second).code == 0
    unreadable.joinpath("owner.lock").rmdir()
    assert train(LOGS, tracking_uri, state_folder, **second).code == 0
    assert list(tmp_path.rglob("mlruns")) == []


SBATCH = {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
SRUN = SBATCH | {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4"}
MPIRUN = {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"}


NUMBERS: list[tuple[dict[str, str], int]] = [
    ({}, 0),
    (SECOND, 1),
    ({"RANK": "1", "WORLD_SIZE": "2"}, 1),
    ({"RANK": "16"}, 0),  # of a LoRA, say
    (LIGHTNINGS, 1),
    (LIGHTNINGS | {"NODE_RANK": "1", "LOCAL_RANK": "0"}, 1),
    (SRUN, 3),
    (SBATCH, 0),
    (SRUN | {"SLURM_STEP_NUM_TASKS": "1"}, 0),
    (MPIRUN, 2),
    ({"PMI_RANK": "1", "PMI_SIZE": "2"}, 1),
    (SRUN | MPIRUN, 2),  # mpirun starts a helper on each node by srun
    (SRUN | SECOND, 1),
    (SRUN | {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}, 0),  # a torchrun in each task
]


@pytest.mark.usefixtures("bucket")
def test_the_rank_is_what_the_innermost_launcher_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for told, rank in NUMBERS:
        with monkeypatch.context() as patched:
            for name, value in told.items():
                patched.setenv(name, value)
            assert (told, ranks.rank()) == (told, rank)


def test_tasks_of_srun_are_one_run(tracking_uri: str, state_folder: Path, bucket: Bucket) -> None:
    ended = train(LOGS, tracking_uri, state_folder, **SRUN)
    assert ended.code == 0, ended.errors
    assert list(bucket.list("")) == []


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
