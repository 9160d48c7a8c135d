"""Lock, fetch and compare: what a resource comes to at its source, in the lock and on this disk.

`lock` asks the sources; `fetch` asks only for what the lock names, and locks what is not locked
yet; `compare` asks both. Of two processes that fetch in one project, the second waits, and finds
everything there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

from kaggleops.bucket.checksums import checksum_of, kind_of
from kaggleops.errors import KaggleOpsError
from kaggleops.resources.files import (
    DamagedError,
    File,
    Placed,
    Staging,
    full_disk_leaves_nothing,
    state_of,
    verify,
)
from kaggleops.resources.lock import Locked, read_lock, write_lock
from kaggleops.resources.manifest import Manifest, Resource
from kaggleops.resources.origins import Origin, Progress
from kaggleops.resources.places import data_root, folder_for, mounted_at
from kaggleops.resources.sources import origin_of
from kaggleops.resources.transfer import (
    WORKERS,
    Step,
    all_of,
    fetch_from,
    refuse_changed,
    refuse_full_disk,
)


@dataclass(frozen=True)
class Fetched:
    """What a fetch did, or would do.

    Args:
        steps: the files that it fetched, or would fetch.
        right: how many were right already.
        mounted: the resources that the platform has mounted, with where.
    """

    steps: list[Step]
    right: int
    mounted: dict[str, Path]

    @property
    def size(self) -> int:
        """How many bytes it fetched, or would fetch."""
        return sum(max(0, step.file.size) for step in self.steps)


def lock(
    manifest: Manifest,
    names: Sequence[str] = (),
    progress: Progress = lambda size: None,
) -> dict[str, Locked]:
    """Write to the lock what resources come to at their sources now, and return it all.

    Args:
        manifest: the manifest.
        names: which resources; all by default.
        progress: is called with the bytes that have come.

    Raises:
        KaggleOpsError: a source cannot be read; what came before it is locked.
    """
    placed = Placed(data_root(manifest.project))
    with placed.alone():
        return _lock(manifest, manifest.named(names), placed, progress)


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

    Args:
        manifest: the manifest.
        names: which resources; all by default.
        force: whether to replace what somebody changed here.
        dry_run: whether to do nothing but say what would be done.
        begin: is called once, with the bytes that are to come.
        progress: is called with the bytes that have come.

    Raises:
        UsageError: somebody changed a file here.
        KaggleOpsError: a file cannot be fetched as it is locked.
    """
    resources = manifest.named(names)
    placed = Placed(data_root(manifest.project))
    with placed.alone():
        locked = read_lock(manifest)
        new = [each for each in resources if not _is_locked(each, locked)]
        if new:
            locked |= _listed(manifest, new) if dry_run else _lock(manifest, new, placed, progress)
        found = {
            each.name: mounted_at(each, locked[each.name], manifest, placed) for each in resources
        }
        mounted = {name: path for name, path in found.items() if path}
        wanted = [each for each in resources if each.name not in mounted]
        steps = [step for each in wanted for step in _steps(each, locked, manifest, placed)]
        total = sum(len(locked[each.name].files) for each in wanted)
        if not (force or dry_run):
            refuse_changed(steps)
        begin(sum(max(0, step.file.size) for step in steps))
        if steps and not dry_run:
            refuse_full_disk(steps)
            for name, some in groupby(steps, key=lambda step: step.resource.name):
                origin = origin_of(manifest[name], manifest.project, locked[name].origin)
                fetch_from(origin, list(some), placed, progress)
        placed.save()
    return Fetched(steps, total - len(steps), mounted)


def _steps(
    resource: Resource, locked: Mapping[str, Locked], manifest: Manifest, placed: Placed
) -> Iterator[Step]:
    """Yield what is to be fetched of a resource, and what is in the way."""
    folder = folder_for(resource, manifest)
    for file in locked[resource.name].files:
        state = state_of(folder / file.name, file, placed, any_content=resource.skip_if_exist)
        if state != "right":
            yield Step(resource, file, folder / file.name, state)


def _is_locked(resource: Resource, locked: dict[str, Locked]) -> bool:
    return resource.name in locked and locked[resource.name].holds_for(resource)


def _lock(
    manifest: Manifest,
    resources: Sequence[Resource],
    placed: Placed,
    progress: Progress,
) -> dict[str, Locked]:
    locked = read_lock(manifest)
    for resource in resources:
        origin = origin_of(resource, manifest.project)
        before = {file.name: file for file in getattr(locked.get(resource.name), "files", ())}
        staging = Staging(folder_for(resource, manifest))
        listed = origin.list(resource.files)
        try:
            with full_disk_leaves_nothing(staging), ThreadPoolExecutor(WORKERS) as pool:
                how = (origin, staging, placed, progress)
                files = all_of(
                    pool.submit(_known, each, before.get(each.name), *how) for each in listed
                )
                staging.clear()
        finally:
            placed.save()
        locked[resource.name] = Locked(resource.asked, origin.name, tuple(files))
        write_lock(manifest, locked)  # after each: what the next one's failure must not undo
    return locked


def _listed(manifest: Manifest, resources: Sequence[Resource]) -> dict[str, Locked]:
    """Return what resources would come to, as far as their sources say it."""
    locked = {}
    for resource in resources:
        origin = origin_of(resource, manifest.project)
        with ThreadPoolExecutor(WORKERS) as pool:
            files = all_of(pool.submit(origin.detail, each) for each in origin.list(resource.files))
        locked[resource.name] = Locked(resource.asked, "", tuple(files))
    return locked


def _known(
    file: File,
    before: File | None,
    origin: Origin,
    staging: Staging,
    placed: Placed,
    progress: Progress,
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
    part = staging.part(file)
    try:
        origin.read(file, part, progress)
        checksum = file.checksum or checksum_of(part)
        known = replace(file, size=part.stat().st_size, checksum=checksum)
        verify(part, known, f"fetching {path}")
    except BaseException as error:
        if isinstance(error, DamagedError) or not origin.resumes:
            staging.drop(file)  # nothing could go on with it
        raise
    if not path.exists() or placed.is_ours(path):
        part.replace(staging.part(known))
        placed.right(staging.place(known), checksum)
    else:
        staging.drop(file)
    return known


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
        elif not _is_same(now, file, origin):
            status.source.setdefault("changed", []).append(file.name)
    if there:
        status.source["new"] = sorted(there)


def _is_same(now: File, file: File, origin: Origin) -> bool:
    """Tell whether the source has a file as it was locked."""
    if file.version and now.version == file.version:
        return True
    now = origin.detail(now)
    return now.same_content(file) if now.known else now.version == file.version
