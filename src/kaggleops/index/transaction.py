"""One transaction of an import: what changed in the bucket, into the tables.

Entities need each other, and may come in any order:

- Whatever belongs to an experiment waits until that is there. An experiment that goes takes with
  it what belongs to it, which waits again. Only the Default experiment, which MLflow takes for
  granted, is shown without an object of its own, as long as something is in it.
- A logged model's metric points wait for the runs that they are of.
- No two experiments have the same name in MLflow's schema. The one that comes second is shown
  with its id behind its name until the other is called otherwise or is gone.
- Nor do two datasets of an experiment have the same name and digest, or two traces an assessment
  with the same id: the one that comes second is named, and not shown.
- MLflow's schema numbers experiments. One with another id is not indexed, nor is one whose number
  the database's column cannot hold: SQLite's holds the file store's own of 18 digits,
  PostgreSQL's nothing from 2^31 on. The ids that we give fit in both.

A run whose machine has fallen silent is RUNNING in the bucket, and shown as FAILED with a tag. The
bucket is not changed: a machine that was only cut off writes again, its run comes in anew and is
RUNNING again. How long a run has been silent is counted from when this index last saw a new
version of it, by this machine's own clock; no two machines' clocks are compared.
"""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from dataclasses import replace as with_
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.exc import (
    DataError,
    IntegrityError,
    InterfaceError,
    NotSupportedError,
    ProgrammingError,
)

from kaggleops.bucket import ABSENT, Version
from kaggleops.errors import first_line
from kaggleops.index import tables as t
from kaggleops.index.database import ENTITIES
from kaggleops.index.rows import check_room, rows_of
from kaggleops.index.tables import Row, Rows, add, fit, remove, replace
from kaggleops.layout import DEFAULT_ID, DEFAULT_NAME, MLRUNS, parse_key
from kaggleops.mlruns import Change, EntityId, Kind, experiment, run
from kaggleops.mlruns.liveness import silence_allowed
from kaggleops.printable import quoted
from kaggleops.tags import LOST

_LONGEST_NAME = 256  # characters, in MLflow's schema
_DEFAULT = experiment(DEFAULT_ID)
# Further apart than clocks are wrong: then what a run says of its own last heartbeat is believed.
_SURELY_LONG_AGO_MS = 2 * 86_400_000

REFUSED = (
    DataError,
    IntegrityError,
    InterfaceError,
    NotSupportedError,
    ProgrammingError,
    OverflowError,
    TypeError,
    ValueError,
)
"""What a database says to values that it does not take; SQLAlchemy lets some of it through."""


@dataclass(frozen=True)
class Prepared:
    """A change, ready to be written; then what became of it."""

    id: EntityId  # of which entity
    version: Version  # at which it is now
    rows: Rows | None = None  # what it comes to; None where it is gone or has a problem
    problem: str = ""  # why it is not in the index as it is in the bucket, or ""
    waits_for: str = ""  # the key of the object without which that cannot be mended, or ""
    # when its run said that it is alive, in ms since the epoch; 0 if it never did
    heartbeat: int = 0
    # after how many seconds of silence its run is lost; None if it does not run
    may_be_silent: int | None = None


def prepare(change: Change) -> Prepared:
    """Return what a change comes to."""
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
    return Prepared(change.id, change.version, rows, problem, "", entity.notes.heartbeat, silence)


def import_changes(
    connection: sa.Connection,
    changes: Sequence[Prepared],
    now_ms: int,
    artifact_root: str,
    *,
    new: Set[EntityId] = frozenset(),
    cut: bool = False,
) -> list[Prepared]:
    """Write what changed, and at which version it is now; return what became of each.

    Raises REFUSED if the database refuses a value. The changes have experiments before what belongs
    to them, and runs before logged models. Those that are `new`, without rows yet, are written
    faster. `cut` cuts what the database's columns cannot hold. `now_ms` is in milliseconds since
    the epoch.
    """
    outcomes = _Import(connection, new, artifact_root, cut=cut).take(changes)
    record(connection, outcomes, now_ms)
    gone = [each.id for each in outcomes if each.version == ABSENT]
    if any(each.experiment_id == DEFAULT_ID for each in gone):
        inside = ENTITIES.c.key.startswith(f"{MLRUNS}/{DEFAULT_ID}/", autoescape=True)
        left = sa.select(sa.literal(1)).where(inside | (ENTITIES.c.key == _DEFAULT.key)).limit(1)
        if not connection.scalar(left):
            remove(connection, _DEFAULT)
    return outcomes


def import_alone(
    connection: sa.Connection, change: Prepared, now_ms: int, artifact_root: str
) -> list[Prepared]:
    """Write one change; cut what the database does not take, or else keep the reason why not."""
    reason = ""
    for cut in (False, True):
        try:
            with connection.begin_nested():
                return import_changes(connection, [change], now_ms, artifact_root, cut=cut)
        except REFUSED as error:
            reason = first_line(getattr(error, "orig", None) or error)
    bare = Prepared(change.id, change.version)
    outcome = _because(bare, f"the database does not take it ({reason}).")
    record(connection, [outcome], now_ms)
    return [outcome]


