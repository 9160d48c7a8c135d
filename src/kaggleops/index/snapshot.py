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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, BinaryIO

import sqlalchemy as sa

from kaggleops.bucket import ABSENT
from kaggleops.errors import KaggleOpsError
from kaggleops.index import tables as t
from kaggleops.index.blocks import (
    AT_ONCE,
    COLUMNS,
    LINKS,
    Found,
    decoded,
    encoded,
    name_of,
    owner_column,
    text_columns,
)
from kaggleops.index.database import ENTITIES, MARK
from kaggleops.index.tables import TABLES, Owned, Row
from kaggleops.index.transaction import default_rows
from kaggleops.index.writes import add
from kaggleops.layout import DEFAULT_ID, INDEX_KEY, parse_key
from kaggleops.mlruns import EntityId, Kind, Mark, experiment
from kaggleops.mlruns.change_log import a_number, a_text
from kaggleops.tags import LOST

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


def digest_of(address: str) -> str:
    """Return what a snapshot says instead of a bucket's address, which may name a person's home."""
    return hashlib.blake2b(address.encode(), digest_size=16).hexdigest()


# -- writing ---------------------------------------------------------------------------------------

_PARTS = {Kind.EXPERIMENT: 1, Kind.RUN: 2, Kind.REGISTERED_MODEL: 2}
"""Slashes in a key; 3 in those of other kinds."""


def save(connection: sa.Connection, into: BinaryIO, address: str, artifact_root: str) -> Head:
    """Write a snapshot of an index of the bucket at an address; SnapshotError if it is too large.

    The connection is in a transaction that sees one state of the database.
    """
    head = _head_now(connection, address)
    with gzip.GzipFile("", "wb", _LEVEL, into, mtime=0) as stream:
        written = _Writer(connection, stream, artifact_root, head).write()
    if into.tell() > MAX_BYTES or written > _most(into.tell()):
        raise SnapshotError(f"{into.tell():,} bytes are too many")
    return head


def _most(compressed: int) -> int:
    """Return how many bytes there may be in so many."""
    return _GROWTH * compressed + _LINE_BYTES


def _head_now(connection: sa.Connection, address: str) -> Head:
    row = connection.execute(sa.select(MARK)).first()
    count = sa.select(sa.func.count()).where(ENTITIES.c.version != ABSENT)
    default = experiment(DEFAULT_ID)
    table = t.EXPERIMENTS.table
    shown = connection.scalar(
        sa.select(sa.literal(1)).where(table.c.experiment_id == int(DEFAULT_ID)).limit(1)
    )
    own = connection.scalar(sa.select(ENTITIES.c.key).where(ENTITIES.c.key == default.key))
    return Head(
        digest_of(address),
        Mark(row.log_id, row.sequence, json.loads(row.open)) if row else None,
        row.listed if row else 0.0,
        connection.scalar(count) or 0,
        bool(shown) and own is None,
    )


_ByName = dict[Owned, dict[str | int, list[Row]]]
"""Of each table, the rows of each entity by what its column says whose they are."""


