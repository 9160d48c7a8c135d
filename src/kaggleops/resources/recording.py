"""Tell MLflow's runs which resources they read: as dataset inputs, once for each version.

A read inside a run belongs to it, and so does one before it opens in a process that MLFLOW_RUN_ID
gave it to. A read outside of any run belongs to every run that opens in this process from then on:
data are often read first. Our tracking store says when one opens; on another, such a read is
recorded with the next one inside the run.
"""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from kaggleops.redaction import redacted
from kaggleops.resources.addresses import InBucket, OnTheWeb

if TYPE_CHECKING:
    from kaggleops.resources.lock import Locked
    from kaggleops.resources.manifest import Resource

    Read = tuple[Resource, Locked]

_log = logging.getLogger("kaggleops")

_LISTED = 100  # files that a run's page names

_outside: dict[tuple[str, str], "Read"] = {}  # by resource and version
_recorded: set[tuple[str, str, str]] = set()  # run, resource, version


def record(resource: "Resource", locked: "Locked") -> None:
    """Tell the run of this process what it reads; without one, remember it for those to come."""
    run_id = _run_here()
    if not run_id:
        _outside[resource.name, locked.version] = resource, locked
        return
    from mlflow import MlflowClient

    reads = [*_outside.values(), (resource, locked)]
    _tell(run_id, reads, lambda *args, **named: MlflowClient().log_inputs(*args, **named))


def run_opens(run_id: str, log_inputs: Callable[..., None]) -> None:
    """Tell a run that opens in this process what has been read outside of any.

    Args:
        run_id: which.
        log_inputs: as the method of MLflow's stores.
    """
    _tell(run_id, _outside.values(), log_inputs)


def _run_here() -> str:
    # Who has not imported MLflow has no run but one that was given.
    if "mlflow" in sys.modules:
        import mlflow

        if run := mlflow.active_run():
            return str(run.info.run_id)
    return os.environ.get("MLFLOW_RUN_ID", "")


def _tell(run_id: str, reads: Iterable["Read"], log_inputs: Callable[..., None]) -> None:
    new = {
        (run_id, resource.name, locked.version): (resource, locked) for resource, locked in reads
    }
    new = {key: read for key, read in new.items() if key not in _recorded}
    if not new:
        return
    from mlflow.exceptions import MlflowException

    _recorded.update(new)
    try:
        log_inputs(run_id, datasets=[_input(*read) for read in new.values()])
    except MlflowException as error:  # nothing that a training should end for
        names = ", ".join(name for _, name, _ in new)
        _log.warning("The run does not say that it reads %s: %s", names, error)


def _input(resource: "Resource", locked: "Locked") -> Any:
    """Return what MLflow calls a dataset input."""
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

    kind, source = _source(resource)
    files = {file.name: [file.version, file.size, file.checksum] for file in locked.files[:_LISTED]}
    profile = {
        "version": locked.version,
        "num_files": len(locked.files),
        "size": locked.size,
        **({"origin": locked.origin} if locked.origin else {}),
        "files": files,
    }
    read = Dataset(
        resource.name, locked.version, kind, json.dumps(source), None, json.dumps(profile)
    )
    return DatasetInput(read, [InputTag(MLFLOW_DATASET_CONTEXT, "resource")])


def _source(resource: "Resource") -> tuple[str, dict[str, str]]:
    """Return the kind of a source and where it is, as MLflow's own dataset sources have them."""
    match resource.address:
        case OnTheWeb(url):
            return "http", {"url": redacted(url)}
        case InBucket(uri) if uri.startswith("gs://"):
            return "gs", {"uri": uri}
    return resource.source.partition(":")[0], {"uri": redacted(resource.source)}
