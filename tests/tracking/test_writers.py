"""Many processes write to one run at once, and a fifth of what they ask of the bucket fails."""

import os
import random
from pathlib import Path

import pytest

from kaggleops.bucket import Bucket
from kaggleops.tracking import session
from tests.buckets import server_of

from .processes import train
from .test_process import Machines, only_run

slow = pytest.mark.slow
SELDOM = ["testbench", "s3", "directory", "s3-versioned"]

WRITERS = 8
POINTS = 1000
PATIENCE = 250
"""Seconds: in half a minute one request of ten thousand fails until its writer gives up."""

# Forked before anything of ours has begun, so that MLflow is imported once: each has a working copy
# and a session of its own, as a process on another machine has.
WRITER = """
session.PATIENCE = {patience}
children = {}
for rank in range({writers}):
    child = os.fork()
    if not child:
        break
    children[child] = rank
else:
    failed = [children[child] for child in children if os.waitpid(child, 0)[1]]
    sys.exit(f"failed: {failed}" if failed else 0)
os.environ["KAGGLEOPS_HOME"] = os.path.join(os.environ["KAGGLEOPS_HOME"], str(rank))
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
def failing(
    request: pytest.FixtureRequest, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let a fifth of all requests fail, in every way, where the bucket can misbehave."""
    server = server_of(bucket, request)
    if server is None or getattr(server, "testbench", False):
        return  # there it is about refusals; waiting for what has failed takes most of a minute
    monkeypatch.setattr(session, "PATIENCE", PATIENCE)
    seed = int(os.environ.get("KAGGLEOPS_TEST_SEED", random.randrange(10**6)))
    print(f"KAGGLEOPS_TEST_SEED={seed}")  # noqa: T201 - shown where the test fails
    # Each is asked in turn, so together they strike one request in five.
    kinds = ["reset", "lost-response", "truncate", "page", "redirect", "garbled", *server.passing]
    for number, kind in enumerate(kinds):
        server.fail(kind, times=None, probability=0.22 / len(kinds), seed=seed + number)


@pytest.mark.parametrize(
    "bucket",
    ["gcs", *(pytest.param(kind, marks=slow) for kind in SELDOM)],
    indirect=True,
)
def test_eight_processes_log_a_thousand_points_each(
    tracking_uri: str, state_folder: Path, machines: Machines, failing: None
) -> None:
    store = machines()
    run_id = store.create_run("0", "ada", 1, [], "x").info.run_id
    store._session.hand_over(store._run(run_id))
    script = WRITER.replace("{patience}", str(PATIENCE))
    script = script.replace("{writers}", str(WRITERS)).replace("{points}", str(POINTS))
    ended = train(
        script,
        tracking_uri,
        state_folder / "writers",
        MLFLOW_RUN_ID=run_id,
        KAGGLEOPS_FLUSH_SECONDS="0.1",
    )
    assert ended.code == 0, ended.errors

    elsewhere = machines()
    values = [point.value for point in elsewhere.get_metric_history(run_id, "loss")]
    assert sorted(values) == list(range(WRITERS * POINTS))
    run = only_run(elsewhere)
    for rank in range(WRITERS):
        assert len(elsewhere.get_metric_history(run_id, f"of rank {rank}")) == POINTS // 100
        assert run.data.tags[f"rank {rank}"] == str(POINTS - 100)
        assert run.data.params[f"param {rank}"] == str(rank)
