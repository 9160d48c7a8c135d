"""Runs as an index has them: read with a few plain queries, without MLflow's own classes.

Importing those takes longer than reading ten thousand runs. Metric points are in the bucket alone
(index/points.py).
"""

import math
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from kaggleops.layout import EntityId, Kind, parse_key
from kaggleops.layout import run as run_of
from kaggleops.mlruns.liveness import OPEN, UNREADABLE, RunState
from kaggleops.tags import COMMIT, KEPT_UNTIL, LOST, PARENT

if TYPE_CHECKING:
    from kaggleops.index.points import PointReader
    from kaggleops.mlruns import EntityStore

REPEATED = ("fold", "seed")
"""The params that distinguish the repetitions of one training."""

HOUSEKEEPING = ("overrides", *REPEATED)
"""The params that are not settings of a training."""

_CHUNK = 500  # ids in a query


def _table(name: str, columns: str) -> sa.TableClause:
    return sa.table(name, *map(sa.column, columns.split()))


_RUNS = _table(
    "runs",
    "run_uuid name experiment_id status start_time end_time lifecycle_stage artifact_uri",
)
_TAGS = _table("tags", "run_uuid key value")
_PARAMS = _table("params", "run_uuid key value")
_METRICS = _table("latest_metrics", "run_uuid key value is_nan")
_EXPERIMENTS = _table("experiments", "experiment_id name")
_INPUTS = _table("inputs", "source_id destination_id source_type")
_DATASETS = _table("datasets", "dataset_uuid name digest")
_ENTITIES = _table("kaggleops_entities", "key version problem heard_ms may_be_silent")


@dataclass(frozen=True)
class Run:
    """One run: its own values and its experiment's name and id, as MLflow has them.

    Args:
        started_ms: in milliseconds since the epoch; 0 if not known.
        artifacts: the URI of its artifacts.
        metrics: the latest value of each.
        data: the digest of each dataset it was given, by name.
    """

    id: str
    name: str
    experiment: str
    experiment_id: str
    status: str
    started_ms: int
    artifacts: str
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)

    @property
    def sha(self) -> str:
        """Its commit's full hash, or ""."""
        return self.tags.get(COMMIT, "")

    @property
    def parent(self) -> str:
        """The id of its parent run, or ""."""
        return self.tags.get(PARENT, "")


@dataclass(frozen=True)
class Scored:
    """A run on a leaderboard.

    Args:
        value: its value of the metric that the board is ranked by.
        started_ms: in milliseconds since the epoch; 0 if not known.
        repetition: its fold and its seed, each "" if it has none.
        settings: all its other params, as one comparable text.
        tags: those that were asked for, and its commit.
        metrics: those that were asked for.
    """

    id: str
    value: float
    started_ms: int
    repetition: tuple[str, ...]
    settings: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]

    @property
    def sha(self) -> str:
        """Its commit's full hash."""
        return self.tags[COMMIT]


