"""Lock, fetch and compare: what a resource comes to at its source, in the lock and on this disk.

`lock` asks the sources; `fetch` asks only for what the lock names, and locks what is not locked
yet; `compare` asks both. Of two processes that fetch in one project, the second waits, and finds
everything there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

from kaggleops.bucket.checksums import kind_of
from kaggleops.errors import KaggleOpsError
from kaggleops.resources import transfer
from kaggleops.resources.files import File, Placed, Staging, full_disk_leaves_nothing, state_of
from kaggleops.resources.lock import Locked, is_locked, read_lock, write_lock
from kaggleops.resources.manifest import Manifest, Resource
from kaggleops.resources.origins import Origin, Progress
from kaggleops.resources.places import data_root, folder_for, mounted_at
from kaggleops.resources.sources import origin_of


@dataclass(frozen=True)
class Fetched:
    """What a fetch did, or would do."""

    steps: list[transfer.Step]  # the files that it fetched, or would fetch
    right: int  # how many were right already
    mounted: dict[str, Path]  # the resources that the platform has mounted, with where

    @property
    def size(self) -> int:
        """How many bytes it fetched, or would fetch."""
        return sum(max(0, step.file.size) for step in self.steps)


def lock(
    manifest: Manifest,
    names: Sequence[str] = (),
    progress: Progress = lambda size: None,
    came: Callable[[Path], object] = lambda path: None,
) -> dict[str, Locked]:
    """Write to the lock what resources come to at their sources now, and return it all.

    Of all resources unless `names` are given; `progress` is called with the bytes that have come,
    `came` with each file that was brought, as its source tells no checksum. Raises KaggleOpsError
    if a source cannot be read; what came before it is locked.
    """
    placed = Placed(data_root(manifest.project))
    with placed.alone():
        return _lock(manifest, manifest.named(names), placed, progress, came)


def fetch(
    manifest: Manifest,
    names: Sequence[str] = (),
    *,
    force: bool = False,
    dry_run: bool = False,
    begin: Callable[[int], object] = lambda size: None,
    progress: Progress = lambda size: None,
) -> Fetched:
    """Bring resources to this disk as they are locked; those that are not locked yet are.

    All of them unless `names` are given. With `force`, what somebody changed here is replaced, too;
    a `dry_run` does nothing but say what would be done. `begin` is called once, with the bytes that
    are to come, `progress` with those that have come. Raises UsageError if somebody changed a file
    here, KaggleOpsError if one cannot be fetched as it is locked.
    """
    resources = manifest.named(names)
    placed = Placed(data_root(manifest.project))
    with placed.alone():
        locked = read_lock(manifest)
        new = [each for each in resources if not is_locked(each, locked)]
        came: set[Path] = set()
        if dry_run:
            for each in new:  # as far as its source says it
                origin = origin_of(each, manifest.project)
                files = transfer.of_each(origin.detail, origin.list(each.files))
                locked[each.name] = Locked(each.asked, "", tuple(files))
        elif new:
            locked |= _lock(manifest, new, placed, progress, came.add)
        found = {
            each.name: mounted_at(each, locked[each.name], manifest, placed) for each in resources
        }
        mounted = {name: path for name, path in found.items() if path}
        wanted = [each for each in resources if each.name not in mounted]
        steps = [step for each in wanted for step in _steps(each, locked, manifest, placed)]
        all_files = [(each, file) for each in wanted for file in locked[each.name].files]
        brought = [
            transfer.Step(each, file, path, "missing")
            for each, file in all_files
            if (path := folder_for(each, manifest) / file.name) in came
        ]
        if not (force or dry_run):
            transfer.refuse_changed(steps)
        begin(sum(max(0, step.file.size) for step in steps))
        if steps and not dry_run:
            transfer.refuse_full_disk(steps)
            for name, some in groupby(steps, key=lambda step: step.resource.name):
                origin = origin_of(manifest[name], manifest.project, locked[name].origin)
                transfer.fetch_from(origin, list(some), placed, progress)
        placed.save()
    return Fetched([*brought, *steps], len(all_files) - len(brought) - len(steps), mounted)


def _steps(
    resource: Resource, locked: Mapping[str, Locked], manifest: Manifest, placed: Placed
) -> Iterator[transfer.Step]:
    """Yield what is to be fetched of a resource, and what is in the way."""
    folder = folder_for(resource, manifest)
    for file in locked[resource.name].files:
        state = state_of(folder / file.name, file, placed, any_content=resource.skip_if_exist)
        if state != "right":
            yield transfer.Step(resource, file, folder / file.name, state)


def _lock(
    manifest: Manifest,
    resources: Sequence[Resource],
    placed: Placed,
    progress: Progress,
    came: Callable[[Path], object],
) -> dict[str, Locked]:
    locked = read_lock(manifest)
    for resource in resources:
        origin = origin_of(resource, manifest.project)
        staging = Staging(folder_for(resource, manifest))
        listed = origin.list(resource.files)
        earlier = locked[resource.name].files if resource.name in locked else ()
        before = {file.name: file for file in earlier}

        def known(file: File) -> File:
            return _known(file, before.get(file.name), origin, staging, placed, progress, came)  # noqa: B023 - not later

        try:
            with full_disk_leaves_nothing(staging):
                files = transfer.of_each(known, listed)
                staging.clear()
        finally:
            placed.save()
        locked[resource.name] = Locked(resource.asked, origin.name, tuple(files))
        write_lock(manifest, locked)  # after each: what the next one's failure must not undo
    return locked


def _known(
    file: File,
    before: File | None,
    origin: Origin,
    staging: Staging,
    placed: Placed,
    progress: Progress,
    came: Callable[[Path], object],
) -> File:
    """Return a file with its size and checksum; if only its bytes tell them, put it in its place.

    `before` is what the lock says of it.
    """
    if file.known:
        return file
    if before and (
        (file.version and file.version == before.version)
        or (file.checksum and file.checksum == before.checksum)
    ):
        return before
    file = origin.detail(file)
    if file.known:
        return file
    path = staging.folder / file.name
    if file.checksum and path.is_file():
        checksum = placed.checksum(path, kind_of(file.checksum))
        if checksum == file.checksum:
            placed.right(path, checksum)
            return replace(file, size=path.stat().st_size)
    known = transfer.read_whole(origin, file, staging, progress)
    if not path.exists() or placed.is_ours(path):
        placed.right(staging.place(file, staging.part(file)), known.checksum)
        came(path)
    else:
        staging.part(file).unlink()
    return known


@dataclass
class Status:
    """How one resource stands."""

    resource: Resource
    locked: Locked | None  # what it came to; None where it has not been locked
    folder: Path  # where its files lie, or would
    stale: bool = False  # whether the manifest has changed since it was locked
    # the names of the files that are not right on this disk, by what is wrong: "missing", "old" (as
    # an older lock had them) or "changed" (here, by somebody)
    disk: dict[str, list[str]] = field(default_factory=dict)
    # of those that the source has otherwise than the lock: "changed", "gone" or "new"
    source: dict[str, list[str]] = field(default_factory=dict)
    problem: str = ""  # why the source cannot be asked

    @property
    def right(self) -> bool:
        """Whether disk, lock and source agree."""
        return bool(self.locked) and not (self.stale or self.disk or self.source or self.problem)


def compare(manifest: Manifest, names: Sequence[str] = ()) -> list[Status]:
    """Return how resources stand, all of them unless `names` are given.

    Raises UsageError if there is no such resource, or the lock cannot be read.
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
        return Status(resource, None, folder)
    folder = mounted_at(resource, locked, manifest, placed) or folder
    status = Status(resource, locked, folder, locked.asked != resource.asked)
    for file in locked.files:
        state = state_of(folder / file.name, file, placed, any_content=resource.skip_if_exist)
        if state != "right":
            status.disk.setdefault(state, []).append(file.name)
    source: dict[str, list[str]] = {}
    try:
        origin = origin_of(resource, manifest.project, locked.origin)
        there = {file.name: file for file in origin.look(resource.files)}
        for file in locked.files:
            now = there.pop(file.name, None)
            if now is None:
                source.setdefault("gone", []).append(file.name)
            elif not _is_same(now, file, origin):
                source.setdefault("changed", []).append(file.name)
        if there:
            source["new"] = sorted(there)
        status.source = source
    except KaggleOpsError as error:
        status.problem = str(error)
    return status


def _is_same(now: File, file: File, origin: Origin) -> bool:
    """Tell whether the source has a file as it was locked."""
    if file.version and now.version == file.version:
        return True
    now = origin.detail(now)
    return now.same_content(file) if now.known else now.version == file.version
