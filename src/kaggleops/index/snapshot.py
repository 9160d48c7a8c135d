"""The rows of an index as an object of the bucket, for machines that have none (bucket-format.md).

A new machine would read each run, one request a run. It reads this object instead, and what has
changed since: the object says up to where in the change log it is.

1. It is a cache. Deleting it loses nothing; one that is torn, damaged, hostile, or of an older or a
   newer release is passed over with a message, and the runs are read.
2. It holds what is settled only: objects without a problem that wait for no other, and no run that
   is running. What is not settled is named, and whoever reads this reads those from the bucket. So
   nothing that depends on one machine's clock, or on what one database has room for, gets around.
3. It is data, and checked cell by cell (blocks.py). What a writer's own check does not let through
   is left out.
4. An object's version counts more: what is at another version in the bucket is read there.
5. Written and read block by block, whatever their number: in the memory that a block takes.
"""

import gzip
import hashlib
import io
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, BinaryIO

import sqlalchemy as sa

from kaggleops.bucket import ABSENT
from kaggleops.errors import KaggleOpsError
from kaggleops.index import tables as t
from kaggleops.index.blocks import AT_ONCE, COLUMNS, LINKS, Found, decoded, encoded
from kaggleops.index.database import ENTITIES, MARK
from kaggleops.index.tables import TABLES, Owned, Row, add
from kaggleops.index.transaction import default_rows
from kaggleops.layout import DEFAULT_ID, INDEX_KEY, parse_key
from kaggleops.mlruns import EntityId, Kind, Mark, experiment
from kaggleops.mlruns.change_log import a_number, a_text

FORMAT = 1
"""Of the object. Whoever changes what `TABLES` holds, or how, raises it."""

HEAD_BYTES = 1 << 18
"""Compressed: no first line has more."""

MAX_BYTES = 1 << 29
"""Compressed: some million runs, which take longer than a request each is worth waiting for."""

_BLOCK_BYTES = 1 << 20  # of the texts of a block; an entity with more is left out
_LINE_BYTES = 4 << 20
_GROWTH = 100  # times as large as it is compressed it may be
_MOST_UNSETTLED = 2000  # each costs a reader a request; of more the bucket is listed
_ROW_BYTES = 64  # besides its texts
_LEVEL = 6

Progress = Callable[[int, int], None]


class SnapshotError(KaggleOpsError):
    """A snapshot that is passed over, and whether a newer release than this one could read it."""

    def __init__(self, problem: str, *, newer: bool = False) -> None:
        hint = "It is passed over, and the runs are read; deleting it loses nothing."
        super().__init__(f"reading {INDEX_KEY}", problem, hint)
        self.newer = newer


@dataclass(frozen=True)
class Head:
    """What a snapshot says of itself first."""

    bucket: str  # which it was made of: a digest of its address
    mark: Mark | None  # up to where in the change log it is; None where that is not known
    listed: float  # when the bucket was last listed, in seconds since the epoch
    entities: int  # how many objects its writer knew
    default: bool  # whether it shows the Default experiment, which has no object

    @classmethod
    def of(cls, line: bytes) -> "Head":
        """Read a first line; raise `SnapshotError` where it is of another release."""
        content = _parsed(line)
        found = content.get("format") if isinstance(content, dict) else None
        if type(found) is not int:
            raise ValueError("it has no format")
        if found != FORMAT or content["columns"] != COLUMNS:
            age = "a newer" if found > FORMAT else "an older" if found < FORMAT else "another"
            problem = f"{age} release of KaggleOps has written it"
            raise SnapshotError(problem, newer=found > FORMAT)
        log, listed = content["log"], content["listed"]
        if type(listed) not in (int, float) or not math.isfinite(listed):
            raise ValueError("there is no such time")
        mark = None if log is None else Mark.checked(log["id"], log["sequence"], log["open"])
        number, default = a_number(content["entities"]), content["default"] is True
        return cls(a_text(content["bucket"]), mark, float(listed), number, default)

    @property
    def content(self) -> dict[str, Any]:
        """It as it stands in the object."""
        mark = self.mark
        return {
            "format": FORMAT,
            "bucket": self.bucket,
            "log": mark and {"id": mark.log_id, "sequence": mark.sequence, "open": mark.open},
            "listed": self.listed,
            "entities": self.entities,
            "default": self.default,
            "columns": COLUMNS,
        }


@dataclass(frozen=True)
class Loaded:
    """What a snapshot has brought into an index."""

    head: Head  # what it says of itself
    entities: int  # how many objects
    # from where to go on in the change log; None where the bucket is to be listed
    mark: Mark | None
    unsettled: tuple[EntityId, ...]  # what is to be looked at in the bucket


def _digest_of(address: str) -> str:
    """Return what a snapshot says instead of a bucket's address, which may name a person's home."""
    return hashlib.blake2b(address.encode(), digest_size=16).hexdigest()


def _most(compressed: int) -> int:
    """Return how many bytes there may be in so many."""
    return _GROWTH * compressed + _LINE_BYTES


