"""Whether a pod is the first start of its container, for pods whose disk nothing outlives.

    python -m kaggleops.backends.runpod.claim BUCKET RUN POD

It ends with 0 if so, from then on with 3, and with 1 where the bucket cannot be asked.
"""

import sys
from collections.abc import Sequence

import mlflow
from click import echo

from kaggleops.bucket.location import bucket_uri, tracking_uri
from kaggleops.errors import explained
from kaggleops.platforms import detect
from kaggleops.platforms.sign_in import sign_in
from kaggleops.tracking.store import BucketTrackingStore

BEGAN = "runpod_began"
"""The tag of a run with the id of the pod that began its job."""

_BEGUN_BEFORE = 3  # as in infra/runpod/start.py


def claim(bucket: str, run_id: str, pod_id: str) -> bool:
    """Note in the bucket that a pod begins a run's job; tell whether it had not.

    Raises:
        KaggleOpsError: the bucket cannot be asked.
    """
    place = bucket_uri(bucket)
    sign_in(detect(), place)
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
        first = claim(*arguments)
    except Exception as raised:
        error = explained(raised)
        if error is None:
            raise
        echo(f"error: {error}", err=True)
        return 1
    return 0 if first else _BEGUN_BEFORE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
