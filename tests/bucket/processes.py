"""Real processes that use a bucket at the same moment, and what each of them does there."""

import multiprocessing
import os
from collections.abc import Callable, Iterable
from multiprocessing.synchronize import Barrier
from typing import Any

from kaggleops.bucket import ABSENT, ConflictError, open_bucket

_SETTINGS = ("STORAGE_EMULATOR_HOST", "AWS_")

# Forked from a process that has all imports and no threads: quick, and nothing is inherited.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.bucket.processes", "google.cloud.storage"])


def together(task: Callable[..., Any], tasks: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Return what `task(barrier, *arguments)` returns in a process for each of `tasks`."""
    arguments = list(tasks)
    barrier = _context.Barrier(len(arguments))
    results: Any = _context.Queue()
    # The server of forks has the environment of the test that was first to need it.
    environment = {name: value for name, value in os.environ.items() if name.startswith(_SETTINGS)}
    workers = [
        _context.Process(target=_work, args=(task, environment, barrier, results, number, each))
        for number, each in enumerate(arguments)
    ]
    for worker in workers:
        worker.start()
    found = dict(results.get(timeout=240) for _ in workers)
    for worker in workers:
        worker.join()
    return [found[number] for number in range(len(workers))]


def _work(
    task: Callable[..., Any],
    environment: dict[str, str],
    barrier: Barrier,
    results: Any,
    number: int,
    arguments: tuple[Any, ...],
) -> None:
    for name in [name for name in os.environ if name.startswith(_SETTINGS)]:
        del os.environ[name]
    os.environ.update(environment)
    try:
        result = task(barrier, *arguments)
    except Exception as error:  # noqa: BLE001 - the test shows it
        result = f"{type(error).__name__}: {error}"
    results.put((number, result))


def create(barrier: Barrier, uri: str, key: str, data: bytes) -> bool:
    """Create the object at the same moment as all others; tell whether this was the one."""
    bucket = open_bucket(uri, patience=20)
    barrier.wait()
    try:
        bucket.write(key, data, expected=ABSENT)
    except ConflictError:
        return False
    return True


def increment(barrier: Barrier, uri: str, key: str, times: int) -> int:
    """Add 1 to the number in the object, so many times; return how many conflicts it took."""
    bucket = open_bucket(uri, patience=20)
    barrier.wait()
    conflicts = 0
    while times:
        stored = bucket.read(key)
        assert stored is not None
        try:
            # Its own mark, lest the same sum by another be taken for its own write.
            number = int(stored.data.split()[0]) + 1
            mark = f"{number} {os.getpid()}".encode()
            bucket.write(key, mark, expected=stored.version)
        except ConflictError:
            conflicts += 1
        else:
            times -= 1
    return conflicts


def read_while_written(barrier: Barrier, uri: str, key: str, times: int) -> bool:
    """Read so many times; tell whether it was always one of the contents ever written, whole."""
    bucket = open_bucket(uri, patience=20)
    barrier.wait()
    for _ in range(times):
        stored = bucket.read(key)
        assert stored is not None
        if len(stored.data) != 200_000 or len(set(stored.data)) != 1:
            return False
    return True