class _Before:
    """What the blocks so far hold that later ones need."""

    def __init__(self, head: Head) -> None:
        self._homes = {DEFAULT_ID} if head.default else set[str]()
        self._runs: set[str] = set()

    def take(self, found: Sequence[Found], rows: Mapping[Owned, list[Row]]) -> None:
        """Raise ValueError where a block needs what is not there; else remember what it holds."""
        ids = [each for each, _ in found]
        kind, homes = ids[0].kind, {each.experiment_id for each in ids}
        if kind not in (Kind.EXPERIMENT, Kind.REGISTERED_MODEL) and homes - self._homes:
            raise ValueError("an experiment is missing")
        place = t.LOGGED_MODEL_METRICS.columns.index("run_id")
        if {point[place] for point in rows.get(t.LOGGED_MODEL_METRICS, ())} - self._runs:
            raise ValueError("a run is missing")
        if kind is Kind.EXPERIMENT:
            self._homes |= homes
        if kind is Kind.RUN:
            self._runs |= {each.name for each in ids}


# -- writing ---------------------------------------------------------------------------------------


def save(connection: sa.Connection, into: BinaryIO, address: str, artifact_root: str) -> Head:
    """Write a snapshot of an index of the bucket at an address; SnapshotError if it is too large.

    The connection is in a transaction that sees one state of the database.
    """
    head = _head_now(connection, address)
    with gzip.GzipFile("", "wb", _LEVEL, into, mtime=0) as stream:
        written = _Writer(connection, stream, artifact_root, _Before(head)).write(head)
    if into.tell() > MAX_BYTES or written > _most(into.tell()):
        raise SnapshotError(f"{into.tell():,} bytes are too many")
    return head


def _head_now(connection: sa.Connection, address: str) -> Head:
    row = connection.execute(sa.select(MARK)).first()
    count = sa.select(sa.func.count()).where(ENTITIES.c.version != ABSENT)
    ids = t.EXPERIMENTS.table.c.experiment_id
    shown = connection.scalar(sa.select(ids).where(ids == int(DEFAULT_ID)))
    own = sa.select(ENTITIES.c.key).where(ENTITIES.c.key == experiment(DEFAULT_ID).key)
    return Head(
        _digest_of(address),
        Mark(row.log_id, row.sequence, json.loads(row.open)) if row else None,
        row.listed if row else 0.0,
        connection.scalar(count) or 0,
        shown is not None and connection.scalar(own) is None,
    )


@dataclass
class _Writer:
    connection: sa.Connection
    stream: gzip.GzipFile
    root: str
    before: _Before
    entities: int = 0
    unsettled: list[str] = field(default_factory=list)
    written: int = 0

    def write(self, head: Head) -> int:
        """Write it all, and return how many bytes that were."""
        self._put(_line(head.content))
        for kind in TABLES:
            for chunk in self._settled(kind):
                self._write(kind, chunk)
        few = len(self.unsettled) <= _MOST_UNSETTLED
        unsettled = self.unsettled if few else None
        self._put(_line({"entities": self.entities, "unsettled": unsettled}))
        return self.written

    def _put(self, line: bytes) -> None:
        self.written += self.stream.write(line)

    def _settled(self, kind: Kind) -> Iterator[list[Found]]:
        """Yield the entities of a kind that nothing is amiss with, some at once."""
        table, chunk = ENTITIES.c, list[Found]()
        columns = sa.select(
            table.key,
            table.version,
            (table.problem == "") & (table.waits_for == "") & table.may_be_silent.is_(None),
        )
        streamed = {"yield_per": 5 * AT_ONCE}
        found = self.connection.execute(columns.order_by(table.key), execution_options=streamed)
        for key, version, settled in found:
            entity_id = parse_key(key)
            if entity_id is None or entity_id.kind is not kind:
                continue
            if not settled:
                self._leave_out(entity_id)
                continue
            chunk.append((entity_id, version))
            if len(chunk) == AT_ONCE:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def _leave_out(self, entity_id: EntityId) -> None:
        if len(self.unsettled) <= _MOST_UNSETTLED:
            self.unsettled.append(entity_id.key)

    def _write(self, kind: Kind, chunk: list[Found]) -> None:
        """Write what whoever reads it reads as it is here; of the rest, say that it is left out."""
        names = [t.name_of(each) for each, _ in chunk]
        if self._size(kind, names) <= _BLOCK_BYTES and self._is_taken(kind, chunk, names):
            self.entities += len(chunk)
        elif len(chunk) == 1:
            self._leave_out(chunk[0][0])
        else:
            half = len(chunk) // 2
            self._write(kind, chunk[:half])
            self._write(kind, chunk[half:])

    def _size(self, kind: Kind, names: Sequence[str | int]) -> int:
        size = 0
        for table in TABLES[kind]:
            texts = (sa.cast(table.table.c[name], sa.Text) for name in table.columns)
            lengths = (sa.func.coalesce(sa.func.length(each), 0) for each in texts)
            total = sa.func.sum(sum(lengths, sa.literal(_ROW_BYTES)))
            query = sa.select(total).where(t.belonging(table, names))
            size += self.connection.scalar(query) or 0
        return size

    def _is_taken(self, kind: Kind, chunk: list[Found], names: Sequence[str | int]) -> bool:
        try:
            mine = self._read(kind, names)
            content = encoded(kind, chunk, mine, self.root)
            line = _line(content)
            found, read = decoded(content, self.root)
            if found != chunk or any(read[e] != [*chain.from_iterable(mine[e])] for e in mine):
                return False
            self.before.take(found, read)
        except sa.exc.SQLAlchemyError:
            raise
        except Exception:  # noqa: BLE001 - whatever a value came to
            return False
        self._put(line)
        return True

    def _read(self, kind: Kind, names: Sequence[str | int]) -> dict[Owned, list[list[Row]]]:
        """Return of each table the rows of each entity."""
        rows: dict[Owned, list[list[Row]]] = {}
        runs: dict[str, str] = {}  # whose run's each input or output is
        for table in TABLES[kind]:
            query = sa.select(*table.table.c).where(t.belonging(table, names))
            # As the driver has them: making them SQLAlchemy's takes as long as all else here.
            found = self.connection.execute(query).cursor.fetchall()
            if table is t.INPUTS:
                runs = t.owners(found)
            place = table.columns.index(table.owner)
            of_each: dict[Any, list[Row]] = {name: [] for name in names}
            for row in found:
                of_each[runs[row[0]] if table in LINKS else row[place]].append(row)
            rows[table] = [*of_each.values()]
        return rows


