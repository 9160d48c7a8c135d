"""The tracking store: MLflow's own file store over a working copy of the bucket.

Reads check for a newer version in the bucket first, with one cheap request for each entity.
Writes go to the working copy, and from there to the bucket within the flush interval; what others
wait for (a new experiment or run, a final status, a deletion) goes at once.
"""

import time

from mlflow.entities import RunStatus
from mlflow.exceptions import MlflowException

from kaggleops.errors import UsageError
from kaggleops.tracking.traces import TraceStore
from kaggleops.tracking.unsupported import UnsupportedTracking


class BucketTrackingStore(UnsupportedTracking, TraceStore):
    """MLflow's tracking API over a bucket: experiments, runs, logged models, traces."""


def cancel(tracking_uri: str, run_id: str) -> None:
    """Set a run to KILLED in the bucket; the process that runs it sees that, and ends.

    Raises:
        UsageError: there is no such run, or it has ended already.
        KaggleOpsError: the bucket refused.
    """
    doing = f"cancelling run {run_id}"
    store = BucketTrackingStore(tracking_uri)
    try:
        run = store.get_run(run_id)
    except MlflowException as error:
        raise UsageError(doing, str(error), "`kaggleops status` lists the last runs.") from error
    if RunStatus.is_terminated(RunStatus.from_string(run.info.status)):
        raise UsageError(doing, f"it has ended already, as {run.info.status}")
    store.update_run_info(run_id, RunStatus.KILLED, time.time_ns() // 1_000_000, None)
    store.flush()
