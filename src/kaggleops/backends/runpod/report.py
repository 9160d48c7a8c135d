"""What a pod tells the bucket, for infra/runpod/start.py: that it begins a job, and how that ended.

`report.py claim BUCKET RUN POD`, for pods whose disk nothing outlives, ends with 0 for the first
start of the container, from then on with 3, and with 1 where the bucket cannot be asked.
`report.py JSON`, with the exit code, the cost and the log, ends with 0 only if nothing is left on
the pod that the bucket lacks.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
from click import echo
from mlflow.entities import RunTag

from kaggleops.backends import job_log
from kaggleops.backends.interface import is_ended
from kaggleops.backends.runpod.pod import POD
from kaggleops.bucket import open_bucket
from kaggleops.bucket.location import bucket_uri, tracking_uri
from kaggleops.errors import explained
from kaggleops.launch.launcher import is_to_be_continued
from kaggleops.mlruns import ChangeLog, EntityStore
from kaggleops.platforms import detect
from kaggleops.tags import COST, JOB_ENDED
from kaggleops.tracking.push import push
from kaggleops.tracking.store import BucketTrackingStore

BEGAN = "runpod_began"
"""The tag of a run with the id of the pod that began its job."""

EXIT_CODE = "exit_code"
"""The tag of a run that says what its job ended with."""

_PATIENCE = 60.0  # seconds that one request may take with all its retries
_TIME_IS_UP, _BEGUN_BEFORE = 124, 3  # as in infra/runpod/start.py


def report(said: dict[str, Any]) -> list[str]:
    """Tell the bucket, and return what could not be sent, one line each.

    What was `said`: `bucket`, `run_id`, `code` (None for a job that was cut off), `again` (whether
    that was by a crash, after which RunPod started the container again), `cost` in US dollars, and
    `log`, the file's path. Raises KaggleOpsError if the bucket does not take it.
    """
    place = bucket_uri(said["bucket"])
    detect().sign_in(place)
    bucket = open_bucket(place, patience=_PATIENCE)
    # First what the job itself logged and could not send: its last words may be that it ended.
    left = push(EntityStore(bucket, ChangeLog(bucket))).problems
    job_log.keep(bucket, said["run_id"], Path(said["log"]))
    _tell(place, said["run_id"], said["code"], said["cost"], again=said["again"])
    return left


def _tell(place: str, run_id: str, code: int | None, cost: float, *, again: bool) -> None:
    client = mlflow.MlflowClient(tracking_uri(place))
    store = BucketTrackingStore(tracking_uri(place))
    # Who created the pod may have died before it could say which it is.
    tags = {COST: f"{cost:.4f}", POD: os.environ.get("RUNPOD_POD_ID", "")}
    tags |= {} if code is None else {EXIT_CODE: str(code)}
    run = client.get_run(run_id)
    if not is_ended(run.info.status) and not is_to_be_continued(run):
        how = {None: "its container was stopped", _TIME_IS_UP: "its time was up"}
        said = "its container crashed and was started again" if again else how.get(code)
        tags[JOB_ENDED] = said or f"exit code {code}"
        stopped = code in how and not again
        client.set_terminated(run_id, "KILLED" if stopped else "FAILED")
    client.log_batch(run_id, tags=[RunTag(*tag) for tag in tags.items()])
    store.flush()


def claim(bucket: str, run_id: str, pod_id: str) -> bool:
    """Note in the bucket that a pod begins a run's job; tell whether it had not.

    Raises UsageError if this machine has no key of the bucket.
    """
    place = bucket_uri(bucket)
    detect().sign_in(place)
    uri = tracking_uri(place)
    client = mlflow.MlflowClient(uri)
    if client.get_run(run_id).data.tags.get(BEGAN) == pod_id:
        return False
    client.set_tag(run_id, BEGAN, pod_id)
    BucketTrackingStore(uri).flush()
    return True


def main(arguments: Sequence[str]) -> int:
    """Do it; see the module."""
    try:
        if arguments[0] == "claim":
            return 0 if claim(*arguments[1:]) else _BEGUN_BEFORE
        left = report(json.loads(arguments[0]))
    except Exception as raised:
        error = explained(raised)
        if error is None:
            raise
        left = [str(error)]
    for line in left:
        echo(f"error: {line}", err=True)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