def _line(content: Any) -> bytes:
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    line = text.encode() + b"\n"
    if len(line) > _LINE_BYTES:
        raise ValueError("a line is too long")
    return line


# -- reading ---------------------------------------------------------------------------------------


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever stands in it
        known = isinstance(error, (SnapshotError, sa.exc.SQLAlchemyError, OSError))
        if known and not isinstance(error, gzip.BadGzipFile):
            raise
        reason = str(error).partition("\n")[0][:100] or type(error).__name__
        raise SnapshotError(f"it is damaged ({reason})") from error


@_explained()
def load(
    connection: sa.Connection,
    content: BinaryIO,
    address: str,
    artifact_root: str,
    now_ms: int,
    progress: Progress = lambda *_: None,
) -> Loaded:
    """Write the rows of a snapshot into an empty index, in a transaction to be undone if it fails.

    `now_ms` is in milliseconds since the epoch; `progress` is called with how many entities are in,
    and how many there are to be. Raises SnapshotError if it is none, or one of another release;
    SQLAlchemyError if the database does not take a value.
    """
    lines = _lines(content)
    head = Head.of(next(lines))
    if head.default:
        add(connection, [default_rows(artifact_root)])
    before, entities, end = _Before(head), 0, None
    kept = {"problem": "", "waits_for": "", "heard_ms": now_ms, "may_be_silent": None}
    for line in lines:
        if end:
            raise ValueError("something follows its end")
        block = _parsed(line)
        if isinstance(block, dict):
            end = block
            continue
        found, rows = decoded(block, artifact_root)
        before.take(found, rows)
        add(connection, [rows])
        values = [{"key": each.key, "version": version, **kept} for each, version in found]
        connection.execute(ENTITIES.insert(), values)
        entities += len(found)
        progress(entities, head.entities)
    if not end:
        raise ValueError("it ends too early")
    if end["entities"] != entities:
        raise ValueError("entities are missing")
    uuid = t.INPUTS.table.c.input_uuid
    twice = sa.select(uuid).group_by(uuid).having(sa.func.count() > 1).limit(1)
    if connection.scalar(twice) is not None:
        raise ValueError("two inputs have one id")
    keys = end["unsettled"]
    unsettled = [each for key in keys or () if (each := parse_key(key))]
    if not len(unsettled) == len(keys or ()) <= _MOST_UNSETTLED:
        raise ValueError("a key that is none")
    # Of another bucket that this one is a copy of, perhaps: it has another history.
    goes_on = keys is not None and head.bucket == _digest_of(address)
    return Loaded(head, entities, head.mark if goes_on else None, tuple(unsettled))


def _lines(content: BinaryIO) -> Iterator[bytes]:
    size = content.seek(0, io.SEEK_END)
    content.seek(0)
    left = _most(size)
    with gzip.GzipFile(fileobj=content) as stream:
        while line := stream.readline(_LINE_BYTES + 1):
            left -= len(line)
            if not line.endswith(b"\n") or left < 0:
                raise ValueError("a line has no end")
            yield line


def _parsed(line: bytes) -> Any:
    """Return what stands in a line; raise ValueError where it is no JSON of ours."""
    return json.loads(line.decode(), parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


@_explained()
def head_of(begin: bytes) -> Head:
    """Return what a snapshot says of itself first; `begin` are its first `HEAD_BYTES`.

    Raises SnapshotError if it is damaged, or of another format.
    """
    text = zlib.decompressobj(wbits=31).decompress(begin, _LINE_BYTES)
    return Head.of(text[: text.index(b"\n") + 1])
