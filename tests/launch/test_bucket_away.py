"""The bucket goes away between the making of a run and its first line of code, and stays away."""

from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest

from kaggleops.bucket import Bucket
from tests.buckets import ON_SERVICES, server_of
from tests.command import kaggleops
from tests.fakes.git_server import Repository
from tests.tracking.processes import Training

IMPATIENT = """
from kaggleops.tracking import artifact_uploads as uploads, session
uploads.PATIENCE = session.PATIENCE = {seconds}
"""

COMMAND = f"""{IMPATIENT.format(seconds=2.0)}  # it begins before: a busy machine answers in that
from kaggleops.cli import main
main(["run", "--bucket", {{bucket!r}}, "--repository", {{repository!r}}, "alpha=0.5"])
"""

TRAIN = f"""{IMPATIENT.format(seconds=0.2)}
import sys
import mlflow
import pandas as pd
print("begun", flush=True)
sys.stdin.readline()
data = mlflow.data.from_pandas(pd.DataFrame({{"x": [1.0]}}), name="tweets")
mlflow.set_experiment("toy")
with mlflow.start_run():
    mlflow.log_metric("loss", 0.25)
    mlflow.log_param("seed", 7)
    mlflow.log_input(data)
    mlflow.log_text("weights", "model.txt")
    with mlflow.start_run(nested=True, run_name="fold 0"):
        mlflow.log_metric("loss", 0.5)
    with mlflow.start_span("predict"):
        pass
mlflow.flush_trace_async_logging()
print("trained", flush=True)
"""


def away(bucket: Bucket, request: pytest.FixtureRequest, kind: int | str) -> Callable[[], object]:
    """Let nobody reach a bucket; return what lets them again."""
    if server := server_of(bucket, request):
        server.fail(kind, times=None)
        return server.heal
    root = Path(bucket.uri.removeprefix("bucket+file://").replace("%20", " "))
    elsewhere = root.rename(root.parent / "elsewhere")
    root.mkdir()  # an empty folder, which a disk is mounted at
    return lambda: (root.rmdir(), elsewhere.rename(root))


@ON_SERVICES
@pytest.mark.parametrize("kind", [503, pytest.param("reset", marks=pytest.mark.slow)])
def test_a_training_begins_and_ends_while_the_bucket_is_away(
    toy: Repository,
    bucket: Bucket,
    kind: int | str,
    state_folder: Path,
    request: pytest.FixtureRequest,
) -> None:
    toy.write(train_py=TRAIN)
    toy.commit("Train while the bucket is away")
    script = COMMAND.format(bucket=bucket.uri, repository=str(toy.folder))
    command = Training(script, f"{bucket.uri}/mlruns", state_folder)
    command.until("begun")
    back = away(bucket, request, kind)
    command.tell("go on")
    ended = command.end()
    assert ended.code == 0, ended.errors
    assert "trained" in ended.output
    assert "Traceback" not in ended.errors, ended.errors
    back()
    assert kaggleops("push", "--bucket", bucket.uri, cwd=state_folder).code == 0
    client = mlflow.MlflowClient(f"{bucket.uri}/mlruns")
    home = client.get_experiment_by_name("toy").experiment_id
    fold, run = sorted(client.search_runs([home]), key=lambda each: each.info.start_time)[::-1]
    assert (run.info.status, fold.info.status) == ("FINISHED", "FINISHED")
    assert (run.data.metrics, fold.data.metrics) == ({"loss": 0.25}, {"loss": 0.5})
    assert run.data.params == {"alpha": "0.5", "overrides": "", "seed": "7"}
    assert [each.dataset.name for each in run.inputs.dataset_inputs] == ["tweets"]
    artifacts = run.info.artifact_uri.removeprefix(f"{bucket.artifact_uri}/")
    assert (found := bucket.read(f"{artifacts}/model.txt")) is not None
    assert found.data == b"weights"
    assert (found := bucket.read(f"{artifacts}/output.txt")) is not None
    assert found.data.startswith(b"begun\n")
    assert b"\ntrained\n" in found.data
    (trace,) = client.search_traces(locations=[home], include_spans=False)
    assert trace.info.status == "OK"