class History:
    """The runs in an index's database that have not been deleted.

    Args:
        engine: the database.
        open_store: returns the entities of the index's bucket.
    """

    def __init__(self, engine: sa.Engine, open_store: "Callable[[], EntityStore]") -> None:
        self._engine = engine
        self._open_store = open_store

    def _rows(self, query: sa.Select[Any]) -> Sequence[Any]:
        with self._engine.connect() as connection:
            return connection.execute(query).all()

    def commits(self) -> dict[str, list[str]]:
        """Return the ids of the runs of each commit, the newest run first."""
        return self._ids_by_tag(COMMIT)

    def children(self) -> dict[str, list[str]]:
        """Return the ids of the child runs of each parent."""
        return self._ids_by_tag(PARENT)

    def _ids_by_tag(self, key: str) -> dict[str, list[str]]:
        query = sa.select(_TAGS.c.value, _TAGS.c.run_uuid)
        query = query.join(_RUNS, _RUNS.c.run_uuid == _TAGS.c.run_uuid).where(_TAGS.c.key == key)
        found: defaultdict[str, list[str]] = defaultdict(list)
        for value, run_id in self._rows(_newest_first(query)):
            found[value].append(run_id)
        return dict(found)

    def recent(self, since_ms: int, tags: Sequence[str]) -> tuple[list[RunState], list[RunState]]:
        """Return the runs that `kaggleops status` may show, deleted ones included.

        Which runs have ended since then is told by the times that they logged.

        Args:
            since_ms: in milliseconds since the epoch.
            tags: the tags to read of each.

        Returns:
            Those that ended since then or whose machine is kept; and those of which only the bucket
            can tell: what is open, and what was lost or could not be read since then.
        """
        last_ms = sa.func.coalesce(_RUNS.c.end_time, _RUNS.c.start_time, 0)
        marked = sa.select(_TAGS.c.run_uuid).where(_TAGS.c.key.in_((LOST, KEPT_UNTIL)))
        chosen = _RUNS.c.status.in_(OPEN) | (last_ms >= since_ms) | _RUNS.c.run_uuid.in_(marked)
        runs = sa.select(
            _RUNS.c.run_uuid, _RUNS.c.experiment_id, _RUNS.c.status, last_ms, _RUNS.c.name
        ).where(chosen)
        pairs = sa.select(_TAGS.c.run_uuid, _TAGS.c.key, _TAGS.c.value).where(
            _TAGS.c.key.in_((LOST, KEPT_UNTIL, *tags)),
            _TAGS.c.run_uuid.in_(sa.select(_RUNS.c.run_uuid).where(chosen)),
        )
        objects = sa.select(*_ENTITIES.c)
        with self._engine.connect() as connection:
            marks: defaultdict[str, dict[str, str]] = defaultdict(dict)
            for run_id, tag, value in connection.execute(pairs):
                marks[run_id][tag] = value
            found: dict[str, RunState] = {}
            for run_id, home, status, ms, name in connection.execute(runs):
                state = RunState(run_of(str(home), run_id), status, ms, name or "", marks[run_id])
                found[state.id.key] = state
            unsure = [
                key for key, state in found.items() if state.status in OPEN or LOST in state.tags
            ]
            broken = (_ENTITIES.c.problem != "") & (_ENTITIES.c.heard_ms >= since_ms)
            rows = {row.key: row for row in connection.execute(objects.where(broken))}
            for start in range(0, len(unsure), _CHUNK):
                these = _ENTITIES.c.key.in_(unsure[start : start + _CHUNK])
                rows |= {row.key: row for row in connection.execute(objects.where(these))}
        asked = []
        for key, row in rows.items():
            known = found.pop(key, None)
            may_be_silent = row.may_be_silent
            if known and not row.problem and (may_be_silent or known.status == "SCHEDULED"):
                version = row.version
                asked.append(replace(known, version=version, may_be_silent=may_be_silent))
                continue
            # What is shown as lost, or cut, is not as its object has it: that has to be read.
            counts = known and (known.status in OPEN or KEPT_UNTIL in known.tags)
            entity_id = parse_key(key) if counts or row.heard_ms >= since_ms else None
            if entity_id and entity_id.kind is Kind.RUN:
                asked.append(RunState(entity_id, UNREADABLE, row.heard_ms))
        return list(found.values()), asked

    def with_tag(self, key: str, value: str) -> list[EntityId]:
        """Return the runs that have a tag, deleted ones included, and those that may have it."""
        runs = sa.select(_RUNS.c.experiment_id, _RUNS.c.run_uuid)
        runs = runs.join(_TAGS, _TAGS.c.run_uuid == _RUNS.c.run_uuid)
        rows = self._rows(runs.where(_TAGS.c.key == key, _TAGS.c.value == value))
        found = {run_of(str(home), run_id) for home, run_id in rows}
        # The index does not hold these as they are in the bucket.
        broken = self._rows(sa.select(_ENTITIES.c.key).where(_ENTITIES.c.problem != ""))
        others = filter(None, (parse_key(key) for (key,) in broken))
        return sorted(found.union(each for each in others if each.kind is Kind.RUN))

    def names(self) -> list[tuple[str, str]]:
        """Return the id and the name of every run, the newest first."""
        query = _newest_first(sa.select(_RUNS.c.run_uuid, _RUNS.c.name))
        return [(run_id, name or "") for run_id, name in self._rows(query)]

    def experiments(self) -> dict[str, str]:
        """Return the experiments' ids by their names."""
        query = sa.select(_EXPERIMENTS.c.name, _EXPERIMENTS.c.experiment_id)
        return {name: str(number) for name, number in self._rows(query)}

    def last_experiment(self) -> str | None:
        """Return the id of the experiment of the run that began last."""
        rows = self._rows(_newest_first(sa.select(_RUNS.c.experiment_id)).limit(1))
        return str(rows[0][0]) if rows else None

    def best(self, metric: str, *, highest: bool, experiment_id: str | None = None) -> str | None:
        """Return the id of the run with the best finite value of a metric; None if none has it."""
        order = _METRICS.c.value.desc() if highest else _METRICS.c.value.asc()
        query = (
            sa.select(_METRICS.c.run_uuid)
            .join(_RUNS, _RUNS.c.run_uuid == _METRICS.c.run_uuid)
            .where(_METRICS.c.key == metric, *_finished(experiment_id))
            .where(sa.func.abs(_METRICS.c.value) < sys.float_info.max)
            .order_by(order, _RUNS.c.start_time.desc())
            .limit(1)
        )
        rows = self._rows(query)
        return str(rows[0][0]) if rows else None

    def metric_names(self, experiment_id: str) -> dict[str, int]:
        """Return how many finished runs of an experiment have each metric."""
        query = (
            sa.select(_METRICS.c.key, sa.func.count())
            .join(_RUNS, _RUNS.c.run_uuid == _METRICS.c.run_uuid)
            .where(*_finished(experiment_id))
            .group_by(_METRICS.c.key)
        )
        return {row[0]: row[1] for row in self._rows(query)}

    def scored(
        self, experiment_id: str, metric: str, tags: Sequence[str], metrics: Sequence[str]
    ) -> list[Scored]:
        """Return the finished runs of an experiment that have a metric and a commit.

        Args:
            experiment_id: the experiment.
            metric: the metric.
            tags: the tags to read of each.
            metrics: the other metrics to read of each.
        """
        wanted = (
            sa.select(_RUNS.c.run_uuid)
            .join(_METRICS, _METRICS.c.run_uuid == _RUNS.c.run_uuid)
            .where(_METRICS.c.key == metric, *_finished(experiment_id))
        )
        with self._engine.connect() as connection:

            def ask(table: sa.TableClause, *keys: str) -> dict[str, dict[str, str]]:
                rows = sa.select(table.c.run_uuid, table.c.key, table.c.value)
                rows = rows.where(table.c.run_uuid.in_(wanted), table.c.key.in_(keys))
                found: defaultdict[str, dict[str, str]] = defaultdict(dict)
                for run_id, key, value in connection.execute(rows):
                    found[run_id][key] = value
                return found

            started = sa.select(_RUNS.c.run_uuid, _RUNS.c.start_time)
            runs = connection.execute(started.where(_RUNS.c.run_uuid.in_(wanted))).all()
            marks = ask(_TAGS, COMMIT, *tags)
            repeated = ask(_PARAMS, *REPEATED)
            values = ask(_METRICS, metric, *metrics)
            # A text for each run rather than forty rows: the database is faster at that.
            pair = _PARAMS.c.key + "=" + sa.func.coalesce(_PARAMS.c.value, "")
            texts = (
                sa.select(_PARAMS.c.run_uuid, sa.func.aggregate_strings(pair, "\x1f"))
                .where(_PARAMS.c.run_uuid.in_(wanted))
                .where(_PARAMS.c.key.not_in(HOUSEKEEPING))
                .group_by(_PARAMS.c.run_uuid)
            )
            settings: dict[str, str] = dict(connection.execute(texts).tuples().all())
        return [
            Scored(
                id=run_id,
                value=as_logged(float(values[run_id][metric])),
                started_ms=start or 0,
                repetition=tuple(repeated[run_id].get(name, "") for name in REPEATED),
                settings="\x1f".join(sorted(settings.get(run_id, "").split("\x1f"))),
                tags=marks[run_id],
                metrics={name: float(value) for name, value in values[run_id].items()},
            )
            for run_id, start in runs
            if COMMIT in marks[run_id]
        ]

    def runs(self, run_ids: Sequence[str]) -> list[Run]:
        """Return runs in the order of their ids."""
        found: dict[str, Run] = {}
        with self._engine.connect() as connection:
            for start in range(0, len(run_ids), _CHUNK):
                found |= self._runs(connection, run_ids[start : start + _CHUNK])
        return [found[run_id] for run_id in run_ids if run_id in found]

    def _runs(self, connection: sa.Connection, ids: Sequence[str]) -> dict[str, Run]:
        query = sa.select(
            _RUNS.c.run_uuid, _RUNS.c.name, _EXPERIMENTS.c.name, _RUNS.c.experiment_id,
            _RUNS.c.status, _RUNS.c.start_time, _RUNS.c.artifact_uri,
        ).join(_EXPERIMENTS, _EXPERIMENTS.c.experiment_id == _RUNS.c.experiment_id)  # fmt: skip
        found = {
            row[0]: Run(
                row[0], row[1] or "", row[2], str(row[3]), row[4], row[5] or 0, row[6] or "",
            )
            for row in connection.execute(query.where(_RUNS.c.run_uuid.in_(ids)))
        }  # fmt: skip
        for table, of in ((_PARAMS, "params"), (_TAGS, "tags")):
            rows = sa.select(table.c.run_uuid, table.c.key, table.c.value)
            for run_id, key, value in connection.execute(rows.where(table.c.run_uuid.in_(ids))):
                if run_id in found:
                    getattr(found[run_id], of)[key] = value
        values = sa.select(
            _METRICS.c.run_uuid, _METRICS.c.key, _METRICS.c.value, _METRICS.c.is_nan
        ).where(_METRICS.c.run_uuid.in_(ids))
        for run_id, key, value, is_nan in connection.execute(values):
            if run_id in found:
                found[run_id].metrics[key] = as_logged(value, is_nan)
        data = (
            sa.select(_INPUTS.c.destination_id, _DATASETS.c.name, _DATASETS.c.digest)
            .join(_DATASETS, _DATASETS.c.dataset_uuid == _INPUTS.c.source_id)
            .where(_INPUTS.c.source_type == "DATASET", _INPUTS.c.destination_id.in_(ids))
        )
        for run_id, name, digest in connection.execute(data):
            if run_id in found:
                found[run_id].data[name] = digest
        return found

    def points(self, run_ids: Sequence[str], metric: str) -> dict[str, list[tuple[int, float]]]:
        """Return the steps and values of runs' metric in the order of the steps; without NaN.

        Raises:
            KaggleOpsError: the bucket cannot be reached, or none of the runs can be read.
        """
        found: dict[str, list[tuple[int, float]]] = {}
        for run_id, curve in self._reader.read(run_ids, metric):
            pairs = [(curve.steps[at], curve.values[at]) for at in curve.by_step()]
            found[run_id] = [(step, as_logged(value)) for step, value in pairs if value == value]
        return found

    @cached_property
    def _reader(self) -> "PointReader":
        from kaggleops.index.points import PointReader

        return PointReader(self._engine, self._open_store())


def _finished(experiment_id: str | None) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        _RUNS.c.experiment_id == int(experiment_id) if experiment_id is not None else sa.true(),
        _RUNS.c.lifecycle_stage == "active",
        _RUNS.c.status == "FINISHED",
        sa.not_(_METRICS.c.is_nan),
    )


def _newest_first(query: sa.Select[Any]) -> sa.Select[Any]:
    """Restrict a query to runs that are not deleted, the newest first."""
    query = query.where(_RUNS.c.lifecycle_stage == "active")
    return query.order_by(_RUNS.c.start_time.desc(), _RUNS.c.run_uuid)


def as_logged(value: float, is_nan: bool = False) -> float:
    """Return a value as it was logged.

    Args:
        value: as MLflow's tables have it: the largest number for an infinity, 0 for NaN (its
            `SqlAlchemyStore.sanitize_metric_value`).
        is_nan: the column beside it.
    """
    if is_nan:
        return math.nan
    return math.copysign(math.inf, value) if abs(value) >= sys.float_info.max else value
