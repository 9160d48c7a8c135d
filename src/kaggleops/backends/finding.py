"""Which backends there are, and which of them has a run."""

from importlib.metadata import entry_points
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from kaggleops.backends.base import Backend
from kaggleops.backends.remote_run import RemoteRun
from kaggleops.errors import UsageError
from kaggleops.tags import SUBMITTED_TO

_GROUP = "mlflow.project_backend"  # where MLflow looks for them, too


def names() -> list[str]:
    """Return the names of all backends."""
    return sorted(each.name for each in entry_points(group=_GROUP))


def backend_named(name: str) -> Backend[Any]:
    """Return a backend.

    Raises:
        UsageError: there is none of that name.
    """
    found = entry_points(group=_GROUP, name=name)
    backend = next(iter(found)).load()() if found else None
    if not isinstance(backend, Backend):
        hint = f"There are: {', '.join(names())}."
        raise UsageError(f"choosing the backend {name!r}", "there is none of that name", hint)
    return backend


def submitted_run(tracking_uri: str, run_id: str) -> RemoteRun:
    """Return a run that somebody submitted, here or on another machine.

    Raises:
        UsageError: there is no such run, or it was not submitted to a backend.
    """
    doing = f"looking for run {run_id}"
    try:
        tags = mlflow.MlflowClient(tracking_uri).get_run(run_id).data.tags
    except MlflowException as error:
        raise UsageError(doing, error.message, "`kaggleops status` lists the last runs.") from error
    if SUBMITTED_TO not in tags:
        problem = "it was not submitted to a backend, so no platform has a log or files of it"
        raise UsageError(doing, problem, "Its artifacts are in the bucket: `kaggleops ui`.")
    return RemoteRun(backend_named(tags[SUBMITTED_TO]), tracking_uri, run_id)
