"""One transaction of an import: what changed in the bucket, into the tables.

Entities need each other, and may come in any order:

- Whatever belongs to an experiment waits until that is there. An experiment that goes takes with
  it what belongs to it, which waits again. Only the Default experiment, which MLflow takes for
  granted, is shown without an object of its own, as long as something is in it.
- A logged model's metric points wait for the runs that they are of.
- No two experiments have the same name in MLflow's schema. The one that comes second is shown
  with its id behind its name until the other is called otherwise or is gone.
- Nor do two datasets of an experiment have the same name and digest, or two traces an assessment
  with the same id. The dataset that lies where the file store puts one of that name and digest is
  shown as it is, and any other with a part of its id behind its digest; an assessment that comes
  second is shown under another id until the first is gone.
- MLflow's schema numbers experiments. One with another id is not indexed, nor is one whose number
  the database's column cannot hold: SQLite's holds the file store's own of 18 digits,
  PostgreSQL's nothing from 2^31 on. The ids that we give fit in both.

A run whose machine has fallen silent is RUNNING in the bucket, and shown as FAILED with a tag. The
bucket is not changed: a machine that was only cut off writes again, its run comes in anew and is
RUNNING again. How long a run has been silent is counted from when this index last saw a new
version of it, by this machine's own clock; no two machines' clocks are compared.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.exc import (
    DataError,
    IntegrityError,
    InterfaceError,
    NotSupportedError,
    ProgrammingError,
)

from kaggleops.bucket import ABSENT
from kaggleops.errors import first_line
from kaggleops.index import tables as t
from kaggleops.index.database import ENTITIES
from kaggleops.index.preparation import Prepared, prepare
from kaggleops.index.tables import Row, Rows
from kaggleops.index.writes import add, fit, remove, replace
from kaggleops.layout import DEFAULT_ID, DEFAULT_NAME, MLRUNS, parse_key
from kaggleops.mlruns import Change, EntityId, Kind, experiment, run
from kaggleops.printable import quoted
from kaggleops.tags import LOST

_LONGEST_NAME = 256  # characters, in MLflow's schema
_LONGEST_DIGEST = 36
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
class Outcome:
    """What became of one change."""

    change: Prepared  # which
    problem: str = ""  # why it is not in the index as it is in the bucket, or ""
    waits_for: str = ""  # the key of the object without which that cannot be mended, or ""


def import_changes(
    connection: sa.Connection,
    changes: Sequence[Change | Prepared],
    is_new: Callable[[EntityId], bool],
    now_ms: int,
    artifact_root: str,
    *,
    cut: bool = False,
) -> list[Outcome]:
    """Write what changed, and at which version it is now; REFUSED if the database refuses a value.

    The changes have experiments before what belongs to them, runs before logged models, and none is
    packed. Those that are `is_new`, without rows yet, are written faster. `cut` cuts what the
    database's columns cannot hold. `now_ms` is in milliseconds since the epoch.
    """
    outcomes = _Import(connection, is_new, artifact_root, cut=cut).take(changes)
    record(connection, outcomes, now_ms)
    gone = [each.change.id for each in outcomes if each.change.version == ABSENT]
    if any(each.experiment_id == DEFAULT_ID for each in gone):
        inside = ENTITIES.c.key.startswith(f"{MLRUNS}/{DEFAULT_ID}/", autoescape=True)
        left = sa.select(sa.literal(1)).where(inside | (ENTITIES.c.key == _DEFAULT.key)).limit(1)
        if not connection.scalar(left):
            remove(connection, _DEFAULT)
    return outcomes


def import_alone(
    connection: sa.Connection, change: Change | Prepared, now_ms: int, artifact_root: str
) -> list[Outcome]:
    """Write one change; cut what the database does not take, or else keep the reason why not."""
    reason = ""
    for cut in (False, True):
        try:
            with connection.begin_nested():
                return import_changes(
                    connection, [change], lambda _: False, now_ms, artifact_root, cut=cut
                )
        except REFUSED as error:
            reason = first_line(getattr(error, "orig", None) or error)
    problem = f"indexing {change.id}: the database does not take it ({reason})."
    outcome = Outcome(Prepared(change.id, change.version, problem=problem), problem)
    record(connection, [outcome], now_ms)
    return [outcome]


def record(connection: sa.Connection, outcomes: Iterable[Outcome], now_ms: int) -> None:
    """Keep at which version each object was looked at, and what became of it."""
    rows = {}
    for outcome in outcomes:
        change = outcome.change
        long_ago = 0 < change.heartbeat < now_ms - _SURELY_LONG_AGO_MS
        rows[change.id.key] = {
            "key": change.id.key,
            "version": change.version,
            "problem": outcome.problem,
            "waits_for": outcome.waits_for,
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


def _shown(digest: str, uuid: str) -> str:
    suffix = f" ({uuid[:8]})"
    return digest[: _LONGEST_DIGEST - len(suffix)] + suffix


class _Import:
    """One transaction."""

    def __init__(
        self,
        connection: sa.Connection,
        is_new: Callable[[EntityId], bool],
        artifact_root: str,
        *,
        cut: bool,
    ) -> None:
        self._connection = connection
        self._is_new = is_new
        self._artifact_root = artifact_root
        self._cut = cut
        self._largest_id = 2 ** (63 if connection.dialect.name == "sqlite" else 31) - 1
        ids = connection.scalars(sa.select(t.EXPERIMENTS.table.c.experiment_id))
        self._experiments = set(map(str, ids))
        self._written: dict[EntityId, tuple[Prepared, Rows]] = {}
        self._assessed: dict[str, EntityId] = {}

    def take(self, changes: Sequence[Change | Prepared]) -> list[Outcome]:
        ready = (each if isinstance(each, Prepared) else prepare(each) for each in changes)
        outcomes = [self._take(each) for each in ready]
        written = self._written.values()
        old = [(change, rows) for change, rows in written if not self._is_new(change.id)]
        add(self._connection, [rows for change, rows in written if self._is_new(change.id)])
        for change, rows in old:
            replace(self._connection, change.id, rows)
        return outcomes

    def _take(self, change: Prepared) -> Outcome:
        if change.problem:
            return Outcome(change, change.problem)
        if change.rows is None:
            self._remove(change.id)
            return Outcome(change)
        if problem := self._refusal(change.id):
            return Outcome(change, f"indexing {change.id}: {problem}.")
        if not self._cut:
            return self._take_rows(change, change.rows)
        rows, cut = fit(self._connection, change.id, change.rows)
        outcome = self._take_rows(change, rows)
        if outcome.problem or not cut:
            return outcome
        problem = f"indexing {change.id}: {', '.join(cut)} cut to what the database has room for."
        return Outcome(change, problem)

    def _take_rows(self, change: Prepared, rows: Rows) -> Outcome:
        home = experiment(change.id.experiment_id)
        needs_home = change.id.kind is not Kind.REGISTERED_MODEL and change.id != home
        if needs_home and home == _DEFAULT and DEFAULT_ID not in self._experiments:
            default = default_rows(self._artifact_root)
            self._take_experiment(Prepared(_DEFAULT, ABSENT, default), default)
        if needs_home and home.experiment_id not in self._experiments:
            return Outcome(change, f"indexing {change.id}: {home} is not in the index.", home.key)
        if change.id == home:
            return self._take_experiment(change, rows)
        if change.id.kind is Kind.LOGGED_MODEL:
            return self._take_logged_model(change, rows)
        if change.id.kind is Kind.DATASET:
            return self._take_dataset(change, rows)
        if change.id.kind is Kind.TRACE and rows[t.ASSESSMENTS]:
            return self._take_assessed(change, rows)
        self._written[change.id] = change, rows
        return Outcome(change)

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

    def _take_experiment(self, change: Prepared, rows: Rows) -> Outcome:
        found = t.EXPERIMENTS.named(rows[t.EXPERIMENTS][0])
        table, name = t.EXPERIMENTS.table, found["name"]
        same_name = (table.c.name == name) & (table.c.experiment_id != found["experiment_id"])
        other = self._connection.scalar(sa.select(table.c.experiment_id).where(same_name))
        outcome = Outcome(change)
        if other is not None:
            suffix = f" ({change.id.experiment_id})"
            found["name"] = shown = name[: _LONGEST_NAME - len(suffix)] + suffix
            holder = experiment(str(other))
            problem = f"{holder} is called {quoted(name)} too; shown as {quoted(shown)}."
            outcome = Outcome(change, f"indexing {change.id}: {problem}", holder.key)
        # At once: what follows needs it, and the next may have its name.
        replace(self._connection, change.id, {**rows, t.EXPERIMENTS: [t.EXPERIMENTS.row(found)]})
        self._experiments.add(change.id.experiment_id)
        return outcome

    def _take_dataset(self, change: Prepared, rows: Rows) -> Outcome:
        found = t.DATASETS.named(rows[t.DATASETS][0])
        table, uuid = t.DATASETS.table, found["dataset_uuid"]
        home, name, digest = found["experiment_id"], found["name"], found["digest"]
        of_name = (table.c.experiment_id == home) & (table.c.name == name)
        same = of_name & (table.c.digest == digest) & (table.c.dataset_uuid != uuid)
        other = self._connection.scalar(sa.select(table.c.dataset_uuid).where(same))
        own = EntityId(Kind.DATASET, str(home), t.own_dataset_id(name, digest))
        outcome = Outcome(change)
        if other is not None and change.id == own:
            moved = table.update().where(same).values(digest=_shown(digest, other))
            self._connection.execute(moved)
        elif other is not None:
            found["digest"] = shown = _shown(digest, uuid)
            rows = {t.DATASETS: [t.DATASETS.row(found)]}
            problem = (
                f"indexing {change.id}: another is called {quoted(name)} with the digest "
                f"{quoted(digest)} too; its digest is shown as {shown!r}."
            )
            outcome = Outcome(change, problem, own.key)
        replace(self._connection, change.id, rows)  # at once: the next may be called so, too
        return outcome

    def _take_assessed(self, change: Prepared, rows: Rows) -> Outcome:
        # The first of its columns is the id.
        mine, table = rows[t.ASSESSMENTS], t.ASSESSMENTS.table
        ids = {row[0] for row in mine}
        there = table.c.assessment_id.in_(ids) & (table.c.trace_id != change.id.name)
        columns = (table.c.assessment_id, table.c.experiment_id, table.c.trace_id)
        taken = {
            each: EntityId(Kind.TRACE, str(home), trace)
            for each, home, trace in self._connection.execute(sa.select(*columns).where(there))
        }
        taken |= {each: self._assessed[each] for each in ids & self._assessed.keys()}
        shown: list[Row] = [
            (t.assessment_id(change.id.name, row[0]), *row[1:]) if row[0] in taken else row
            for row in mine
        ]
        self._assessed |= {row[0]: change.id for row in shown}
        self._written[change.id] = change, {**rows, t.ASSESSMENTS: shown}
        if not taken:
            return Outcome(change)
        first, holder = min(taken.items())
        problem = f"indexing {change.id}: {holder} has its assessment {quoted(first)} too."
        return Outcome(change, f"{problem} It is shown under another id.", holder.key)

    def _take_logged_model(self, change: Prepared, rows: Rows) -> Outcome:
        points, place = rows[t.LOGGED_MODEL_METRICS], t.LOGGED_MODEL_METRICS.columns.index("run_id")
        wanted = {point[place] for point in points}
        coming = {each.name for each in self._written if each.kind is Kind.RUN}
        column = t.RUNS.table.c.run_uuid
        there = self._connection.scalars(sa.select(column).where(column.in_(wanted - coming)))
        missing = wanted - coming - set(there)
        indexable: list[Row] = [row for row in points if row[place] not in missing]
        self._written[change.id] = change, {**rows, t.LOGGED_MODEL_METRICS: indexable}
        if not missing:
            return Outcome(change)
        waits_for = run(change.id.experiment_id, min(missing))
        problem = f"indexing {change.id}: {waits_for}, which its metrics are of, is not there."
        return Outcome(change, problem, waits_for.key)

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
