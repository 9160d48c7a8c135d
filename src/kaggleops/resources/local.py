"""Read a resource by its name: its files as they are locked, and no look-alike.

A file's path is handed out once its content is known to be what the lock says. What is missing is
fetched.

MLflow's runs are told which resources they read: as dataset inputs, once for each version. A read
inside a run belongs to it, and so does one before it opens in a process that MLFLOW_RUN_ID gave it
to. A read outside of any run belongs to every run that opens in this process from then on: data are
often read first. Our tracking store says when one opens; on another, such a read is recorded with
the next one inside the run.
"""

import difflib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from kaggleops.bucket.location import is_remote
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.redaction import redacted
from kaggleops.resources.files import File, Placed, state_of
from kaggleops.resources.lock import Locked, is_locked, read_lock
from kaggleops.resources.manifest import InBucket, Manifest, OnTheWeb, Resource, find_manifest
from kaggleops.resources.origins import Origin
from kaggleops.resources.places import as_read, data_root, folder_for, mounted_at
from kaggleops.resources.sources import origin_of
from kaggleops.resources.transfer import Step, fetch_from
from kaggleops.tracking import live

if TYPE_CHECKING:
    import pandas as pd

Read = tuple[Resource, Locked]

_log = logging.getLogger("kaggleops")

_LISTED = 100  # files that a run's page names

_outside: dict[tuple[str, str], Read] = {}  # by resource and version
_recorded: set[tuple[str, str, str]] = set()  # run, resource, version


def resources(name: str) -> "LocalResource":
    """Return a resource of the project around the working directory.

    Raises UsageError if config/data/resources.yaml has none of that name, or it is not locked.
    """
    manifest = find_manifest(Path.cwd())
    resource, locked = manifest[name], read_lock(manifest)
    if not is_locked(resource, locked):
        problem = "the manifest has changed since" if name in locked else "it is not locked"
        hint = f"`kaggleops data lock {name}`, and commit resources.lock."
        raise UsageError(f"reading {name} by its lock", problem, hint)
    return LocalResource(manifest, resource, locked[name])


class LocalResource:
    """A resource's files on this machine."""

    def __init__(self, manifest: Manifest, resource: Resource, locked: Locked) -> None:
        self.name = resource.name
        self.description = resource.description
        self.version = locked.version
        self._manifest = manifest
        self._resource = resource
        self._locked = locked
        self._placed = Placed(data_root(manifest.project))
        self._mounted = mounted_at(resource, locked, manifest, self._placed)
        self._folder = self._mounted or folder_for(resource, manifest)
        self._files = {file.name: file for file in locked.files}

    @property
    def files(self) -> list[str]:
        """The names of its files."""
        return list(self._files)

    @property
    def folder(self) -> Path:
        """The folder that holds them, once all are right; KaggleOpsError as for `[FILE]`."""
        folder, read = self.placed()
        record(read)
        return folder

    def placed(self) -> tuple[Path, Read]:
        """Return that folder, and what to tell the run that will read it (`tell`): none is told."""
        self._ensure(list(self._locked.files))
        return as_read(self._folder), (self._resource, self._locked)

    def __getitem__(self, file: str) -> Path:
        """Return a file's path, once it is there and known to be what the lock says.

        Raises UsageError if the resource has no such file, KaggleOpsError if another file is there
        or it cannot be fetched.
        """
        if not file and len(self._files) == 1:
            (file,) = self._files
        if file not in self._files:
            close = difflib.get_close_matches(file, self.files, n=3) or self.files[:5]
            doing = f"reading {file!r} of {self.name}"
            raise UsageError(doing, "it has no such file", f"It has {', '.join(close)}.")
        self._ensure([self._files[file]])
        record((self._resource, self._locked))
        return as_read(self._folder / file)

    def open(self, file: str = "", mode: str = "rb") -> IO[Any]:
        """Open a file for reading; its name may be left out where it is the only one."""
        return self[file].open(mode)

    def read_csv(self, file: str = "", **options: Any) -> "pd.DataFrame":
        """Return a file's table, read by pandas with these options."""
        import pandas as pd

        return pd.read_csv(self[file], **options)

    def read_parquet(self, file: str = "", **options: Any) -> "pd.DataFrame":
        """Return a file's table, read by pandas with these options."""
        import pandas as pd

        return pd.read_parquet(self[file], **options)

    def _ensure(self, files: list[File]) -> None:
        """Fetch what is missing of these files; KaggleOpsError if one is not what is locked."""
        if missing := self._missing(files):
            _log.info("Fetching %s of %s.", ", ".join(each.name for each in missing), self.name)
            with self._placed.alone():
                if steps := [
                    Step(self._resource, file, self._folder / file.name, "missing")
                    for file in self._missing(missing)  # another process may have been faster
                ]:
                    fetch_from(self._origin, steps, self._placed)
        self._placed.save()

    def _missing(self, files: list[File]) -> list[File]:
        missing = []
        for file in files:
            path = self._folder / file.name
            state = state_of(path, file, self._placed)
            if state == "missing" and not self._mounted:
                missing.append(file)
            elif state != "right":
                problem = f"{path} is not the file that is locked"
                hint = f"`kaggleops data status {self.name}` compares, `… fetch` brings it."
                raise KaggleOpsError(f"reading {self.name}", problem, hint)
        return missing

    @cached_property
    def _origin(self) -> Origin:
        return origin_of(self._resource, self._manifest.project, self._locked.origin)


