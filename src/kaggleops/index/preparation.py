"""What a change in the bucket comes to: rows, or the reason why there are none.

This needs neither the database nor the bucket, MLflow nor SQLAlchemy: so a second process, of some
50 MB, unpacks the runs of a large import while the first one writes rows. It is asked and answers
through its standard input and output, and ends when nobody is there to ask.
"""

import gc
import marshal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from kaggleops.bucket import Version
from kaggleops.index.rows import rows_of
from kaggleops.index.tables import TABLES, Rows
from kaggleops.layout import parse_key
from kaggleops.mlruns import Change, Entity, EntityId, EntityStore, Kind
from kaggleops.mlruns.liveness import silence_allowed
from kaggleops.mlruns.poll import unpacked
from kaggleops.platforms.machine import memory

_RUN_TABLES = TABLES[Kind.RUN]
_MEMORY_OF_POINT = 1024  # bytes of this machine's; a row, or sorting one, takes some 250


@dataclass(frozen=True)
class Prepared:
    """A change, ready to be written."""

    id: EntityId  # of which entity
    version: Version  # at which it is now
    rows: Rows | None = None  # what it comes to; None where it is gone or has a problem
    problem: str = ""  # why there are no rows, or ""
    # when its run said that it is alive, in ms since the epoch; 0 if it never did
    heartbeat: int = 0
    # after how many seconds of silence its run is lost; None if it does not run
    may_be_silent: int | None = None


def prepare(change: Change) -> Prepared:
    """Return what a change, not packed, comes to."""
    entity = change.entity
    if entity is None:
        return Prepared(change.id, change.version, problem=str(change.problem or ""))
    rows, problem = None, ""
    try:
        if change.id.kind is Kind.LOGGED_MODEL:
            check_room(entity)
        rows = rows_of(entity)
    except Exception as error:  # noqa: BLE001
        # Whatever stands in an object: MLflow's code for it was not made for that.
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        problem = f"indexing {change.id}: it holds what nobody expects ({reason})."
    silence = silence_allowed(entity) if change.id.kind is Kind.RUN else None
    return Prepared(change.id, change.version, rows, problem, entity.notes.heartbeat, silence)


def check_room(entity: Entity) -> None:
    """Raise ValueError where an entity has more metric points than this machine has room for."""
    files = [data for path, data in entity.files.items() if path.startswith("metrics/")]
    points, most = sum(data.count(b"\n") for data in files), memory() // _MEMORY_OF_POINT
    if points > most:
        raise ValueError(f"{points:,} points at once, and this machine has room for {most:,}")


class Worker:
    """The second process, for whoever has started it."""

    def __init__(self, store: EntityStore, process: "subprocess.Popen[bytes]") -> None:
        self._store = store
        self._process = process
        # A single thread: so the answers come in the order of the questions.
        self._talk = ThreadPoolExecutor(1)
        self._asked: deque[Future[list[Prepared]]] = deque()

    @property
    def waiting(self) -> int:
        """How many questions are not answered yet."""
        while self._asked and self._asked[0].done():
            self._asked.popleft()
        return len(self._asked)

    def prepare(self, runs: Sequence[Change]) -> Future[list[Prepared]]:
        """Begin to unpack runs, and to make their rows."""
        self._asked.append(self._talk.submit(self._prepare, runs))
        return self._asked[-1]

    def _prepare(self, runs: Sequence[Change]) -> list[Prepared]:
        uri, root = self._store.bucket.object_uri, self._store.artifact_root
        question = [(e.id.key, e.version, e.packed, uri(e.id.key), root) for e in runs]
        assert self._process.stdin is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101
        try:
            _send(self._process.stdin, question)
            answers = _receive(self._process.stdout)
        except (OSError, EOFError):
            # Killed, as it took the most memory perhaps. It only saves time.
            return [prepare(unpacked(each, uri(each.id.key), root)) for each in runs]
        prepared = []
        for each, (values, *rest) in zip(runs, answers, strict=True):
            rows = None if values is None else dict(zip(_RUN_TABLES, values, strict=True))
            prepared.append(Prepared(each.id, each.version, rows, *rest))
        return prepared


@contextmanager
def worker(store: EntityStore) -> Iterator[Worker]:
    """Run a process that prepares the runs of a bucket, beside this one."""
    command = [sys.executable, "-m", __name__]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    started = Worker(store, process)
    try:
        yield started
    finally:  # whatever it is doing
        process.kill()
        started._talk.shutdown()
        process.communicate()


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


def _answer(key: str, version: str, packed: bytes, where: str, root: str) -> tuple[Any, ...]:
    entity_id = parse_key(key)
    assert entity_id is not None  # noqa: S101 - it was made of one
    made = prepare(unpacked(Change(entity_id, version, packed=packed), where, root))
    rows = None if made.rows is None else [made.rows[table] for table in _RUN_TABLES]
    return rows, made.problem, made.heartbeat, made.may_be_silent


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
