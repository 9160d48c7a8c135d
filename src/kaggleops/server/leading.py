"""Which one of the processes that serve an index refreshes it.

A lock that the operating system, or the database, takes back from whoever dies: on a file beside
an index in SQLite, in the database itself where that is PostgreSQL.
"""

import fcntl
from pathlib import Path
from typing import IO

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from kaggleops.platforms.folders import private_file

_LOCK = 0x6B6167676C656F70  # "kaggleop": the locks of a database are numbers


class Leadership:
    """The right to refresh an index. Not thread-safe.

    Args:
        url: the index's database.
    """

    def __init__(self, url: str) -> None:
        parsed = sa.make_url(url)
        self._lock = (
            _FileLock(Path(f"{parsed.database}.lock"))
            if parsed.get_backend_name() == "sqlite"
            else _DatabaseLock(parsed)
        )

    def held(self) -> bool:
        """Return whether this process leads, taking the lead if nobody has it."""
        return self._lock.held()

    def release(self) -> None:
        """Let another one lead."""
        self._lock.release()


class _FileLock:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def held(self) -> bool:
        if self._file is None:
            file = private_file(self._path).open("w")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                return False
            self._file = file
        return True

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class _DatabaseLock:
    def __init__(self, url: sa.URL) -> None:
        # A connection that is kept: the lock is its own.
        self._engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        self._connection: sa.Connection | None = None

    def held(self) -> bool:
        if self._connection is None:
            connection = self._engine.connect()
            if not connection.scalar(sa.select(sa.func.pg_try_advisory_lock(_LOCK))):
                connection.close()
                return False
            self._connection = connection
        try:
            self._connection.scalar(sa.select(1))
        except SQLAlchemyError:  # the connection broke, and the lock with it
            self.release()
            return False
        return True

    def release(self) -> None:
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
            self._connection = None
