"""The tracking store: MLflow's own file store over a working copy of the bucket.

Reads look for a newer version in the bucket first, with one cheap request for each entity.
Writes go to the working copy, and from there to the bucket within the flush interval; what others
wait for (a new experiment or run, a final status, a deletion) goes at once.
"""

from kaggleops.tracking.traces import TraceStore
from kaggleops.tracking.unsupported import UnsupportedTracking


class BucketTrackingStore(UnsupportedTracking, TraceStore):
    """MLflow's tracking API over a bucket: experiments, runs, logged models, traces.

    Args:
        store_uri: the tracking URI, `gs://BUCKET[/PREFIX]/mlruns` or
            `bucket+file:///FOLDER/mlruns`; or the session to log in.
    """
