"""Bring files to where they belong: only what is missing or old, several at once, whole or not.

What somebody changed on this disk is never replaced unless that is asked for, and nothing gets its
name before its checksum is that of the lock.

A large file comes in slices: several at once, and after a kill only those that had not come. A
slice is written to its place in the part, and then its number to a file beside it. Should the
machine itself have gone down between a write and the disk, the checksum of the whole tells.
"""

import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.resources.files import (
    DamagedError,
    File,
    Placed,
    Staging,
    State,
    finished_slices,
    full_disk_leaves_nothing,
    verify,
)
from kaggleops.resources.manifest import Resource
from kaggleops.resources.origins import Origin, Progress

_T = TypeVar("_T")

SLICE = 16 << 20
"""Bytes of one request. On loopback with 30 ms a request, larger ones were no faster."""

WORKERS = 16
"""Requests at once. Each waits for the network most of its time."""

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
    """Refuse to replace what somebody changed here.

    Raises:
        UsageError: something was.
    """
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
    """Fetch, verify and place files of one resource.

    Args:
        origin: where they come from.
        steps: which; at least one.
        placed: what was put on this disk; it is kept up to date and saved.
        progress: is called with the bytes that have come.

    Raises:
        KaggleOpsError: a file cannot be fetched as the lock has it, or cannot be written.
    """
    refuse_full_disk(steps)
    staging = Staging(steps[0].folder)
    try:
        with (
            ThreadPoolExecutor(WORKERS, thread_name_prefix="fetch") as pool,
            full_disk_leaves_nothing(staging),
        ):
            _fetch(origin, steps, staging, placed, pool, progress)
            staging.clear()
    finally:
        staging.leave()
        placed.save()


def _fetch(
    origin: Origin,
    steps: Sequence[Step],
    staging: Staging,
    placed: Placed,
    pool: ThreadPoolExecutor,
    progress: Progress,
) -> None:
    def fetch(step: Step, read: Callable[[File, Path], None]) -> None:
        _undamaged(step.file, staging, read)
        place(step)

    def place(step: Step) -> None:
        if step.path.is_dir():
            raise KaggleOpsError(f"fetching {step.path}", "a folder is in its place", "Move it.")
        placed.right(staging.place(step.file), step.file.checksum)

    def in_slices(file: File, part: Path) -> None:
        fetch_in_slices(origin, file, part, pool, progress)

    def whole(file: File, part: Path) -> None:
        try:
            origin.read(file, part, progress)
        except BaseException:
            if not origin.resumes:
                staging.drop(file)  # nothing could go on with it
            raise

    if origin.hands_out_many:
        steps = _fetch_many(origin, steps, staging, place, progress)
    large = [step for step in steps if origin.slices and step.file.size > SLICE]
    # The workers are the slices' while there are some: a worker that waits for others could have
    # to wait for itself.
    for step in large:
        fetch(step, in_slices)
    all_of(pool.submit(partial(fetch, step, whole)) for step in steps if step not in large)


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
            verify(part, file, f"fetching {staging.folder / file.name}")
            place(left.pop(file))
            progress(file.size)

    origin.read_many(list(small), take)
    return list(left.values())


def _undamaged(file: File, staging: Staging, read: Callable[[File, Path], None]) -> None:
    """Read a file into its part until that is what the lock says.

    Raises:
        DamagedError: it never is.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        part = staging.part(file)
        read(file, part)
        try:
            verify(part, file, f"fetching {staging.folder / file.name}")
        except DamagedError as error:
            staging.drop(file)
            if attempt == _ATTEMPTS:
                hint = "Nothing was kept of it. Fetch again; `kaggleops data status` compares."
                raise DamagedError(error.doing, error.problem, hint) from error
        else:
            return


def refuse_full_disk(steps: Sequence[Step]) -> None:
    """Refuse to begin what cannot end.

    Raises:
        KaggleOpsError: a disk has less space than its files take.
    """
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


def fetch_in_slices(
    origin: Origin, file: File, part: Path, pool: Executor, progress: Progress
) -> None:
    """Write a file's content to a path, going on with what is there.

    Args:
        origin: where it comes from.
        file: which; its size is known.
        part: where to.
        pool: what runs the requests.
        progress: is told of what was there, too.

    Raises:
        KaggleOpsError: as `Origin.read_slice` does.
    """
    journal = finished_slices(part)
    finished = _finished(journal) if part.exists() and part.stat().st_size == file.size else set()
    if not finished:
        journal.unlink(missing_ok=True)
        with part.open("wb") as content:
            content.truncate(file.size)
    writing = threading.Lock()

    def fetch(number: int) -> None:
        start = number * SLICE
        end = min(start + SLICE, file.size)
        if number not in finished:
            origin.read_slice(file, part, start, end)
            with writing, journal.open("a") as lines:
                lines.write(f"{number}\n")
        progress(end - start)

    count = -(-file.size // SLICE)
    all_of(pool.submit(fetch, number) for number in range(count))


def _finished(journal: Path) -> set[int]:
    try:
        # The last line may be cut off: without its end it may be another number.
        lines = journal.read_text().splitlines(keepends=True)
    except OSError:
        return set()
    return {int(line) for line in lines if line.endswith("\n")}


def all_of(futures: Iterable["Future[_T]"]) -> list[_T]:
    """Return what all came to; after the first failure, those that have not begun never do."""
    pending = list(futures)
    try:
        return [future.result() for future in pending]
    finally:
        for future in pending:
            future.cancel()
        wait(pending)