def _because(change: Prepared, problem: str, waits_for: str = "") -> Prepared:
    return with_(change, problem=f"indexing {change.id}: {problem}", waits_for=waits_for)


def record(connection: sa.Connection, outcomes: Iterable[Prepared], now_ms: int) -> None:
    """Keep at which version each object was looked at, and what became of it."""
    rows = {}
    for change in outcomes:
        long_ago = 0 < change.heartbeat < now_ms - _SURELY_LONG_AGO_MS
        rows[change.id.key] = {
            "key": change.id.key,
            "version": change.version,
            "problem": change.problem,
            "waits_for": change.waits_for,
            "heard_ms": change.heartbeat if long_ago else now_ms,
            "may_be_silent": change.may_be_silent,
        }
    if rows:
        same_key = ENTITIES.c.key == sa.bindparam("old_key")
        connection.execute(ENTITIES.delete().where(same_key), [{"old_key": key} for key in rows])
    if there := [row for row in rows.values() if row["version"] != ABSENT]:
        connection.execute(ENTITIES.insert(), there)


def record_problem(connection: sa.Connection, key: str, problem: str) -> None:
    """Keep why an object that is no entity cannot be read; "" where it can."""
    mine = ENTITIES.c.key == key
    if connection.scalar(sa.select(ENTITIES.c.problem).where(mine)) == (problem or None):
        return
    connection.execute(ENTITIES.delete().where(mine))
    if problem:
        row = {"key": key, "version": ABSENT, "problem": problem, "waits_for": ""}
        connection.execute(ENTITIES.insert(), {**row, "heard_ms": 0, "may_be_silent": None})


def mark_lost(connection: sa.Connection, now_ms: int) -> int:
    """Show runs as lost that have been silent for too long (ms); return how many are newly so."""
    silent = sa.select(ENTITIES.c.key, ENTITIES.c.heard_ms).where(
        ENTITIES.c.may_be_silent.is_not(None),
        ENTITIES.c.heard_ms + 1000 * ENTITIES.c.may_be_silent < now_ms,
    )
    found = [(parse_key(key), key, heard_ms) for key, heard_ms in connection.execute(silent).all()]
    runs, tags = t.RUNS.table, t.TAGS.table
    for silent_run, key, heard_ms in found:
        if silent_run is None:
            continue
        heard = datetime.fromtimestamp(heard_ms / 1000, UTC).isoformat(" ", "seconds")
        mine = tags.c.run_uuid == silent_run.name, tags.c.key == LOST
        connection.execute(tags.delete().where(*mine))
        running = runs.update().where(
            runs.c.run_uuid == silent_run.name, runs.c.status == "RUNNING"
        )
        if connection.execute(running.values(status="FAILED")).rowcount:
            text = f"last heard at {heard}"
            connection.execute(tags.insert().values(run_uuid=silent_run.name, key=LOST, value=text))
        # Looked at again when it writes again.
        looked_at = ENTITIES.update().where(ENTITIES.c.key == key)
        connection.execute(looked_at.values(may_be_silent=None))
    return len(found)


def default_rows(artifact_root: str) -> Rows:
    """Return the rows of the Default experiment where it has no object."""
    row = t.EXPERIMENTS.row(
        {"name": DEFAULT_NAME, "lifecycle_stage": "active"},
        experiment_id=int(DEFAULT_ID),
        artifact_location=f"{artifact_root}/{DEFAULT_ID}",
    )
    return {t.EXPERIMENTS: [row], t.EXPERIMENT_TAGS: []}


def is_number(experiment_id: str) -> bool:
    """Tell whether MLflow's SQL schema can have an experiment of that id."""
    return experiment_id.isdecimal() and str(int(experiment_id)) == experiment_id


