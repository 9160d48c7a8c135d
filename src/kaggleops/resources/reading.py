"""Read a resource by its name: its files as they are locked, and no look-alike.

A file's path is handed out once its content is known to be what the lock says. What is missing is
fetched. MLflow's run is told which resource it reads, in which version (recording.py).
"""

import difflib
import logging
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.resources.fetching import Step, fetch_from, state_of
from kaggleops.resources.files import File
from kaggleops.resources.lock import Locked, read_lock
from kaggleops.resources.manifest import Manifest, Resource, find_manifest
from kaggleops.resources.origins import Origin, origin_of
from kaggleops.resources.placed import Placed
from kaggleops.resources.places import data_root, folder_for, mounted_at
from kaggleops.resources.recording import record

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger("kaggleops")


def resources(name: str) -> "LocalResource":
    """Return a resource of the project around the working directory.

    Args:
        name: what config/data/resources.yaml calls it.

    Raises:
        UsageError: there is no such resource, or it has not been locked.
    """
    manifest = find_manifest(Path.cwd())
    resource = manifest[name]
    locked = read_lock(manifest).get(name)
    if locked is None or not locked.holds_for(resource):
        problem = "it is not locked" if locked is None else "the manifest has changed since"
        hint = f"`kaggleops data lock {name}`, and commit resources.lock."
        raise UsageError(f"reading {name} by its lock", problem, hint)
    return LocalResource(manifest, resource, locked)


class LocalResource:
    """A resource's files on this machine.

    Args:
        manifest: the manifest that declares it.
        resource: which.
        locked: what it came to.
    """

    def __init__(self, manifest: Manifest, resource: Resource, locked: Locked) -> None:
        self.name = resource.name
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
        """The folder that holds them, once all of them are right.

        Raises:
            KaggleOpsError: as for `resources(NAME)[FILE]`.
        """
        self._ensure(list(self._locked.files))
        return self._folder

    def __getitem__(self, file: str) -> Path:
        """Return a file's path, once it is there and known to be what the lock says.

        Raises:
            UsageError: the resource has no such file.
            KaggleOpsError: what is there is another file, or it cannot be fetched.
        """
        return self._ensure([self._named(file)])

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

    def _named(self, name: str) -> File:
        if not name and len(self._locked.files) == 1:
            return self._locked.files[0]
        if name in self._files:
            return self._files[name]
        close = difflib.get_close_matches(name, self.files, n=3) or self.files[:5]
        doing = f"reading {name!r} of {self.name}"
        raise UsageError(doing, "it has no such file", f"It has {', '.join(close)}.")

    def _ensure(self, files: list[File]) -> Path:
        """Return the path of the last of these files, once all of them are right."""
        missing = self._missing(files)
        if missing:
            _log.info("Fetching %s of %s.", ", ".join(each.name for each in missing), self.name)
            with self._placed.alone():
                if steps := [
                    Step(self._resource, file, self._folder / file.name, "missing")
                    for file in self._missing(missing)  # another process may have been faster
                ]:
                    fetch_from(self._origin, steps, self._placed)
        self._placed.save()
        record(self._resource, self._locked)
        return self._folder / files[-1].name

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
