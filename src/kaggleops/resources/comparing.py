"""This disk against the lock, and the lock against the sources."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kaggleops.errors import KaggleOpsError
from kaggleops.resources.fetching import state_of
from kaggleops.resources.lock import Locked, read_lock
from kaggleops.resources.manifest import Manifest, Resource
from kaggleops.resources.origins import origin_of
from kaggleops.resources.placed import Placed
from kaggleops.resources.places import data_root, folder_for, mounted_at


@dataclass(frozen=True)
class Status:
    """How one resource stands.

    Args:
        resource: which.
        locked: what it came to; None where it has not been locked.
        stale: whether the manifest has changed since it was locked.
        folder: where its files lie, or would.
        disk: the names of the files that are not right on this disk, by what is wrong: "missing",
            "old" (as an older lock had them) or "changed" (here, by somebody).
        source: the names of the files that the source has otherwise than the lock: "changed",
            "gone" or "new".
        problem: why the source cannot be asked, or "".
    """

    resource: Resource
    locked: Locked | None
    stale: bool
    folder: Path
    disk: dict[str, list[str]] = field(default_factory=dict)
    source: dict[str, list[str]] = field(default_factory=dict)
    problem: str = ""

    @property
    def right(self) -> bool:
        """Whether disk, lock and source agree."""
        return bool(self.locked) and not (self.stale or self.disk or self.source or self.problem)


def compare(manifest: Manifest, names: Sequence[str] = ()) -> list[Status]:
    """Return how resources stand.

    Args:
        manifest: the manifest.
        names: which resources; all by default.

    Raises:
        UsageError: there is no such resource, or the lock cannot be read.
    """
    locked = read_lock(manifest)
    placed = Placed(data_root(manifest.project))
    found = [
        _status(resource, locked.get(resource.name), manifest, placed)
        for resource in manifest.named(names)
    ]
    placed.save()
    return found


def _status(
    resource: Resource, locked: Locked | None, manifest: Manifest, placed: Placed
) -> Status:
    folder = folder_for(resource, manifest)
    if locked is None:
        return Status(resource, None, False, folder)
    mounted = mounted_at(resource, locked, manifest, placed)
    status = Status(resource, locked, not locked.holds_for(resource), mounted or folder)
    for file in locked.files:
        path = status.folder / file.name
        state = state_of(path, file, placed, any_content=resource.skip_if_exist)
        if state != "right":
            status.disk.setdefault(state, []).append(file.name)
    try:
        _compare_source(status, locked, manifest.project)
    except KaggleOpsError as error:
        return Status(resource, locked, status.stale, status.folder, status.disk, {}, str(error))
    return status


def _compare_source(status: Status, locked: Locked, project: Path) -> None:
    resource = status.resource
    origin = origin_of(resource, project, locked.origin)
    there = {file.name: file for file in origin.look(resource.files)}
    for file in locked.files:
        now = there.pop(file.name, None)
        if now is None:
            status.source.setdefault("gone", []).append(file.name)
        elif not (now.same_content(file) if now.known else now.version == file.version):
            status.source.setdefault("changed", []).append(file.name)
    if there:
        status.source["new"] = sorted(there)
