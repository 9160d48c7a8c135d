"""Bring files to where they belong: only what is missing or old, several at once, whole or not.

What somebody changed on this disk is never replaced unless that is asked for, and nothing gets its
name before its checksum is that of the lock.
"""

import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.resources.files import (
    DamagedError,
    File,
    Placed,
    Staging,
    State,
    full_disk_leaves_nothing,
    verified,
)
from kaggleops.resources.manifest import Resource
from kaggleops.resources.origins import Origin, Progress

_T = TypeVar("_T")
_R = TypeVar("_R")

_WORKERS = 16  # requests at once; each waits for the network most of its time
_ATTEMPTS = 3  # to get a file undamaged

_SMALL = 1 << 20  # bytes of a file that may come with many others
_MANY = 100  # files


@dataclass(frozen=True)
class Step:
    """One file that is not right on this disk."""

    resource: Resource
    file: File
    path: Path
    state: State

    @property
    def folder(self) -> Path:
        """The folder of its resource's files."""
        return self.path.parents[self.file.name.count("/")]


def refuse_changed(steps: Sequence[Step]) -> None:
    """Raise `UsageError` where somebody changed here what is to be replaced."""
    changed = [step.path for step in steps if step.state == "changed"]
    if changed:
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise UsageError(
            f"fetching {', '.join(dict.fromkeys(step.resource.name for step in steps))}",
            f"{changed[0]} differs from the lock{more}",
            "`--force` replaces it; `kaggleops data status` compares.",
        )


def fetch_from(
    origin: Origin,
    steps: Sequence[Step],
    placed: Placed,
    progress: Progress = lambda size: None,
) -> None:
    """Fetch, verify and place files of one resource, at least one; `placed` is saved with them.

    `progress` is called with the bytes that have come. Raises KaggleOpsError if a file cannot be
    fetched as the lock has it, or cannot be written.
    """
    refuse_full_disk(steps)
    staging = Staging(steps[0].folder)

    def place(step: Step) -> None:
        if step.path.is_dir():
            raise KaggleOpsError(f"fetching {step.path}", "a folder is in its place", "Move it.")
        path = staging.place(step.file, staging.part(step.file))
        placed.right(path, step.file.checksum)

    def fetch(step: Step) -> None:
        read_whole(origin, step.file, staging, progress)
        place(step)

    try:
        with full_disk_leaves_nothing(staging):
            if origin.hands_out_many:
                steps = _fetch_many(origin, steps, staging, place, progress)
            of_each(fetch, steps)
            staging.clear()
    finally:
        staging.leave()
        placed.save()


def _fetch_many(
    origin: Origin,
    steps: Sequence[Step],
    staging: Staging,
    place: Callable[[Step], None],
    progress: Progress,
) -> Sequence[Step]:
    """Fetch the small files if they are many; return what is still to be fetched."""
    small = {step.file: step for step in steps if step.file.size <= _SMALL}
    if len(small) < _MANY:
        return steps
    left = {step.file: step for step in steps}

    def take(file: File, content: bytes) -> None:
        part = staging.part(file)
        part.write_bytes(content)
        with suppress(DamagedError):  # then it is read again
            verified(part, file, f"fetching {staging.folder / file.name}")
            place(left.pop(file))
            progress(file.size)

    origin.read_many(list(small), take)
    return list(left.values())


def read_whole(origin: Origin, file: File, staging: Staging, progress: Progress) -> File:
    """Read a file into its part until it is what it should be; DamagedError if it never is.

    Returns it with what it came to.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        part = staging.part(file)
        try:
            origin.read(file, part, progress)
            return verified(part, file, f"fetching {staging.folder / file.name}")
        except DamagedError as error:
            part.unlink(missing_ok=True)
            if attempt == _ATTEMPTS:
                hint = "Nothing was kept of it. Fetch again; `kaggleops data status` compares."
                raise DamagedError(error.doing, error.problem, hint) from error
        except BaseException:
            if not origin.resumes:
                part.unlink(missing_ok=True)  # nothing could go on with it
            raise
    raise AssertionError("unreachable")


def refuse_full_disk(steps: Sequence[Step]) -> None:
    """Raise `KaggleOpsError` where a disk has less space than its files take."""
    needed: dict[int, int] = {}
    for step in steps:
        there = next(each for each in step.path.parents if each.exists())
        disk = there.stat().st_dev
        to_come = max(0, step.file.size - Staging(step.folder).come(step.file))
        needed[disk] = needed.get(disk, 0) + to_come
        free = shutil.disk_usage(there).free
        if needed[disk] > free:
            total = sum(each.file.size for each in steps)
            problem = f"{total / 1e9:.1f} GB to fetch, and only {free / 1e9:.1f} GB free"
            hint = "Free some space, or fetch less: `kaggleops data fetch NAME`."
            raise KaggleOpsError(f"fetching into {there}", problem, hint)


def of_each(work: Callable[[_T], _R], things: Iterable[_T]) -> list[_R]:
    """Return what many things come to, several at once; after a failure, no other is begun."""
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="data") as pool:
        pending = [pool.submit(work, each) for each in things]
        try:
            return [future.result() for future in pending]
        finally:
            for future in pending:
                future.cancel()
