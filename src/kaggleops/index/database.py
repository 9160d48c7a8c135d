"""The database of an index: MLflow's own schema, and beside it what the index keeps for itself.

MLflow's migrations make and upgrade the schema. Four tables are ours: which version of each object
the rows were made of, how far a long run's points are in, how far the bucket's change log has been
read, and which bucket this is. A database that
holds anything else than this bucket's index is refused, so that nobody's tracking database is ever
imported into.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from mlflow.store.db import utils as mlflow_db
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from kaggleops.bucket import Version
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.mlruns import EntityId

_OURS = sa.MetaData()

ENTITIES = sa.Table(
    "kaggleops_entities",
    _OURS,
    sa.Column("key", sa.String(1024), primary_key=True),
    sa.Column("version", sa.String(255), nullable=False),
    sa.Column("problem", sa.Text, nullable=False),
    sa.Column("waits_for", sa.String(1024), nullable=False),
    sa.Column("heard_ms", sa.BigInteger, nullable=False),
    sa.Column("may_be_silent", sa.BigInteger, nullable=True),
)
"""Every object that was looked at: at which version; why it is not in the index as it is in the
bucket, or ""; without which other object that cannot be mended, or ""; when it was last seen to be
new (ms since the epoch); and after how many seconds of silence its run is lost, if it runs."""

INDEX = sa.Table(
    "kaggleops_index",
    _OURS,
    sa.Column("bucket", sa.String(1024), primary_key=True),
    sa.Column("analyzed", sa.Integer, nullable=False),
)
"""The bucket that this is an index of, and how many entities there were when the database last
took its statistics."""

POINTS = sa.Table(
    "kaggleops_points",
    _OURS,
    sa.Column("run_uuid", sa.String(32), primary_key=True),
    sa.Column("digests", sa.Text, nullable=False),
)
"""Of each long run, up to where its metric points are in the index (growing.py)."""

MARK = sa.Table(
    "kaggleops_mark",
    _OURS,
    sa.Column("log_id", sa.String(255), primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("open", sa.Text, nullable=False),
    sa.Column("listed", sa.Float, nullable=False),
)
"""Up to where the change log's announcements are in the index (marks.py), and when the bucket was
last listed (seconds since the epoch). At most one row."""

_NAME_ONE = "Name one as sqlite:////folder/index.db or postgresql://host/name."
_REPAIR = {
    True: "An index holds nothing that the bucket does not: delete it, and it is made anew.",
    False: "Is it running, and are its address and the password right?",
}

_BUSY = 20  # seconds for which one waits while another writes to SQLite
_CACHE = 32  # MiB


class DatabaseError(KaggleOpsError):
    """The index's database cannot be reached, read or written."""


def open_database(url: str, bucket_uri: str) -> sa.Engine:
    """Return the database that holds the index of a bucket, made if it is not there.

    Args:
        url: as SQLAlchemy has it: `sqlite:////folder/index.db`, `postgresql://host/name`.
        bucket_uri: the address of the bucket.

    Raises:
        UsageError: that is no such address, or the database holds something else.
        DatabaseError: it cannot be reached or upgraded.
    """
    try:
        parsed = sa.make_url(url)
        doing = f"opening the index {url}"
        in_a_file = parsed.get_backend_name() == "sqlite"
        if in_a_file and parsed.database in (None, "", ":memory:"):
            raise UsageError(doing, "an index in memory would serve no other process", _NAME_ONE)
        if in_a_file:
            Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
        engine = _engine(parsed)
    except (ArgumentError, NoSuchModuleError, ImportError, OSError) as error:
        problem = f"no database can lie there ({error})"
        raise UsageError("opening the index", problem, _NAME_ONE) from error
    try:
        _require_ours(engine, bucket_uri, doing)
        _upgrade(engine)
        _OURS.create_all(engine)
        with engine.begin() as connection:
            if connection.scalar(sa.select(INDEX.c.bucket)) is None:
                connection.execute(INDEX.insert().values(bucket=bucket_uri, analyzed=0))
    except KaggleOpsError:
        raise
    except Exception as error:  # MLflow's migrations raise anything
        raise DatabaseError(doing, str(error).splitlines()[0], _REPAIR[in_a_file]) from error
    return engine


@contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Run a block in a transaction that no other one that writes to the index runs beside."""
    with engine.begin() as connection:
        if connection.dialect.name != "sqlite":  # whose transactions are so from their beginning
            connection.execute(sa.select(INDEX.c.bucket).with_for_update())
        yield connection


def versions_of(
    connection: sa.Connection, entity_ids: Iterable[EntityId]
) -> dict[EntityId, Version]:
    """Return at which versions entities are in the index; without those that are not."""
    keys = {entity_id.key: entity_id for entity_id in entity_ids}
    query = sa.select(ENTITIES.c.key, ENTITIES.c.version).where(ENTITIES.c.key.in_(keys))
    return {keys[key]: version for key, version in connection.execute(query)}


def _engine(url: URL) -> sa.Engine:
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(url, pool_pre_ping=True)
    engine = sa.create_engine(url, connect_args={"timeout": _BUSY})

    @sa.event.listens_for(engine, "connect")
    def set_up(connection: sa.engine.interfaces.DBAPIConnection, _: object) -> None:
        # Else Python's module begins transactions as it sees fit, and late.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")  # who reads does not wait for who writes
        cursor.execute("PRAGMA synchronous=NORMAL")  # a power cut may undo, and never damage
        cursor.execute(f"PRAGMA cache_size=-{_CACHE << 10}")
        # Pages that are written with every batch then reach the file once for many.
        cursor.execute("PRAGMA wal_autocheckpoint=8000")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # Two that have read the same must not both write what follows from it.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _require_ours(engine: sa.Engine, bucket_uri: str, doing: str) -> None:
    tables = set(sa.inspect(engine).get_table_names())
    if INDEX.name in tables:
        with engine.begin() as connection:
            other = connection.scalar(sa.select(INDEX.c.bucket))
        if other not in (None, bucket_uri):
            raise UsageError(doing, f"it is the index of {other}", "Name another database.")
    elif tables:
        problem = "the database holds something else than an index"
        raise UsageError(doing, problem, "Name a new or an empty one.")


def _upgrade(engine: sa.Engine) -> None:
    # An engine of its own: migrations have their own ways with transactions.
    other = sa.create_engine(engine.url)
    try:
        if mlflow_db._get_schema_version(other) is None:
            mlflow_db._initialize_tables(other)
        elif mlflow_db._get_schema_version(other) != mlflow_db._get_latest_schema_revision():
            mlflow_db._upgrade_db(other)
    finally:
        other.dispose()
