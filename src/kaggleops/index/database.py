"""The database of an index: MLflow's own schema, and beside it what the index keeps for itself.

MLflow's migrations make and upgrade the schema. Four tables are ours: which version of each object
the rows were made of, how far the bucket's change log has been read, which bucket this is, and what
its snapshot was when it was last seen.

Metric points, nine tenths of what a tracking server keeps, are not here: points.py.

1. All of it is made, or upgraded, in one transaction: whoever is killed meanwhile leaves what was
   there before, and of several that start at once one makes it while the others wait.
2. A database that holds anything else than this bucket's index is refused, so that nobody's
   tracking database is ever imported into.
"""

import fcntl
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from kaggleops.bucket import Version
from kaggleops.errors import KaggleOpsError, UsageError, first_line
from kaggleops.layout import EntityId, parse_key
from kaggleops.platforms.folders import private_database, private_file
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

SNAPSHOT = sa.Table(
    "kaggleops_snapshot",
    _OURS,
    sa.Column("version", sa.String(255), primary_key=True),
    sa.Column("log_id", sa.String(255), nullable=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("entities", sa.BigInteger, nullable=False),
    sa.Column("looked", sa.Float, nullable=False),
)
"""The bucket's snapshot (snapshot.py) when it was last read, written or looked at (seconds since
the epoch): its version, how far it is, and how many objects its writer knew. At most one row."""

SCHEMA = Path(__file__).with_name("schema.sql")
"""What MLflow's migrations make in SQLite, of the release that its first line names."""

_NAME_ONE = "Name one as sqlite:////folder/index.db or postgresql://host/name."
_REPAIR = {
    True: "An index holds nothing that the bucket does not: delete it, and it is made anew.",
    False: "Is it running, and are its address and the password right?",
}

_SEARCHED = (
    "kaggleops_silent ON kaggleops_entities (may_be_silent) WHERE may_be_silent IS NOT NULL",
    "kaggleops_waiting ON kaggleops_entities (waits_for) WHERE waits_for != ''",
    "kaggleops_runs ON runs (run_uuid, experiment_id, lifecycle_stage, start_time)",
    'kaggleops_latest_metrics ON latest_metrics ("key", run_uuid, is_nan, value)',
    'kaggleops_tags ON tags ("key", value, run_uuid)',
)
"""Indexes of what each poll looks for, whatever the number of runs, and of all that a search sorts
and filters by (search.py): 13 MB for 10,000 runs. The last one is for SQLite only: PostgreSQL
refuses an index of values as long as a tag may be."""

_WORTH_STATISTICS = 100  # entities
_BUSY = 120  # seconds for which one waits while another writes to SQLite
_CACHE = 32  # MiB
_READS = "kaggleops_reads"
_MAKING = 0x6B6167676C656F6D  # "kaggleom": the locks of a database are numbers


class DatabaseError(KaggleOpsError):
    """The index's database cannot be reached, read or written."""


def open_database(url: str, bucket_uri: str, *, for_mlflow: bool = False) -> sa.Engine:
    """Return the database that holds the index of a bucket, made if it is not there.

    A new one in SQLite is a copy of MLflow's schema as some release has it (schema.sql), so that
    who only brings it up to date and reads it does not have to import MLflow; with `for_mlflow`,
    MLflow's migrations run. `url` is SQLAlchemy's: `sqlite:////folder/index.db`,
    `postgresql://host/name`.

    Raises UsageError if that is no such address, or the database holds something else;
    DatabaseError if it cannot be reached or upgraded.
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
        # Whoever finds it made does not wait for who writes to it: in SQLite that may take long.
        is_made = False
        if in_a_file:
            with reading(engine) as connection:
                is_made = _is_made(connection, bucket_uri, for_mlflow=for_mlflow)
        if not is_made:
            with engine.begin() as connection:
                _make(connection, bucket_uri, doing, for_mlflow=for_mlflow)
    except KaggleOpsError:
        raise
    except Exception as error:  # MLflow's migrations raise anything
        raise DatabaseError(doing, first_line(error), _REPAIR[in_a_file]) from error
    return engine


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Run a block that sees one state of the database, and keeps nobody from writing to it."""
    in_a_file = engine.dialect.name == "sqlite"
    options = {_READS: True} if in_a_file else {"isolation_level": "REPEATABLE READ"}
    with engine.connect().execution_options(**options) as connection, connection.begin():
        yield connection


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


def take_statistics(engine: sa.Engine) -> None:
    """Let the database look at what it holds, when that has become twice as much."""
    # Without them SQLite looks for a metric's values through the wrong index: 6.4 s instead of
    # 0.43 s for the first page of 9,400 runs.
    count = sa.select(sa.func.count()).select_from(ENTITIES)
    with writing(engine) as connection:
        now = connection.scalar(count) or 0
        then = connection.scalar(sa.select(INDEX.c.analyzed)) or 0
        if now >= max(_WORTH_STATISTICS, 2 * then):
            if connection.dialect.name == "sqlite":
                # A sample gives the same plans, in a hundredth of the time.
                connection.exec_driver_sql("PRAGMA analysis_limit=1000")
            connection.exec_driver_sql("ANALYZE")
            connection.execute(INDEX.update().values(analyzed=now))


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
        if connection.get_execution_options().get(_READS):
            connection.exec_driver_sql("BEGIN")
            return
        with _in_turn(url):
            # Two that have read the same must not both write what follows from it.
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


@contextmanager
def _in_turn(url: URL) -> Iterator[None]:
    """Begin a transaction that writes in a block: whoever came first is first.

    SQLite itself grants no turns: who waits asks ten times a second, and an import, which begins
    the next transaction as soon as one is over, would keep everybody else waiting.
    """
    with private_file(Path(f"{url.database}.turn")).open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield


def _is_made(connection: sa.Connection, bucket_uri: str, *, for_mlflow: bool) -> bool:
    """Return whether a database is this bucket's index, as this version has it."""
    found = sa.inspect(connection)
    tables = set(found.get_table_names())
    if not _OURS.tables.keys() <= tables:
        return False
    if _missing(connection) or connection.scalar(sa.select(INDEX.c.bucket)) != bucket_uri:
        return False
    if not for_mlflow:
        return True
    from kaggleops.index.migrations import are_over

    return are_over(connection)


def _missing(connection: sa.Connection) -> list[str]:
    """Return what of our own indexes on MLflow's tables is not there.

    Making one that is there is no harm, but waits for all who write to its table, and they for it.
    """
    wanted = _SEARCHED[: None if connection.dialect.name == "sqlite" else -1]
    found, tables = sa.inspect(connection), {each.split()[2] for each in wanted}
    there = {index["name"] for table in tables for index in found.get_indexes(table)}
    return [each for each in wanted if each.split()[0] not in there]


def _make(connection: sa.Connection, bucket_uri: str, doing: str, *, for_mlflow: bool) -> None:
    """Make a database this bucket's index, as this version has it."""
    in_a_file = connection.dialect.name == "sqlite"
    if not in_a_file:  # else its transactions are alone from their beginning
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MAKING)))
    tables = set(sa.inspect(connection).get_table_names())
    if INDEX.name in tables:
        other = connection.scalar(sa.select(INDEX.c.bucket))
        if other not in (None, bucket_uri):
            raise UsageError(doing, f"it is the index of {other}", "Name another database.")
    elif tables:
        problem = "the database holds something else than an index"
        raise UsageError(doing, problem, "Name a new or an empty one.")
    copied = in_a_file and not tables and _copy_schema(connection)
    if for_mlflow or not (tables or copied):
        from kaggleops.index.migrations import migrate

        migrate(connection)
    _OURS.create_all(connection)
    for each in _missing(connection):
        connection.exec_driver_sql(f"CREATE INDEX IF NOT EXISTS {each}")
    if connection.scalar(sa.select(INDEX.c.bucket)) is None:
        connection.execute(INDEX.insert().values(bucket=bucket_uri, analyzed=0))


def _copy_schema(connection: sa.Connection) -> bool:
    """Make MLflow's tables from a copy of them, unless the MLflow here is older than that."""
    release, *statements = SCHEMA.read_text().split("\n\n")
    here = ""  # not imported for that
    for package in ("mlflow-skinny", "mlflow"):
        with suppress(PackageNotFoundError):
            here = version_of(package)
    if _release(here) < _release(release):
        return False
    for statement in statements:
        connection.exec_driver_sql(statement)
    return True


def _release(version: str) -> list[int]:
    return [int(each) for each in re.findall(r"\d+", version)[:3]]
