"""The database of an index: MLflow's own schema, and beside it what the index keeps for itself.

MLflow's migrations make and upgrade the schema. Five tables are ours: which version of each object
the rows were made of, how far a long run's points are in, how far the bucket's change log has been
read, which bucket this is, and what its servers tell each other.

1. All of it is made, or upgraded, in one transaction: whoever is killed meanwhile leaves what was
   there before, and of several that start at once one makes it while the others wait.
2. A database that holds anything else than this bucket's index is refused, so that nobody's
   tracking database is ever imported into.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from mlflow.store.db import utils as mlflow_db
from mlflow.store.db.base_sql_model import Base
from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from kaggleops.bucket import Version
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.layout import EntityId, parse_key
from kaggleops.platforms.folders import private_database
from kaggleops.redaction import keep_login

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
"""Of each long run, up to where its metric points are in the index (preparation.py)."""

MARK = sa.Table(
    "kaggleops_mark",
    _OURS,
    sa.Column("log_id", sa.String(255), primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("open", sa.Text, nullable=False),
    sa.Column("listed", sa.Float, nullable=False),
)
"""Up to where the change log's announcements are in the index (refresh.py), and when the bucket was
last listed (seconds since the epoch). At most one row."""

SERVING = sa.Table(
    "kaggleops_serving",
    _OURS,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("looks", sa.BigInteger, nullable=False),
    sa.Column("notice", sa.Text, nullable=False),
)
"""What servers tell each other (server/health.py). One row: `looks` grows while somebody looks at
a server that does not refresh the index."""

_NAME_ONE = "Name one as sqlite:////folder/index.db or postgresql://host/name."
_REPAIR = {
    True: "An index holds nothing that the bucket does not: delete it, and it is made anew.",
    False: "Is it running, and are its address and the password right?",
}

BUSY = 120
"""Seconds for which one waits while another writes to SQLite: it grants no turns, and an import
writes nearly all the time."""

_CACHE = 32  # MiB
_MAKING = 0x6B6167676C656F6D  # "kaggleom": the locks of a database are numbers


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
        parsed = sa.make_url(keep_login(url))
        doing = f"opening the index {url}"
        in_a_file = parsed.get_backend_name() == "sqlite"
        if in_a_file and parsed.database in (None, "", ":memory:"):
            raise UsageError(doing, "an index in memory would serve no other process", _NAME_ONE)
        if in_a_file:
            private_database(Path(str(parsed.database)))
        engine = _engine(parsed)
    except (ArgumentError, NoSuchModuleError, ImportError, OSError) as error:
        problem = f"no database can lie there ({error})"
        raise UsageError("opening the index", problem, _NAME_ONE) from error
    try:
        with engine.begin() as connection:
            _make(connection, bucket_uri, doing)
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
    connection: sa.Connection, entity_ids: Iterable[EntityId] | None = None
) -> dict[EntityId, Version]:
    """Return at which versions these entities, or all, are in the index."""
    query = sa.select(ENTITIES.c.key, ENTITIES.c.version)
    if entity_ids is not None:
        query = query.where(ENTITIES.c.key.in_([each.key for each in entity_ids]))
    found = connection.execute(query).all()
    return {entity_id: version for key, version in found if (entity_id := parse_key(key))}


def _engine(url: URL) -> sa.Engine:
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(url, pool_pre_ping=True)
    engine = sa.create_engine(url, connect_args={"timeout": BUSY})

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


def _make(connection: sa.Connection, bucket_uri: str, doing: str) -> None:
    """Make a database this bucket's index, as this version has it, if it is not."""
    if connection.dialect.name != "sqlite":  # whose transactions are alone from their beginning
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MAKING)))
    tables = set(sa.inspect(connection).get_table_names())
    if INDEX.name in tables:
        other = connection.scalar(sa.select(INDEX.c.bucket))
        if other not in (None, bucket_uri):
            raise UsageError(doing, f"it is the index of {other}", "Name another database.")
    elif tables:
        problem = "the database holds something else than an index"
        raise UsageError(doing, problem, "Name a new or an empty one.")
    _migrate(connection)
    _OURS.create_all(connection)
    if connection.scalar(sa.select(INDEX.c.bucket)) is None:
        connection.execute(INDEX.insert().values(bucket=bucket_uri, analyzed=0))
    if connection.scalar(sa.select(SERVING.c.id)) is None:
        connection.execute(SERVING.insert().values(id=1, looks=0, notice="{}"))


def _migrate(connection: sa.Connection) -> None:
    """Bring MLflow's tables to where its newest migration has them."""
    # Not MLflow's own function, which opens connections, and so transactions, of its own.
    config = mlflow_db._get_alembic_config("")
    script = ScriptDirectory.from_config(config)
    current = MigrationContext.configure(connection).get_current_heads()
    if set(current) == set(script.get_heads()):
        return
    if not current:
        InitialBase.metadata.create_all(connection)
    with EnvironmentContext(
        config, script, fn=lambda revision, _: script._upgrade_revs("heads", revision)
    ) as environment:
        environment.configure(
            connection=connection, target_metadata=Base.metadata, render_as_batch=True
        )
        environment.run_migrations()