def record(read: Read) -> None:
    """Tell the run of this process what it reads; without one, remember it for those to come."""
    run = None
    if "mlflow" in sys.modules:  # who has not imported it has no run but one that was given
        import mlflow

        run = mlflow.active_run()
    if run_id := run.info.run_id if run else os.environ.get("MLFLOW_RUN_ID"):
        tell(run_id, [*_outside.values(), read])
    else:
        _outside[read[0].name, read[1].version] = read


def tell(run_id: str, reads: Iterable[Read], log_inputs: Callable[..., None] | None = None) -> None:
    """Say in a run what it reads, by `log_inputs` as MLflow's stores have it."""
    new = {(run_id, read[0].name, read[1].version): read for read in reads}
    new = {key: read for key, read in new.items() if key not in _recorded}
    if not new:
        return
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    _recorded.update(new)
    try:
        (log_inputs or MlflowClient().log_inputs)(
            run_id, datasets=[_input(*read) for read in new.values()]
        )
    except MlflowException as error:  # nothing that a training should end for
        names = ", ".join(name for _, name, _ in new)
        _log.warning("The run does not say that it reads %s: %s", names, error)


live.listeners.append(
    lambda run_id, log_inputs: tell(run_id, _outside.values(), log_inputs)  # of before it opened
)


def _input(resource: Resource, locked: Locked) -> Any:
    """Return what MLflow calls a dataset input."""
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

    match resource.address:  # as MLflow's own dataset sources have them
        case OnTheWeb(url):
            kind, source = "http", {"url": redacted(url)}
        case InBucket(uri) if is_remote(uri):
            kind, source = uri.partition("://")[0], {"uri": uri}
        case _:
            kind = resource.source.partition(":")[0]
            source = {"uri": redacted(resource.source)}
    profile = {
        "version": locked.version,
        "num_files": len(locked.files),
        "size": locked.size,
        **({"origin": locked.origin} if locked.origin else {}),
        "files": {
            file.name: [file.version, file.size, file.checksum] for file in locked.files[:_LISTED]
        },
    }
    read = Dataset(
        resource.name, locked.version, kind, json.dumps(source), None, json.dumps(profile)
    )
    return DatasetInput(read, [InputTag(MLFLOW_DATASET_CONTEXT, "resource")])