class _Writer:
    def __init__(
        self, connection: sa.Connection, stream: gzip.GzipFile, root: str, head: Head
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._root = root
        self._head = head
        self._homes = {DEFAULT_ID} if head.default else set[str]()
        self._runs: set[str] = set()
        self._entities = 0
        self._unsettled: list[str] = []
        self._bytes = 0

    def write(self) -> int:
        """Write it all, and return how many bytes that were."""
        self._put(_line(self._head.content))
        for kind in TABLES:
            for chunk in self._settled(kind):
                for part in self._parts(kind, chunk):
                    self._write(kind, part)
        few = len(self._unsettled) <= _MOST_UNSETTLED
        unsettled = self._unsettled if few else None
        self._put(_line({"entities": self._entities, "unsettled": unsettled}))
        return self._bytes

    def _put(self, line: bytes) -> None:
        self._bytes += self._stream.write(line)

    def _settled(self, kind: Kind) -> Iterator[list[Found]]:
        """Yield the entities of a kind that nothing is amiss with, some at once."""
        table, chunk = ENTITIES.c, list[Found]()
        columns = sa.select(
            table.key,
            table.version,
            (table.problem == "") & (table.waits_for == "") & table.may_be_silent.is_(None),
        )
        streamed = {"yield_per": 5 * AT_ONCE}
        found = self._connection.execute(columns.order_by(table.key), execution_options=streamed)
        for key, version, settled in found:
            if key.count("/") != _PARTS.get(kind, 3):
                continue
            entity_id = parse_key(key)
            if entity_id is None or entity_id.kind is not kind:
                continue
            if not settled or not self._has_home(entity_id):
                self._leave_out(entity_id)
                continue
            chunk.append((entity_id, version))
            if len(chunk) == AT_ONCE:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def _has_home(self, entity_id: EntityId) -> bool:
        needs_none = entity_id.kind in (Kind.EXPERIMENT, Kind.REGISTERED_MODEL)
        return needs_none or entity_id.experiment_id in self._homes

    def _leave_out(self, entity_id: EntityId) -> None:
        if len(self._unsettled) <= _MOST_UNSETTLED:
            self._unsettled.append(entity_id.key)

    def _parts(self, kind: Kind, chunk: Sequence[Found]) -> Iterator[list[Found]]:
        """Yield parts of a chunk whose rows are not too large to be held at once."""
        names = {name_of(each): each for each, _ in chunk}
        sizes: dict[EntityId, int] = dict.fromkeys(names.values(), 0)
        for table in TABLES[kind]:
            source, owner, mine = _rows_of(table, names)
            lengths = (
                sa.func.length(sa.cast(table.table.c[name], sa.Text))
                for name in text_columns(table)
            )
            row = sum((sa.func.coalesce(each, 0) for each in lengths), sa.literal(_ROW_BYTES))
            of_each = sa.select(owner, sa.func.sum(row)).select_from(source).where(mine)
            for name, size in self._connection.execute(of_each.group_by(owner)):
                sizes[names[name]] += size
        part, weight = list[Found](), 0
        for each in chunk:
            # One that lies in two experiments is shown in one of them, and left out.
            size = sizes.get(each[0], _BLOCK_BYTES + 1)
            if size > _BLOCK_BYTES:
                self._leave_out(each[0])
                continue
            if weight + size > _BLOCK_BYTES:
                yield part
                part, weight = [], 0
            part.append(each)
            weight += size
        if part:
            yield part

    def _write(self, kind: Kind, part: Sequence[Found]) -> None:
        rows = self._read(kind, part)
        part = [each for each in part if self._is_whole(each[0], rows)]
        for line, entities in self._accepted(kind, part, rows):
            self._put(line)
            self._entities += len(entities)
            if kind is Kind.EXPERIMENT:
                self._homes |= {each.experiment_id for each, _ in entities}
            elif kind is Kind.RUN:
                self._runs |= {each.name for each, _ in entities}

    def _read(self, kind: Kind, part: Sequence[Found]) -> _ByName:
        names = [name_of(each) for each, _ in part]
        rows: _ByName = {}
        for table in TABLES[kind]:
            source, owner, mine = _rows_of(table, names)
            columns = (table.table.c[name] for name in table.columns)
            query = sa.select(*columns, owner.label("owner")).select_from(source).where(mine)
            rows[table] = of_each = {name: list[Row]() for name in names}
            # As the driver has them: making them SQLAlchemy's takes as long as all else here.
            for row in self._connection.execute(query).cursor.fetchall():
                of_each[row[-1]].append(row[:-1])
        return rows

    def _is_whole(self, entity_id: EntityId, rows: _ByName) -> bool:
        """Tell whether an entity's rows are of it alone, and nothing else is needed for them."""
        main, name = TABLES[entity_id.kind][0], name_of(entity_id)
        mine = rows[main][name]
        whole = len(mine) == 1
        if whole and entity_id.kind is not Kind.REGISTERED_MODEL:
            whole = str(main.named(mine[0])["experiment_id"]) == entity_id.experiment_id
        if entity_id.kind is Kind.RUN:
            whole = whole and not any(key == LOST for _, key, _ in rows[t.TAGS][name])
        elif entity_id.kind is Kind.LOGGED_MODEL:
            place = t.LOGGED_MODEL_METRICS.columns.index("run_id")
            points = rows[t.LOGGED_MODEL_METRICS][name]
            whole = whole and all(point[place] in self._runs for point in points)
        if not whole:
            self._leave_out(entity_id)
        return whole

    def _accepted(
        self, kind: Kind, part: Sequence[Found], rows: _ByName
    ) -> Iterator[tuple[bytes, Sequence[Found]]]:
        """Yield blocks of these entities that whoever reads them reads as they are here."""
        if not part:
            return
        names = [name_of(each) for each, _ in part]
        mine = {table: [of_each[name] for name in names] for table, of_each in rows.items()}
        try:
            content = encoded(kind, part, mine, self._root)
            found, read = decoded(content, self._root)
            same = all(read[each] == [*chain.from_iterable(mine[each])] for each in mine)
            if found == [*part] and same:
                yield _line(content), part
                return
        except Exception:  # noqa: BLE001, S110 - whatever a value came to
            pass
        if len(part) == 1:
            self._leave_out(part[0][0])
        for each in part if len(part) > 1 else ():
            yield from self._accepted(kind, [each], rows)


def _line(content: Any) -> bytes:
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    line = text.encode() + b"\n"
    if len(line) > _LINE_BYTES:
        raise ValueError("a line is too long")
    return line


def _rows_of(
    table: Owned, names: Iterable[str | int]
) -> tuple[sa.FromClause, sa.ColumnElement[Any], sa.ColumnElement[bool]]:
    """Return where a table's rows of these entities are: from what, whose, and which."""
    columns, names = table.table.c, [*names]
    if table not in LINKS:
        owner: sa.ColumnElement[Any] = columns[owner_column(table)]
        return table.table, owner, owner.in_(names)
    links = t.INPUTS.table.c
    of_run = links.destination_type == "RUN"
    owner = sa.case((of_run, links.destination_id), else_=links.source_id)
    mine = (of_run & links.destination_id.in_(names)) | (
        links.source_type.in_(("RUN_INPUT", "RUN_OUTPUT")) & links.source_id.in_(names)
    )
    if table is t.INPUTS:
        return table.table, owner, mine
    return table.table.join(t.INPUTS.table, links.input_uuid == columns.input_uuid), owner, mine


# -- reading ---------------------------------------------------------------------------------------


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
    REFUSED (transaction.py) if the database does not take a value.
    """
    with _indexes_aside(connection):
        return _Reader(connection, content, address, artifact_root, now_ms).read(progress)


@contextmanager
def _indexes_aside(connection: sa.Connection) -> Iterator[None]:
    """Make the indexes of runs' tables after a block, in SQLite: an eighth faster than row by row.

    After an error the whole transaction is undone.
    """
    found: list[tuple[str, str]] = []
    if connection.dialect.name == "sqlite":
        query = "SELECT name, sql, tbl_name FROM sqlite_master WHERE type = 'index'"
        tables = {table.name for table in TABLES[Kind.RUN]}
        rows = connection.exec_driver_sql(query).all()
        found = [(name, sql) for name, sql, table in rows if sql and table in tables]
    for name, _ in found:
        connection.exec_driver_sql(f'DROP INDEX "{name}"')
    yield
    for _, sql in found:
        connection.exec_driver_sql(sql)


class _Reader:
    def __init__(
        self,
        connection: sa.Connection,
        content: BinaryIO,
        address: str,
        root: str,
        now_ms: int,
    ) -> None:
        self._connection = connection
        self._lines = _lines(content)
        self._address = address
        self._root = root
        self._now_ms = now_ms
        self._homes: set[str] = set()
        self._entities = 0

    def read(self, progress: Progress) -> Loaded:
        with _explained():
            head = Head.of(next(self._lines))
        if head.default:
            self._homes.add(DEFAULT_ID)
            add(self._connection, [default_rows(self._root)])
        unsettled: tuple[EntityId, ...] | None = ()
        ended = False
        for line in self._lines_left():
            with _explained():
                block = _parsed(line)
                if ended:
                    raise ValueError("something follows its end")
                if ended := isinstance(block, dict):
                    unsettled = self._end(block)
                    continue
                found, rows = decoded(block, self._root)
                self._check(found, rows)
            self._write(found, rows)
            progress(self._entities, head.entities)
        with _explained():
            if not ended:
                raise ValueError("it ends too early")
            self._check_links()
        # Of another bucket that this one is a copy of, perhaps: it has another history.
        goes_on = unsettled is not None and head.bucket == digest_of(self._address)
        return Loaded(head, self._entities, head.mark if goes_on else None, unsettled or ())

    def _lines_left(self) -> Iterator[bytes]:
        while True:
            with _explained():
                if (line := next(self._lines, None)) is None:
                    return
            yield line

    def _end(self, content: Any) -> tuple[EntityId, ...] | None:
        if content["entities"] != self._entities:
            raise ValueError("entities are missing")
        keys = content["unsettled"]
        if keys is None:
            return None
        ids = [found for key in keys if (found := parse_key(key))]
        if not len(ids) == len(keys) <= _MOST_UNSETTLED:
            raise ValueError("a key that is none")
        return tuple(ids)

    def _check(self, found: Sequence[Found], rows: Mapping[Owned, list[Row]]) -> None:
        """Raise ValueError where something is needed that is not there."""
        kind = found[0][0].kind
        if kind is Kind.EXPERIMENT:
            self._homes |= {each.experiment_id for each, _ in found}
        elif kind is not Kind.REGISTERED_MODEL and any(
            each.experiment_id not in self._homes for each, _ in found
        ):
            raise ValueError("an experiment is missing")
        place = t.LOGGED_MODEL_METRICS.columns.index("run_id")
        if wanted := {point[place] for point in rows.get(t.LOGGED_MODEL_METRICS, ())}:
            runs = t.RUNS.table.c.run_uuid
            there = self._connection.scalars(sa.select(runs).where(runs.in_(wanted)))
            if wanted - set(there):
                raise ValueError("a run is missing")

    def _write(self, found: Sequence[Found], rows: Mapping[Owned, list[Row]]) -> None:
        add(self._connection, [rows])
        self._connection.execute(
            ENTITIES.insert(),
            [
                {
                    "key": each.key,
                    "version": version,
                    "problem": "",
                    "waits_for": "",
                    "heard_ms": self._now_ms,
                    "may_be_silent": None,
                }
                for each, version in found
            ],
        )
        self._entities += len(found)

    def _check_links(self) -> None:
        uuid = t.INPUTS.table.c.input_uuid
        twice = sa.select(uuid).group_by(uuid).having(sa.func.count() > 1).limit(1)
        if self._connection.scalar(twice) is not None:
            raise ValueError("two inputs have one id")


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


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (SnapshotError, OSError) as error:
        if isinstance(error, gzip.BadGzipFile):
            raise SnapshotError(f"it is damaged ({error})") from error
        raise
    except sa.exc.SQLAlchemyError:
        raise
    except Exception as error:  # whatever stands in it
        reason = str(error).partition("\n")[0][:100] or type(error).__name__
        raise SnapshotError(f"it is damaged ({reason})") from error


def head_of(begin: bytes) -> Head:
    """Return what a snapshot says of itself first; `begin` are its first `HEAD_BYTES`.

    Raises SnapshotError if it is damaged, or of another format.
    """
    with _explained():
        text = zlib.decompressobj(wbits=31).decompress(begin, _LINE_BYTES)
        return Head.of(text[: text.index(b"\n") + 1])
