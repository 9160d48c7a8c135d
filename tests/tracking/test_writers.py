"""Many processes write to one run at once, and a fifth of what they ask of the bucket fails."""

import os
import random
from pathlib import Path

import pytest

from kaggleops.bucket import Bucket
from tests.buckets import ON_GCS
from tests.fakes.gcs_server import GcsServer

from .processes import Training
from .test_process import Machines, only_run

WRITERS = 8
POINTS = 1000

WRITER = """
rank = int(sys.argv[1])
say("ready")
sys.stdin.readline()
client = mlflow.MlflowClient()
run_id = os.environ["MLFLOW_RUN_ID"]
for step in range({points}):
    client.log_metric(run_id, "loss", rank * {points} + step, timestamp=step, step=step)
    if step % 100 == 0:
        client.log_metric(run_id, f"of rank {rank}", step, step=step)
        client.set_tag(run_id, f"rank {rank}", step)
client.log_param(run_id, f"param {rank}", rank)
"""


@pytest.fixture
def failing(request: pytest.FixtureRequest, bucket: Bucket) -> None:
    """Let a fifth of all requests fail, in every way, where the bucket can misbehave."""
    if not bucket.uri.startswith("gs://"):
        return
    server: GcsServer = request.getfixturevalue("gcs_server")
    seed = int(os.environ.get("KAGGLEOPS_TEST_SEED", random.randrange(10**6)))
    print(f"KAGGLEOPS_TEST_SEED={seed}")  # noqa: T201 - shown where the test fails
    # Each is asked in turn, so together they strike one request in five.
    for number, kind in enumerate([503, 429, "reset", "lost-response", "truncate"]):
        server.fail(kind, times=None, probability=0.0436, seed=seed + number)


@ON_GCS
def test_eight_processes_log_a_thousand_points_each(
    tracking_uri: str, state_folder: Path, machines: Machines, failing: None
) -> None:
    store = machines()
    run_id = store.create_run("0", "ada", 1, [], "x").info.run_id
    store._session.hand_over(store._run(run_id))
    trainings = [
        Training(
            f"sys.argv.append('{rank}')\n" + WRITER.replace("{points}", str(POINTS)),
            tracking_uri,
            state_folder / str(rank),
            MLFLOW_RUN_ID=run_id,
            KAGGLEOPS_FLUSH_SECONDS="0.1",
        )
        for rank in range(WRITERS)
    ]
    for training in trainings:
        training.until("ready")
    for training in trainings:
        training.tell("go")
    for training in trainings:
        ended = training.end()
        assert ended.code == 0, ended.errors

    elsewhere = machines()
    values = [point.value for point in elsewhere.get_metric_history(run_id, "loss")]
    assert sorted(values) == list(range(WRITERS * POINTS))
    run = only_run(elsewhere)
    for rank in range(WRITERS):
        assert len(elsewhere.get_metric_history(run_id, f"of rank {rank}")) == POINTS // 100
        assert run.data.tags[f"rank {rank}"] == str(POINTS - 100)
        assert run.data.params[f"param {rank}"] == str(rank)
