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
from kaggleops.reports.score import Score, declared, family, require_score
from kaggleops.reports.trainings import (
    EPOCHS,
    FOLD_COUNTS,
    HOUSEKEEPING,
    REPEATED,
    point_of,
    repetition_of,
)
from kaggleops.tags import (
    BLEND,
    COMMIT,
    ENTRY_POINT,
    FOLD,
    KEPT_UNTIL,
    LOST,
    PARENT,
    POINT,
    PRUNED,
    SCORE,
    SETTINGS,
    SUBJECT,
    SWEEP,
    TRIAL,
)

if TYPE_CHECKING:
    from kaggleops.index.points import PointReader
    from kaggleops.mlruns import EntityStore

_CHUNK = 500  # ids in a query


def _table(name: str, columns: str) -> sa.TableClause:
    return sa.table(name, *map(sa.column, columns.split()))


_RUN = "run_uuid name experiment_id status start_time end_time lifecycle_stage artifact_uri"
_RUNS = _table("runs", _RUN)
_TAGS = _table("tags", "run_uuid key value")
_PARAMS = _table("params", "run_uuid key value")
_METRICS = _table("latest_metrics", "run_uuid key value is_nan step")
_EXPERIMENTS = _table("experiments", "experiment_id name")
_INPUTS = _table("inputs", "source_id destination_id source_type")
_DATASETS = _table("datasets", "dataset_uuid name digest")
_ENTITIES = _table("kaggleops_entities", "key version problem heard_ms may_be_silent")


@dataclass(frozen=True)
class Run:
    """One run: its own values and its experiment's name and id, as MLflow has them."""

    id: str
    name: str
    experiment: str
    experiment_id: str
    status: str
    started_ms: int  # in milliseconds since the epoch; 0 if not known
    artifacts: str  # the URI of its artifacts
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)  # the latest value of each
    steps: dict[str, int] = field(default_factory=dict)  # the last step of each
    # the digest of each dataset it was given, by name
    data: dict[str, str] = field(default_factory=dict)
    ended_ms: int | None = None  # in milliseconds since the epoch; None while it has not

    @property
    def step(self) -> int | None:
        """The last step that it logged (not of its machine's load)."""
        own = [step for name, step in self.steps.items() if not name.startswith("system/")]
        return max(own, default=None)

    @property
    def sha(self) -> str:
        """Its commit's full hash, or ""."""
        return self.tags.get(COMMIT, "")

    @property
    def parent(self) -> str:
        """The id of its parent run, or ""."""
        return self.tags.get(PARENT, "")

    @property
    def repetition(self) -> tuple[str, str]:
        """What distinguishes it from the others of its training: its fold and seed."""
        return repetition_of(self.params, self.tags)

    @property
    def settings(self) -> tuple[str, ...]:
        """All its other params, and what a sweep set for it: `key=value` each."""
        told = {**point_of(self.tags), **self.params}
        return tuple(f"{key}={told[key]}" for key in told if key not in HOUSEKEEPING)


@dataclass(frozen=True)
class Scored:
    """A run on a leaderboard."""

    id: str
    started_ms: int  # in milliseconds since the epoch; 0 if not known
    repetition: tuple[str, str]  # its fold and its seed, each "" if it has none
    # all its other params, and what a sweep set for it: `key=value`, in order
    settings: tuple[str, ...]
    # those that were asked for, its commit, what nests it below another run and what was set for it
    tags: Mapping[str, str]
    metrics: Mapping[str, float]  # those that were asked for
    steps: Mapping[str, int] = field(default_factory=dict)  # the last step of each
    # those that tell its folds and seeds
    params: Mapping[str, str] = field(default_factory=dict)
    # the metric's values by the folds that it had in one process, a step each
    folds: Mapping[str, float] = field(default_factory=dict)

    @property
    def sha(self) -> str:
        """Its commit's full hash; of a blend, which has none, its id."""
        return self.tags.get(COMMIT) or self.id


