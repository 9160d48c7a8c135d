"""The index that machines share through the bucket: who reads its snapshot, who writes it, when.

1. Whoever has an empty index reads it.
2. Whoever has one that differs enough writes it: more than a twentieth, and more than `FEW`, of the
   objects were announced or are new since. A process that goes on, a server, does so for anything
   new once it has listed the bucket, which it does once a day, so that a new machine need not.
   Nobody writes twice in an hour.
3. A write names the version that it replaces, as every write does. That version is looked up before
   the bucket is polled once more, and the rows are read after that. So what `kaggleops forget`
   deletes before it empties the object does not come back with a writer that was about to write.
4. Nobody needs it: who may not write it goes on, and of two that write at once one has done so.
"""

import io
import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import sqlalchemy as sa

from kaggleops.bucket import ABSENT, BucketError, ObjectTooLargeError, Version
from kaggleops.errors import first_line
from kaggleops.index.database import ENTITIES, MARK, SNAPSHOT, reading, versions_of, writing
from kaggleops.index.snapshot import (
    HEAD_BYTES,
    MAX_BYTES,
    Head,
    Loaded,
    Progress,
    SnapshotError,
    head_of,
    load,
    save,
)
from kaggleops.index.transaction import REFUSED, record_problem
from kaggleops.layout import INDEX_KEY
from kaggleops.mlruns import EntityStore, Mark

FEW = 200
"""Objects that a new machine reads one by one in no time."""

_PART = 20  # so many of them have to be new
_HOUR, _HALF_A_DAY = 3600.0, 12 * 3600.0
_IN_MEMORY = 8 << 20  # bytes
_EMPTY = 20  # bytes of a compressed nothing, which a deletion leaves (mlruns/deletion.py)

_log = logging.getLogger("kaggleops")


class Sharing:
    """One process's part in it. Not thread-safe."""

    def __init__(self, engine: sa.Engine, store: EntityStore) -> None:
        self._engine = engine
        self._bucket = store.bucket
        self._artifact_root = store.artifact_root
        self._may_write = True

    def take(self, now: float, progress: Progress) -> Loaded | None:
        """Fill an empty index from the bucket's snapshot; return None where it stays empty.

        `now` is in seconds since the epoch; `progress` is called with how many objects are in, and
        how many there are to be.
        """
        problem = ""
        try:
            with self._opened() as found:
                return found and self._load(*found, now, progress)
        except SnapshotError as error:
            problem = str(error)
        except REFUSED as error:
            reason = first_line(getattr(error, "orig", None) or error)
            problem = str(SnapshotError(f"the database does not take it ({reason})"))
        except OSError as error:
            _log.info("The snapshot of the index cannot be fetched: %s", error)
        with writing(self._engine) as connection:
            record_problem(connection, INDEX_KEY, problem)
        return None

    def give(self, refresh: Callable[[], object], now: float, *, lasting: bool) -> bool:
        """Write the bucket's snapshot where it differs enough from the index; tell whether it did.

        `refresh` brings the index up to date; `lasting` says whether this process goes on.
        """
        if not self._is_due(now, lasting):
            return False
        try:
            version = self._version_to_replace()
            if not self._is_due(now, lasting):
                return False
        except BucketError as error:
            return self._gives_up(error, now)
        refresh()
        try:
            with tempfile.TemporaryDirectory(prefix="kaggleops-") as folder:
                file = Path(folder, "index")
                with file.open("w+b") as into, reading(self._engine) as connection:
                    head = save(connection, into, self._bucket.uri, self._artifact_root)
                version = self._bucket.write(INDEX_KEY, file, expected=version)
        except (BucketError, SnapshotError, OSError) as error:
            return self._gives_up(error, now)
        with writing(self._engine) as connection:
            _remember(connection, version, head, now)
            record_problem(connection, INDEX_KEY, "")
        return True

    def _version_to_replace(self) -> Version:
        """Return at which version the bucket's snapshot is, and look at one that is not known."""
        there = self._bucket.stat(INDEX_KEY)
        if there is None:
            return ABSENT
        with reading(self._engine) as connection:
            known = connection.scalar(sa.select(SNAPSHOT.c.version))
        if there.size > _EMPTY and there.version != known:
            begin = io.BytesIO()
            self._bucket.read_span(there, begin, 0, min(there.size, HEAD_BYTES))
            try:
                head = head_of(begin.getvalue())
            except SnapshotError as error:
                self._may_write = not error.newer
            else:
                with writing(self._engine) as connection:
                    _remember(connection, there.version, head)
        return there.version

    def _gives_up(self, error: Exception, now: float) -> bool:
        _log.debug("The snapshot of the index is not written: %s", error)
        with writing(self._engine) as connection:
            if not connection.execute(SNAPSHOT.update().values(looked=now)).rowcount:
                _remember(connection, "", None, now)
        return False

    def _is_due(self, now: float, lasting: bool) -> bool:
        with reading(self._engine) as connection:
            mark = connection.execute(sa.select(MARK)).first()
            known = connection.execute(sa.select(SNAPSHOT)).first()
            since = now - known.looked if known else -1.0
            if not self._may_write or 0 <= since < _HOUR:
                return False  # before they are counted: every poll comes here
            count = sa.select(sa.func.count()).where(ENTITIES.c.version != ABSENT)
            entities = connection.scalar(count) or 0
        if entities < FEW:
            return False
        if known is None:
            return True
        if known.log_id != (mark.log_id if mark else ""):
            return True
        # As a rule a change is announced twice: that it may come, and that it is over.
        announced = (mark.sequence if mark else 0) - known.sequence
        added = entities - known.entities
        enough = max(FEW, entities // _PART)
        if lasting and mark and mark.listed > known.looked and not 0 <= since < _HALF_A_DAY:
            enough = 0
        return announced > 2 * enough or abs(added) > enough

    @contextmanager
    def _opened(self) -> Iterator[tuple[BinaryIO, Version] | None]:
        """Yield the bucket's snapshot and its version; None where it has none."""
        try:
            found = self._bucket.read(INDEX_KEY, unless=ABSENT, at_most=_IN_MEMORY)
        except ObjectTooLargeError:
            entry = self._bucket.stat(INDEX_KEY)
            if entry is None:
                yield None
                return
            if entry.size > MAX_BYTES:
                raise SnapshotError(f"it has {entry.size:,} bytes") from None
            with self._bucket.on_disk(entry) as path, path.open("rb") as file:
                yield file, entry.version
            return
        data = found.data if found else b""
        is_emptied = len(data) == _EMPTY and data.startswith(b"\x1f\x8b")
        yield (io.BytesIO(data), found.version) if found and data and not is_emptied else None

    def _load(
        self, content: BinaryIO, version: Version, now: float, progress: Progress
    ) -> Loaded | None:
        with writing(self._engine) as connection:
            if versions_of(connection):
                return None  # somebody else was faster
            where = self._bucket.uri, self._artifact_root
            loaded = load(connection, content, *where, int(now * 1000), progress)
            _remember(connection, version, loaded.head)
        return loaded


def _remember(
    connection: sa.Connection, version: Version, head: Head | None, looked: float | None = None
) -> None:
    if looked is None:
        looked = connection.scalar(sa.select(SNAPSHOT.c.looked)) or 0.0
    mark = (head and head.mark) or Mark("", 0, {})
    where = {"log_id": mark.log_id, "sequence": mark.sequence}
    row = {"version": version, "entities": head.entities if head else 0, "looked": looked}
    connection.execute(SNAPSHOT.delete())
    connection.execute(SNAPSHOT.insert().values(**row, **where))
