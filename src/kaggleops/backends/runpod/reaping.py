"""Pods that cost money although nothing will come of them: found, and deleted.

A pod deletes itself. This is for those that could not: RunPod's key was revoked, their start script
never ran or hung, somebody stopped them. Any machine may do it, at any time, again and again.
"""

import mlflow
from mlflow.exceptions import MlflowException

from kaggleops.backends.answers import number
from kaggleops.backends.jobs import Reaped, is_ended
from kaggleops.backends.runpod.answers import BEGINS_WITHIN, LATE, LONGEST_HOURS, Pod
from kaggleops.backends.runpod.client import RunPod
from kaggleops.bucket.location import bucket_uri
from kaggleops.errors import KaggleOpsError, explained
from kaggleops.tags import KEPT_UNTIL


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
        if not (pod.run_id or (not pod.id and not pod.name)):
            continue
        problem = ""
        try:
            if not pod.id:
                raise KaggleOpsError("reaping", "RunPod lists a pod whose id it does not tell")
            why = _why_over(pod, tracking_uri, runpod.now())
            if why and delete:
                runpod.delete_pod(pod.id)
        except KaggleOpsError as error:
            why, problem = "unknown", str(error)
        if why:
            run_id, cost = pod.run_id or "unknown", pod.cost or 0.0
            found.append(Reaped(backend, pod.id or "unknown", run_id, why, cost, problem))
    return found


def _why_over(pod: Pod, tracking_uri: str, now: float) -> str:
    """Return why nothing will come of a pod any more, "" if something may.

    Raises:
        KaggleOpsError: the bucket does not answer.
    """
    job = pod.job
    # What a job that is not told was given is a week at the most.
    week = None if pod.created is None else pod.created + LONGEST_HOURS * 3600
    deadline = job.deadline if job else week
    if deadline is not None and now > deadline + LATE:
        return "its time is up"
    if job and job.bucket != bucket_uri(tracking_uri):
        return ""
    try:
        run = mlflow.MlflowClient(tracking_uri).get_run(pod.run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            # Where its bucket is not told, it may be in another.
            return "its run is not in the bucket" if job else ""
        doing = f"looking for run {pod.run_id}"
        raise explained(error) or KaggleOpsError(doing, error.message) from error
    status = run.info.status
    if job:
        kept_until = job.deadline if job.keep else 0.0
    else:
        kept_until = number(run.data.tags, KEPT_UNTIL) or 0.0
    if is_ended(status) and now >= kept_until:
        return f"its run is {status}"
    # Its image may be one that cannot be pulled or started: RunPod tries for ever, and bills it.
    if status == "SCHEDULED" and pod.created is not None and now - pod.created > BEGINS_WITHIN:
        return f"it did not begin within {BEGINS_WITHIN / 60:.0f} minutes"
    return ""