class _Import:
    """One transaction."""

    def __init__(
        self,
        connection: sa.Connection,
        new: Set[EntityId],
        artifact_root: str,
        *,
        cut: bool,
    ) -> None:
        self._connection = connection
        self._new = new
        self._artifact_root = artifact_root
        self._cut = cut
        self._largest_id = 2 ** (63 if connection.dialect.name == "sqlite" else 31) - 1
        ids = connection.scalars(sa.select(t.EXPERIMENTS.table.c.experiment_id))
        self._experiments = set(map(str, ids))
        self._written: dict[EntityId, Rows] = {}

    def take(self, changes: Sequence[Prepared]) -> list[Prepared]:
        outcomes = [self._take(each) for each in changes]
        written = self._written
        add(self._connection, [written[each] for each in written if each in self._new])
        for each in (each for each in written if each not in self._new):
            replace(self._connection, each, written[each])
        return outcomes

    def _take(self, change: Prepared) -> Prepared:
        if change.problem:
            return change
        if change.rows is None:
            self._remove(change.id)
            return change
        if problem := self._refusal(change.id):
            return _because(change, f"{problem}.")
        if not self._cut:
            return self._take_rows(change, change.rows)
        rows, cut = fit(self._connection, change.id, change.rows)
        outcome = self._take_rows(change, rows)
        if outcome.problem or not cut:
            return outcome
        return _because(change, f"{', '.join(cut)} cut to what the database has room for.")

    def _take_rows(self, change: Prepared, rows: Rows) -> Prepared:
        home = experiment(change.id.experiment_id)
        needs_home = change.id.kind is not Kind.REGISTERED_MODEL and change.id != home
        if needs_home and home == _DEFAULT and DEFAULT_ID not in self._experiments:
            default = default_rows(self._artifact_root)
            self._take_experiment(Prepared(_DEFAULT, ABSENT, default), default)
        if needs_home and home.experiment_id not in self._experiments:
            return _because(change, f"{home} is not in the index.", home.key)
        if change.id == home:
            return self._take_experiment(change, rows)
        if change.id.kind is Kind.LOGGED_MODEL:
            return self._take_logged_model(change, rows)
        self._written[change.id] = rows
        return change

    def _refusal(self, entity_id: EntityId) -> str:
        number = entity_id.experiment_id
        if entity_id.kind is not Kind.EXPERIMENT:
            return ""
        if not is_number(number):
            return "MLflow's SQL schema knows experiments by numbers only"
        if int(number) > self._largest_id:
            return "its number is too large for this database (SQLite has room for it)"
        return ""

    # -- what needs others --------------------------------------------------------------------

    def _take_experiment(self, change: Prepared, rows: Rows) -> Prepared:
        found = t.EXPERIMENTS.named(rows[t.EXPERIMENTS][0])
        table, name = t.EXPERIMENTS.table, found["name"]
        same_name = (table.c.name == name) & (table.c.experiment_id != found["experiment_id"])
        other = self._connection.scalar(sa.select(table.c.experiment_id).where(same_name))
        outcome = change
        if other is not None:
            suffix = f" ({change.id.experiment_id})"
            found["name"] = shown = name[: _LONGEST_NAME - len(suffix)] + suffix
            holder = experiment(str(other))
            problem = f"{holder} is called {quoted(name)} too; shown as {quoted(shown)}."
            outcome = _because(change, problem, holder.key)
        # At once: what follows needs it, and the next may have its name.
        replace(self._connection, change.id, {**rows, t.EXPERIMENTS: [t.EXPERIMENTS.row(found)]})
        self._experiments.add(change.id.experiment_id)
        return outcome

    def _take_logged_model(self, change: Prepared, rows: Rows) -> Prepared:
        points, place = rows[t.LOGGED_MODEL_METRICS], t.LOGGED_MODEL_METRICS.columns.index("run_id")
        wanted = {point[place] for point in points}
        coming = {each.name for each in self._written if each.kind is Kind.RUN}
        column = t.RUNS.table.c.run_uuid
        there = self._connection.scalars(sa.select(column).where(column.in_(wanted - coming)))
        missing = wanted - coming - set(there)
        indexable: list[Row] = [row for row in points if row[place] not in missing]
        self._written[change.id] = {**rows, t.LOGGED_MODEL_METRICS: indexable}
        if not missing:
            return change
        waits_for = run(change.id.experiment_id, min(missing))
        problem = f"{waits_for}, which its metrics are of, is not there."
        return _because(change, problem, waits_for.key)

    # -- what is gone -------------------------------------------------------------------------

    def _remove(self, entity_id: EntityId) -> None:
        home = entity_id.experiment_id
        if entity_id.kind is not Kind.REGISTERED_MODEL and home not in self._experiments:
            return
        if entity_id.kind is Kind.EXPERIMENT:
            self._remove_what_belongs_to(entity_id)
            self._experiments.discard(home)
        if entity_id.kind is Kind.RUN:
            self._remove_points_of(entity_id)
        remove(self._connection, entity_id)

    def _remove_what_belongs_to(self, home: EntityId) -> None:
        inside = ENTITIES.c.key.startswith(f"{MLRUNS}/{home.experiment_id}/", autoescape=True)
        ids = map(parse_key, self._connection.scalars(sa.select(ENTITIES.c.key).where(inside)))
        for entity_id in [each for each in ids if each is not None]:
            self._remove(entity_id)
        problem = f"{home} is not in the index."
        values = {"waits_for": home.key, "problem": problem}
        self._connection.execute(ENTITIES.update().where(inside).values(values))

    def _remove_points_of(self, gone: EntityId) -> None:
        table = t.LOGGED_MODEL_METRICS.table
        of_run = table.c.run_id == gone.name
        columns = sa.select(table.c.experiment_id, table.c.model_id).where(of_run).distinct()
        found = self._connection.execute(columns)
        models = [EntityId(Kind.LOGGED_MODEL, str(home), name).key for home, name in found]
        if models:
            self._connection.execute(table.delete().where(of_run))
            problem = f"{gone}, which some of its metrics are of, is not there."
            values = {"waits_for": gone.key, "problem": problem}
            concerned = ENTITIES.c.key.in_(models)
            self._connection.execute(ENTITIES.update().where(concerned).values(values))