class History:
    """The runs in an index's database that have not been deleted."""

    def __init__(self, engine: sa.Engine, open_store: "Callable[[], EntityStore]") -> None:
        self._engine = engine
        self._open_store = open_store

    def _rows(self, query: sa.Select[Any]) -> Sequence[Any]:
        with self._engine.connect() as connection:
            return connection.execute(query).all()

    def ids_by_tag(self, key: str) -> dict[str, list[str]]:
        """Return the ids of the runs with each value of a tag, the newest run first."""
        query = sa.select(_TAGS.c.value, _TAGS.c.run_uuid)
        query = query.join(_RUNS, _RUNS.c.run_uuid == _TAGS.c.run_uuid).where(_TAGS.c.key == key)
        found: defaultdict[str, list[str]] = defaultdict(list)
        for value, run_id in self._rows(_newest_first(query)):
            found[value].append(run_id)
        return dict(found)

    def ids_by_param(self, key: str) -> dict[str, list[str]]:
        """Return the ids of the runs with each value of a param, the newest run first."""
        query = sa.select(_PARAMS.c.value, _PARAMS.c.run_uuid)
        query = query.join(_RUNS, _RUNS.c.run_uuid == _PARAMS.c.run_uuid)
        found: defaultdict[str, list[str]] = defaultdict(list)
        for value, run_id in self._rows(_newest_first(query.where(_PARAMS.c.key == key))):
            found[value].append(run_id)
        return dict(found)

    def recent(
        self, since_ms: int, tags: Sequence[str], params: Sequence[str] | None = None
    ) -> tuple[list[RunState], list[RunState]]:
        """Return the runs that `kaggleops status` may show, deleted ones included, with these tags.

        Which have ended since then (milliseconds since the epoch) is told by the times they logged.
        If `params` are named, those come too, all of a run that has not ended, and the metrics.

        Returns:
            Those that ended since then or whose machine is kept; and those of which only the bucket
            can tell: what is open, and what was lost or could not be read since then.
        """
        last_ms = sa.func.coalesce(_RUNS.c.end_time, _RUNS.c.start_time, 0)
        marked = sa.select(_TAGS.c.run_uuid).where(_TAGS.c.key.in_((LOST, KEPT_UNTIL)))
        chosen = _RUNS.c.status.in_(OPEN) | (last_ms >= since_ms) | _RUNS.c.run_uuid.in_(marked)
        runs = sa.select(
            _RUNS.c.run_uuid, _RUNS.c.experiment_id, _RUNS.c.status, last_ms, _RUNS.c.name,
            _RUNS.c.start_time, _RUNS.c.end_time,
        ).where(chosen)  # fmt: skip
        pairs = sa.select(_TAGS.c.run_uuid, _TAGS.c.key, _TAGS.c.value).where(
            _TAGS.c.key.in_((LOST, KEPT_UNTIL, *tags)),
            _TAGS.c.run_uuid.in_(sa.select(_RUNS.c.run_uuid).where(chosen)),
        )
        objects = sa.select(*_ENTITIES.c)
        with self._engine.connect() as connection:
            marks: defaultdict[str, dict[str, str]] = defaultdict(dict)
            for run_id, tag, value in connection.execute(pairs):
                marks[run_id][tag] = value
            values: dict[str, dict[str, tuple[int, float]]] = defaultdict(dict)
            settings: defaultdict[str, dict[str, str]] = defaultdict(dict)
            if params is not None:
                among = sa.select(_RUNS.c.run_uuid).where(chosen)
                values = _last_values(connection, among)
                settings = _params(connection, among, params)
            found: dict[str, RunState] = {}
            for run_id, home, status, ms, name, began, ended in connection.execute(runs):
                last = values[run_id]
                state = RunState(
                    run_of(str(home), run_id),
                    status,
                    ms,
                    name or "",
                    marks[run_id],
                    began_ms=began or 0,
                    ended_ms=ended,
                    params=settings[run_id],
                    metrics={metric: value for metric, (_, value) in last.items()},
                    step=max((step for step, _ in last.values()), default=None),
                )
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

    def having(self, key: str, values: Sequence[str] | None = None) -> list[Run]:
        """Return the runs that have a tag, with one of these values if they are named.

        The oldest first; not those that were deleted.
        """
        query = _newest_first(
            sa.select(_TAGS.c.run_uuid)
            .join(_RUNS, _RUNS.c.run_uuid == _TAGS.c.run_uuid)
            .where(_TAGS.c.key == key)
        )
        if values is None:
            return self.runs([row[0] for row in self._rows(query)][::-1])
        found = []
        for start in range(0, len(values), _CHUNK):
            these = _TAGS.c.value.in_(values[start : start + _CHUNK])
            found += [row[0] for row in self._rows(query.where(these))][::-1]
        return self.runs(found)

    def open_with(self, key: str) -> dict[str, str]:
        """Return the value of a tag of each run that has it and has not ended."""
        query = sa.select(_TAGS.c.run_uuid, _TAGS.c.value)
        query = query.join(_RUNS, _RUNS.c.run_uuid == _TAGS.c.run_uuid)
        open_ones = _RUNS.c.status.in_(OPEN), _RUNS.c.lifecycle_stage == "active"
        return {row[0]: row[1] for row in self._rows(query.where(_TAGS.c.key == key, *open_ones))}

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

    def metric_names(self, experiment_id: str | None) -> dict[str, int]:
        """Return how many finished runs of an experiment, or of all, have each metric."""
        query = (
            sa.select(_METRICS.c.key, sa.func.count())
            .join(_RUNS, _RUNS.c.run_uuid == _METRICS.c.run_uuid)
            .where(_IS_NUMBER, *_finished(experiment_id))
            .group_by(_METRICS.c.key)
        )
        return {row[0]: row[1] for row in self._rows(query)}

    def commits(self, experiment_id: str, metric: str | None) -> set[str]:
        """Return the full hashes of the commits with finished runs (that have a metric)."""
        query = (
            sa.select(_TAGS.c.value)
            .distinct()
            .join(_RUNS, _RUNS.c.run_uuid == _TAGS.c.run_uuid)
            .join(_METRICS, _METRICS.c.run_uuid == _RUNS.c.run_uuid)
            .where(_TAGS.c.key == COMMIT, _IS_NUMBER, *_finished(experiment_id))
        )
        if metric is not None:
            having = family(metric, self.metric_names(experiment_id))
            query = query.where(_METRICS.c.key.in_(having))
        return {row[0] for row in self._rows(query)}

    def score(self, experiment_id: str, doing: str) -> Score:
        """Return what the newest run of an experiment that declares a score declares, else a guess.

        UsageError if none of the finished runs' metrics looks like a score.
        """
        query = _newest_first(sa.select(_TAGS.c.value))
        query = query.join(_RUNS, _RUNS.c.run_uuid == _TAGS.c.run_uuid).where(_TAGS.c.key == SCORE)
        told = self._rows(query.where(_RUNS.c.experiment_id == int(experiment_id)).limit(1))
        score = declared({SCORE: told[0][0]}) if told else None
        return require_score(self.metric_names(experiment_id), score, doing)

    def scored(
        self,
        experiment_id: str | None,
        scores: Sequence[str],
        tags: Sequence[str] = (),
        metrics: Sequence[str] = (),
        newest: int | None = None,
        *,
        of_commits: bool = True,
    ) -> list[Scored]:
        """Return the finished runs of an experiment, or of all, that have one of the scores.

        With these tags and other metrics; the `newest` so many, if that is given; only those that
        are `of_commits`, and blends, which have none, unless told otherwise.
        """
        wanted = (
            sa.select(_RUNS.c.run_uuid)
            .join(_METRICS, _METRICS.c.run_uuid == _RUNS.c.run_uuid)
            .where(_METRICS.c.key.in_(scores), *_finished(experiment_id))
        )
        if newest is not None:
            once = wanted.group_by(_RUNS.c.run_uuid, _RUNS.c.start_time)
            wanted = _newest_first(once).limit(newest)
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
            # Of a trial that failed or was pruned, the folds that finished tell too little.
            parents = sa.select(_TAGS.c.value).where(
                _TAGS.c.key == PARENT, _TAGS.c.run_uuid.in_(wanted)
            )
            ended_badly = _ended_badly(connection, _RUNS.c.run_uuid.in_(parents))
            marks = ask(_TAGS, COMMIT, BLEND, *_NESTED, *tags)
            repeated = ask(_PARAMS, *REPEATED, *FOLD_COUNTS, *EPOCHS)
            values: defaultdict[str, dict[str, float]] = defaultdict(dict)
            steps: defaultdict[str, dict[str, int]] = defaultdict(dict)
            logged = sa.select(
                _METRICS.c.run_uuid,
                _METRICS.c.key,
                _METRICS.c.value,
                _METRICS.c.is_nan,
                _METRICS.c.step,
            ).where(_METRICS.c.run_uuid.in_(wanted), _METRICS.c.key.in_((*scores, *metrics)))
            for run_id, key, value, is_nan, step in connection.execute(logged):
                values[run_id][key] = as_logged(float(value), is_nan)
                steps[run_id][key] = step
            # A text for each run rather than forty rows: the database is faster at that.
            pair = _PARAMS.c.key + "=" + sa.func.coalesce(_PARAMS.c.value, "")
            texts = (
                sa.select(_PARAMS.c.run_uuid, sa.func.aggregate_strings(pair, "\x1f"))
                .where(_PARAMS.c.run_uuid.in_(wanted))
                .where(_PARAMS.c.key.not_in(HOUSEKEEPING))
                .group_by(_PARAMS.c.run_uuid)
            )
            settings: dict[str, str] = {each[0]: each[1] for each in connection.execute(texts)}
        return [
            Scored(
                id=run_id,
                started_ms=start or 0,
                repetition=repetition_of(repeated[run_id], marks[run_id]),
                settings=_with_point(settings.get(run_id, "").split("\x1f"), marks[run_id]),
                tags=marks[run_id],
                metrics=values[run_id],
                steps=steps[run_id],
                params=repeated[run_id],
            )
            for run_id, start in runs
            if ({COMMIT, BLEND} & marks[run_id].keys() or not of_commits)
            and marks[run_id].get(PARENT) not in ended_badly
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
            _RUNS.c.status, _RUNS.c.start_time, _RUNS.c.artifact_uri, _RUNS.c.end_time,
        ).join(_EXPERIMENTS, _EXPERIMENTS.c.experiment_id == _RUNS.c.experiment_id)  # fmt: skip
        found = {
            row[0]: Run(
                row[0], row[1] or "", row[2], str(row[3]), row[4], row[5] or 0, row[6] or "",
                ended_ms=row[7],
            )
            for row in connection.execute(query.where(_RUNS.c.run_uuid.in_(ids)))
        }  # fmt: skip
        for table, of in ((_PARAMS, "params"), (_TAGS, "tags")):
            rows = sa.select(table.c.run_uuid, table.c.key, table.c.value)
            for run_id, key, value in connection.execute(rows.where(table.c.run_uuid.in_(ids))):
                if run_id in found:
                    getattr(found[run_id], of)[key] = value
        values = sa.select(
            _METRICS.c.run_uuid,
            _METRICS.c.key,
            _METRICS.c.value,
            _METRICS.c.is_nan,
            _METRICS.c.step,
        ).where(_METRICS.c.run_uuid.in_(ids))
        for run_id, key, value, is_nan, step in connection.execute(values):
            if run_id in found:
                found[run_id].metrics[key] = as_logged(value, is_nan)
                found[run_id].steps[key] = step
        data = (
            sa.select(_INPUTS.c.destination_id, _DATASETS.c.name, _DATASETS.c.digest)
            .join(_DATASETS, _DATASETS.c.dataset_uuid == _INPUTS.c.source_id)
            .where(_INPUTS.c.source_type == "DATASET", _INPUTS.c.destination_id.in_(ids))
        )
        for run_id, name, digest in connection.execute(data):
            if run_id in found:
                found[run_id].data[name] = digest
        return found

    def trials(self, sweep_ids: Sequence[str]) -> dict[str, list[str]]:
        """Return the status of each trial of sweeps (or fold of one), PRUNED and LOST too."""
        parent, trial, mark = (_TAGS.alias(name) for name in ("parent", "trial", "mark"))
        query = (
            sa.select(parent.c.value, _RUNS.c.status, sa.func.max(mark.c.key))
            .join(_RUNS, _RUNS.c.run_uuid == parent.c.run_uuid)
            .join(trial, (trial.c.run_uuid == parent.c.run_uuid) & (trial.c.key == TRIAL))
            .outerjoin(
                mark, (mark.c.run_uuid == parent.c.run_uuid) & mark.c.key.in_((LOST, PRUNED))
            )
            .where(_RUNS.c.lifecycle_stage == "active", parent.c.key == PARENT)
            .group_by(parent.c.value, _RUNS.c.run_uuid, _RUNS.c.status)
        )
        found: defaultdict[str, list[str]] = defaultdict(list)
        for start in range(0, len(sweep_ids), _CHUNK):
            these = parent.c.value.in_(sweep_ids[start : start + _CHUNK])
            for sweep_id, status, marked in self._rows(query.where(these)):
                pruned = status == "KILLED" and marked == PRUNED
                lost = status == "RUNNING" and marked == LOST
                found[sweep_id].append("PRUNED" if pruned else "LOST" if lost else status)
        return dict(found)

    def points(self, run_ids: Sequence[str], metric: str) -> dict[str, list[tuple[int, float]]]:
        """Return the steps and values of runs' metric in the order of the steps.

        Raises KaggleOpsError if the bucket cannot be reached, or none of the runs can be read.
        """
        found: dict[str, list[tuple[int, float]]] = {}
        for run_id, curve in self._reader.read(run_ids, metric):
            pairs = [(curve.steps[at], curve.values[at]) for at in curve.by_step()]
            found[run_id] = [(step, as_logged(value)) for step, value in pairs]
        return found

    @cached_property
    def _reader(self) -> "PointReader":
        from kaggleops.index.points import PointReader

        return PointReader(self._engine, self._open_store())


