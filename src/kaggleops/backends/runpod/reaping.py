"""Pods that cost money although nothing will come of them: found, and deleted.

A pod deletes itself. This is for those that could not: RunPod's key was revoked, their start script
never ran or hung, somebody stopped them. Any machine may do it, at any time, again and again.
"""

import time
from collections.abc import Mapping
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from kaggleops.backends.jobs import Reaped, is_ended
from kaggleops.backends.runpod.client import RunPod
from kaggleops.backends.runpod.pod import age_of, job_of
from kaggleops.backends.runpod.times import BEGINS_WITHIN, LATE
from kaggleops.bucket.location import bucket_uri
from kaggleops.errors import KaggleOpsError, explained


def reap(runpod: RunPod, backend: str, tracking_uri: str, *, delete: bool) -> list[Reaped]:
    """Delete the pods whose run is over, or whose time is.

    Args:
        runpod: the account.
        backend: this backend's name.
        tracking_uri: whose runs; pods of other buckets are over when their time is.
        delete: whether to; else they are only looked for.

    Raises:
        KaggleOpsError: RunPod does not answer.
    """
    found = []
    for pod in runpod.pods():
        job = job_of(pod)
        if job is None:
            continue
        try:
            why = _why_over(pod, job, tracking_uri)
            problem = ""
        except KaggleOpsError as error:
            why, problem = "unknown", str(error)
        if why and delete and not problem:
            try:
                runpod.delete_pod(pod["id"])
            except KaggleOpsError as error:
                problem = str(error)
        if why:
            found.append(Reaped(backend, pod["id"], job["run_id"], why, pod["cost"], problem))
    return found


def _why_over(pod: Mapping[str, Any], job: Mapping[str, Any], tracking_uri: str) -> str:
    """Return why nothing will come of a pod any more, "" if something may.

    Raises:
        KaggleOpsError: the bucket does not answer.
    """
    if time.time() > job["deadline"] + LATE:
        return "its time is up"
    if job["bucket"] != bucket_uri(tracking_uri):
        return ""
    try:
        status = mlflow.MlflowClient(tracking_uri).get_run(job["run_id"]).info.status
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return "its run is not in the bucket"
        doing = f"looking for run {job['run_id']}"
        raise explained(error) or KaggleOpsError(doing, error.message) from error
    if is_ended(status) and not (job["keep"] and time.time() < job["deadline"]):
        return f"its run is {status}"
    # Its image may be one that cannot be pulled or started: RunPod tries for ever, and bills it.
    if status == "SCHEDULED" and age_of(pod) > BEGINS_WITHIN:
        return f"it did not begin within {BEGINS_WITHIN / 60:.0f} minutes"
    return ""
