"""A process that unpacks runs and makes their rows, while another writes rows into the database.

It is told and answers through its standard input and output, and ends when nobody is there to ask.
It imports neither MLflow nor SQLAlchemy, and takes some 50 MB.
"""

import gc
import marshal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO, Any

from kaggleops.index.preparation import Prepared, prepare, unpacked
from kaggleops.index.tables import TABLES
from kaggleops.mlruns import Change, EntityStore, Kind
from kaggleops.mlruns.layout import parse_key

_RUN_TABLES = TABLES[Kind.RUN]


class Worker:
    """The process, for whoever has started it."""

    def __init__(self, store: EntityStore, process: "subprocess.Popen[bytes]") -> None:
        self._store = store
        self._process = process
        # A single thread: so the answers come in the order of the questions.
        self._talk = ThreadPoolExecutor(1)

    def prepare(self, runs: Sequence[Change]) -> Future[list[Prepared]]:
        """Begin to unpack runs, and to make their rows."""
        return self._talk.submit(self._prepare, runs)

    def _prepare(self, runs: Sequence[Change]) -> list[Prepared]:
        bucket, root = self._store.bucket, self._store.artifact_root
        question = [
            (each.id.key, each.version, each.packed, bucket.object_uri(each.id.key), root)
            for each in runs
        ]
        assert self._process.stdin is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101
        try:
            _send(self._process.stdin, question)
            answers = _receive(self._process.stdout)
        except (OSError, EOFError):
            # Killed, as it took the most memory perhaps. It only saves time.
            return [prepare(unpacked(each, bucket.object_uri(each.id.key), root)) for each in runs]
        return [
            Prepared(each.id, each.version, _named(rows), *rest)
            for each, (rows, *rest) in zip(runs, answers, strict=True)
        ]

    def end(self) -> None:
        """Let it go, whatever it is doing."""
        self._process.kill()
        self._talk.shutdown()
        self._process.communicate()


@contextmanager
def worker(store: EntityStore) -> Iterator[Worker]:
    """Run one beside this process.

    Args:
        store: of the bucket whose runs it prepares.
    """
    command = [sys.executable, "-m", __name__]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    started = Worker(store, process)
    try:
        yield started
    finally:
        started.end()


def _send(pipe: IO[bytes], message: list[Any]) -> None:
    data = marshal.dumps(message)
    pipe.write(len(data).to_bytes(8))
    pipe.write(data)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> list[Any]:
    # Not marshal.load: asking the pipe for a few bytes at a time takes longer than all else.
    size = int.from_bytes(pipe.read(8))
    if not size:
        raise EOFError
    message: list[Any] = marshal.loads(pipe.read(size))  # noqa: S302 - our own process's
    return message


def _named(rows: Sequence[Any] | None) -> Any:
    return None if rows is None else dict(zip(_RUN_TABLES, rows, strict=True))


def _answer(key: str, version: str, packed: bytes, where: str, root: str) -> tuple[Any, ...]:
    entity_id = parse_key(key)
    assert entity_id is not None  # noqa: S101 - it was made of one
    made = prepare(unpacked(Change(entity_id, version, packed=packed), where, root))
    rows = None if made.rows is None else [made.rows[table] for table in _RUN_TABLES]
    return rows, made.problem, made.heartbeat, made.may_be_silent, made.digests


def main() -> None:
    """Answer until the other process closes the pipe."""
    # What is made here has no cycles, and looking for some takes a fifth of the time.
    gc.disable()
    while True:
        try:
            question = _receive(sys.stdin.buffer)
        except EOFError:
            return
        _send(sys.stdout.buffer, [_answer(*each) for each in question])
        gc.collect()


if __name__ == "__main__":
    main()