_NESTED = (PARENT, SWEEP, TRIAL, FOLD, POINT, ENTRY_POINT, SETTINGS, SUBJECT)


def _with_point(params: Sequence[str], tags: Mapping[str, str]) -> tuple[str, ...]:
    """Return settings as texts, with what a sweep set that no param tells."""
    if POINT in tags:
        known = {each.partition("=")[0] for each in params}.union(HOUSEKEEPING)
        point = point_of(tags)
        params = [*params, *(f"{key}={point[key]}" for key in point.keys() - known)]
    return tuple(sorted(params))


def _last_values(
    connection: sa.Connection, among: sa.Select[Any]
) -> dict[str, dict[str, tuple[int, float]]]:
    """Return the last step and value of each metric of runs, but for their machines' load."""
    query = sa.select(
        _METRICS.c.run_uuid, _METRICS.c.key, _METRICS.c.value, _METRICS.c.is_nan, _METRICS.c.step
    ).where(_METRICS.c.run_uuid.in_(among), sa.not_(_METRICS.c.key.startswith("system/")))
    found: defaultdict[str, dict[str, tuple[int, float]]] = defaultdict(dict)
    for run_id, key, value, is_nan, step in connection.execute(query):
        found[run_id][key] = step, as_logged(value, is_nan)
    return found


def _params(
    connection: sa.Connection, among: sa.Select[Any], names: Sequence[str]
) -> defaultdict[str, dict[str, str]]:
    """Return these params of runs, and all of those that have not ended."""
    query = (
        sa.select(_PARAMS.c.run_uuid, _PARAMS.c.key, _PARAMS.c.value)
        .join(_RUNS, _RUNS.c.run_uuid == _PARAMS.c.run_uuid)
        .where(_PARAMS.c.run_uuid.in_(among))
        .where(_PARAMS.c.key.in_(names) | _RUNS.c.status.in_(OPEN))
    )
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for run_id, key, value in connection.execute(query):
        found[run_id][key] = value
    return found


def _ended_badly(connection: sa.Connection, which: sa.ColumnElement[bool]) -> set[str]:
    """Return those of some runs that are trials of a search and were killed or failed."""
    tagged = sa.select(_TAGS.c.run_uuid).where(_TAGS.c.run_uuid == _RUNS.c.run_uuid)
    query = sa.select(_RUNS.c.run_uuid).where(
        which,
        _RUNS.c.status.in_(("FAILED", "KILLED")),
        tagged.where(_TAGS.c.key == TRIAL).exists(),
        sa.not_(tagged.where(_TAGS.c.key == SWEEP).exists()),
    )
    return {row[0] for row in connection.execute(query)}


def _finished(experiment_id: str | None) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        _RUNS.c.experiment_id == int(experiment_id) if experiment_id is not None else sa.true(),
        _RUNS.c.lifecycle_stage == "active",
        _RUNS.c.status == "FINISHED",
    )


_IS_NUMBER = sa.not_(_METRICS.c.is_nan)


def _newest_first(query: sa.Select[Any]) -> sa.Select[Any]:
    """Restrict a query to runs that are not deleted, the newest first."""
    query = query.where(_RUNS.c.lifecycle_stage == "active")
    return query.order_by(_RUNS.c.start_time.desc(), _RUNS.c.run_uuid)


def as_logged(value: float, is_nan: bool = False) -> float:
    """Return a value as it was logged.

    MLflow's tables have the largest number for an infinity, and 0 for NaN with a column beside it
    (`SqlAlchemyStore.sanitize_metric_value`).
    """
    if is_nan:
        return math.nan
    return math.copysign(math.inf, value) if abs(value) >= sys.float_info.max else value
