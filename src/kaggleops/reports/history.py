"""Runs as an index has them: read with a few plain queries, without MLflow's own classes.

Importing those takes longer than reading ten thousand runs. Metric points are in the bucket alone
(index/points.py).
"""

import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import sqlalchemy as sa

from kaggleops.index import tables
from kaggleops.index.database import ENTITIES
from kaggleops.layout import EntityId, Kind, parse_key
from kaggleops.layout import run as run_of
from kaggleops.mlruns.liveness import OPEN, UNREADABLE, RunState
from kaggleops.reports.score import Score, declared, family, require_score
from kaggleops.reports.trainings import Run
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
    UNCOMMITTED,
)

if TYPE_CHECKING:
    from kaggleops.index.points import PointReader
    from kaggleops.mlruns import EntityStore

_CHUNK = 500  # ids in a query

_Ids: TypeAlias = Sequence[str] | sa.Select[Any]


_RUNS, _TAGS, _PARAMS = tables.RUNS.table, tables.TAGS.table, tables.PARAMS.table
_METRICS, _EXPERIMENTS = tables.LATEST_METRICS.table, tables.EXPERIMENTS.table
_INPUTS, _DATASETS = tables.INPUTS.table, tables.DATASETS.table


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
        return self._ids_by(_TAGS, key)

    def patched(self) -> set[str]:
        """Return the ids of the runs of uncommitted changes, and of all below them: no commit's.

        Deleted ones are among them: what is below one is still there.
        """
        tags = sa.select(_TAGS.c.value, _TAGS.c.run_uuid)
        found = {row.run_uuid for row in self._rows(tags.where(_TAGS.c.key == UNCOMMITTED))}
        below: defaultdict[str, set[str]] = defaultdict(set)
        for above, run_id in self._rows(tags.where(_TAGS.c.key == PARENT)) if found else ():
            below[above].add(run_id)
        waiting = list(found)
        while waiting:
            new = below[waiting.pop()] - found
            found |= new
            waiting += new
        return found

    def count_patched(self, experiment_id: str | None, metric: str) -> int:
        """Return how many finished runs have a metric and are `patched`, so that none counts."""
        query = sa.select(_METRICS.c.run_uuid).join(_RUNS, _RUNS.c.run_uuid == _METRICS.c.run_uuid)
        having = _METRICS.c.key.in_(family(metric, self.metric_names(experiment_id)))
        rows = self._rows(query.where(having, *_finished(experiment_id)))
        return len({row.run_uuid for row in rows} & self.patched())

    def ids_by_param(self, key: str) -> dict[str, list[str]]:
        """Return the ids of the runs with each value of a param, the newest run first."""
        return self._ids_by(_PARAMS, key)

    def _ids_by(self, table: sa.TableClause, key: str) -> dict[str, list[str]]:
        query = _newest_first(table.c.value, table.c.run_uuid, of=table)
        found: defaultdict[str, list[str]] = defaultdict(list)
        for value, run_id in self._rows(query.where(table.c.key == key)):
            found[value].append(run_id)
        return dict(found)

    def recent(self, since_ms: int, tags: Sequence[str]) -> tuple[list[RunState], list[RunState]]:
        """Return the runs that `kaggleops status` may show, deleted ones included, with these tags.

        Which have ended since then (milliseconds since the epoch) is told by the times they logged.

        Returns:
            Those that ended since then or whose machine is kept; and those of which only the bucket
            can tell: what is open, and what was lost or could not be read since then.
        """
        last_ms = sa.func.coalesce(_RUNS.c.end_time, _RUNS.c.start_time, 0)
        marked = sa.select(_TAGS.c.run_uuid).where(_TAGS.c.key.in_((LOST, KEPT_UNTIL)))
        chosen = _RUNS.c.status.in_(OPEN) | (last_ms >= since_ms) | _RUNS.c.run_uuid.in_(marked)
        among = sa.select(_RUNS.c.run_uuid).where(chosen)
        found: dict[str, RunState] = {}
        for run in self._read(among, (LOST, KEPT_UNTIL, *tags)).values():
            own = {
                each: run.metrics[each] for each in run.metrics if not each.startswith("system/")
            }
            heard_ms = run.started_ms if run.ended_ms is None else run.ended_ms
            state = RunState(
                run_of(run.experiment_id, run.id), run.status, heard_ms, run.name, run.tags,
                began_ms=run.started_ms, ended_ms=run.ended_ms, params=run.params, metrics=own,
                step=run.step,
            )  # fmt: skip
            found[state.id.key] = state
        unsure = [key for key, each in found.items() if each.status in OPEN or LOST in each.tags]
        objects = sa.select(*ENTITIES.c)
        broken = (ENTITIES.c.problem != "") & (ENTITIES.c.heard_ms >= since_ms)
        rows = {row.key: row for row in self._rows(objects.where(broken))}
        for keys in _chunks(unsure):
            rows |= {row.key: row for row in self._rows(objects.where(ENTITIES.c.key.in_(keys)))}
        asked = []
        for key, row in rows.items():
            known = found.pop(key, None)
            if known and not row.problem and (row.may_be_silent or known.status == "SCHEDULED"):
                known = replace(known, version=row.version, may_be_silent=row.may_be_silent)
                asked.append(known)
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
        broken = self._rows(sa.select(ENTITIES.c.key).where(ENTITIES.c.problem != ""))
        others = filter(None, (parse_key(key) for (key,) in broken))
        return sorted(found.union(each for each in others if each.kind is Kind.RUN))

    def having(self, key: str, values: Sequence[str] | None = None) -> list[Run]:
        """Return the runs that have a tag, with one of these values if they are named.

        The oldest first; not those that were deleted.
        """
        query = _newest_first(_TAGS.c.run_uuid, of=_TAGS).where(_TAGS.c.key == key)
        queries = [query]
        if values is not None:
            queries = [query.where(_TAGS.c.value.in_(these)) for these in _chunks(values)]
        return self.runs([row[0] for each in queries for row in self._rows(each)[::-1]])

    def open_with(self, key: str) -> dict[str, str]:
        """Return the value of a tag of each run that has it and has not ended."""
        query = _newest_first(_TAGS.c.run_uuid, _TAGS.c.value, of=_TAGS)
        rows = self._rows(query.where(_TAGS.c.key == key, _RUNS.c.status.in_(OPEN)))
        return {row[0]: row[1] for row in rows}

    def names(self) -> list[tuple[str, str]]:
        """Return the id and the name of every run, the newest first."""
        rows = self._rows(_newest_first(_RUNS.c.run_uuid, _RUNS.c.name))
        return [(run_id, name or "") for run_id, name in rows]

    def experiments(self) -> dict[str, str]:
        """Return the experiments' ids by their names."""
        query = sa.select(_EXPERIMENTS.c.name, _EXPERIMENTS.c.experiment_id)
        return {name: str(number) for name, number in self._rows(query)}

    def last_experiment(self) -> str | None:
        """Return the id of the experiment of the run that began last."""
        rows = self._rows(_newest_first(_RUNS.c.experiment_id).limit(1))
        return str(rows[0][0]) if rows else None

    def has_others(self, experiment_id: str) -> bool:
        """Tell whether there are runs of other experiments than this one."""
        others = _newest_first(_RUNS.c.run_uuid).where(_RUNS.c.experiment_id != int(experiment_id))
        return bool(self._rows(others.limit(1)))

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
            sa.select(_TAGS.c.value, _RUNS.c.run_uuid)
            .distinct()
            .join(_RUNS, _RUNS.c.run_uuid == _TAGS.c.run_uuid)
            .join(_METRICS, _METRICS.c.run_uuid == _RUNS.c.run_uuid)
            .where(_TAGS.c.key == COMMIT, _IS_NUMBER, *_finished(experiment_id))
        )
        if metric is not None:
            having = family(metric, self.metric_names(experiment_id))
            query = query.where(_METRICS.c.key.in_(having))
        patched = self.patched()
        return {sha for sha, run_id in self._rows(query) if run_id not in patched}

    def score(self, experiment_id: str, doing: str) -> Score:
        """Return what the newest run of an experiment that declares a score declares, else a guess.

        UsageError if none of the finished runs' metrics looks like a score.
        """
        query = _newest_first(_TAGS.c.value, of=_TAGS).where(_TAGS.c.key == SCORE)
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
    ) -> list[Run]:
        """Return the finished runs of an experiment, or of all, that have one of the scores.

        With these tags and other metrics; the `newest` so many, if that is given; only those that
        are `of_commits`, and blends, which have none, unless told otherwise. None is `patched`.
        """
        wanted = (
            sa.select(_RUNS.c.run_uuid)
            .join(_METRICS, _METRICS.c.run_uuid == _RUNS.c.run_uuid)
            .where(_METRICS.c.key.in_(scores), *_finished(experiment_id))
        )
        if newest is not None:
            once = wanted.group_by(_RUNS.c.run_uuid, _RUNS.c.start_time)
            wanted = once.order_by(*_ORDER).limit(newest)
        # Of a trial that failed or was pruned, the folds that finished tell too little.
        above = sa.select(_TAGS.c.value).where(_TAGS.c.key == PARENT, _TAGS.c.run_uuid.in_(wanted))
        parents = self._read(above, (TRIAL, SWEEP), ("",))  # without metrics
        bad = {each.id for each in parents.values() if each.is_bad_trial}
        left_out = self.patched()
        runs = self._read(wanted, (COMMIT, BLEND, *_NESTED, *tags), (*scores, *metrics))
        return [
            run
            for run in runs.values()
            if ({COMMIT, BLEND} & run.tags.keys() or not of_commits)
            and run.parent not in bad
            and run.id not in left_out
        ]

    def runs(self, run_ids: Sequence[str]) -> list[Run]:
        """Return runs in the order of their ids."""
        found: dict[str, Run] = {}
        for these in _chunks(run_ids):
            found |= self._read(these)
        return [found[run_id] for run_id in run_ids if run_id in found]

    def _read(
        self, ids: _Ids, tags: Sequence[str] = (), metrics: Sequence[str] = ()
    ) -> dict[str, Run]:
        """Return runs by their ids; with `tags`, these and no other, and no datasets."""
        query = sa.select(
            _RUNS.c.run_uuid, _RUNS.c.name, _EXPERIMENTS.c.name, _RUNS.c.experiment_id,
            _RUNS.c.status, _RUNS.c.start_time, _RUNS.c.artifact_uri, _RUNS.c.end_time,
        ).join(_EXPERIMENTS, _EXPERIMENTS.c.experiment_id == _RUNS.c.experiment_id)  # fmt: skip
        logged = sa.select(
            _METRICS.c.run_uuid,
            _METRICS.c.key,
            _METRICS.c.step,
            _METRICS.c.value,
            _METRICS.c.is_nan,
        ).where(_METRICS.c.run_uuid.in_(ids), _METRICS.c.key.in_(metrics) if metrics else sa.true())
        values: defaultdict[str, dict[str, float]] = defaultdict(dict)
        steps: defaultdict[str, dict[str, int]] = defaultdict(dict)
        data: defaultdict[str, dict[str, str]] = defaultdict(dict)
        with self._engine.connect() as connection:
            rows = connection.execute(query.where(_RUNS.c.run_uuid.in_(ids))).all()
            marks = _pairs(connection, _TAGS, ids, tags)
            params = _pairs(connection, _PARAMS, ids) if not tags else _texts(connection, ids)
            for run_id, key, step, value, is_nan in connection.execute(logged):
                values[run_id][key], steps[run_id][key] = as_logged(float(value), is_nan), step
            given = (
                sa.select(_INPUTS.c.destination_id, _DATASETS.c.name, _DATASETS.c.digest)
                .join(_DATASETS, _DATASETS.c.dataset_uuid == _INPUTS.c.source_id)
                .where(_INPUTS.c.source_type == "DATASET", _INPUTS.c.destination_id.in_(ids))
            )
            for run_id, name, digest in connection.execute(given) if not tags else ():
                data[run_id][name] = digest
        return {
            row[0]: Run(
                row[0], row[1] or "", row[2], str(row[3]), row[4], row[5] or 0, row[6] or "",
                params.get(row[0], {}), marks.get(row[0], {}),
                values.get(row[0], {}), steps.get(row[0], {}), data.get(row[0], {}), row[7],
            )
            for row in rows
        }  # fmt: skip

    def trials(self, sweep_ids: Sequence[str]) -> dict[str, list[str]]:
        """Return the status of each trial of sweeps (or fold of one), PRUNED and LOST too."""
        children = _newest_first(_TAGS.c.run_uuid, of=_TAGS).where(_TAGS.c.key == PARENT)
        found: defaultdict[str, list[str]] = defaultdict(list)
        for these in _chunks(sweep_ids):
            mine = children.where(_TAGS.c.value.in_(these))
            for run in self._read(mine, _NESTED, ("",)).values():  # without metrics
                if TRIAL in run.tags:
                    pruned = run.status == "KILLED" and PRUNED in run.tags
                    lost = run.status == "RUNNING" and LOST in run.tags
                    status = "PRUNED" if pruned else "LOST" if lost else run.status
                    found[run.parent].append(status)
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


_NESTED = (PARENT, SWEEP, TRIAL, FOLD, POINT, ENTRY_POINT, SETTINGS, SUBJECT, LOST, PRUNED)


def _chunks(values: Sequence[str]) -> Iterator[Sequence[str]]:
    return (values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK))


def _pairs(
    connection: sa.Connection, table: sa.TableClause, ids: _Ids, keys: Sequence[str] = ()
) -> dict[str, dict[str, str]]:
    """Return tags or params of runs, those with these keys if any are named."""
    query = sa.select(table.c.run_uuid, table.c.key, table.c.value)
    query = query.where(table.c.run_uuid.in_(ids))
    if keys:
        query = query.where(table.c.key.in_(keys))
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for run_id, key, value in connection.execute(query):
        found[run_id][key] = value
    return found


def _texts(connection: sa.Connection, ids: _Ids) -> dict[str, dict[str, str]]:
    """Return the params of runs: one text for each rather than forty rows, which is faster."""
    pair = _PARAMS.c.key + "=" + sa.func.coalesce(_PARAMS.c.value, "")
    query = sa.select(_PARAMS.c.run_uuid, sa.func.aggregate_strings(pair, "\x1f"))
    query = query.where(_PARAMS.c.run_uuid.in_(ids)).group_by(_PARAMS.c.run_uuid)
    # Ten thousand runs have the same names and few values: each is kept in memory once.
    return {
        run_id: {
            sys.intern(name): sys.intern(value)
            for name, equals, value in (each.partition("=") for each in text.split("\x1f"))
            if equals
        }
        for run_id, text in connection.execute(query)
    }


def _finished(experiment_id: str | None) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        _RUNS.c.experiment_id == int(experiment_id) if experiment_id is not None else sa.true(),
        _RUNS.c.lifecycle_stage == "active",
        _RUNS.c.status == "FINISHED",
    )


_IS_NUMBER = sa.not_(_METRICS.c.is_nan)
_ORDER = (_RUNS.c.start_time.desc(), _RUNS.c.run_uuid)


def _newest_first(
    *columns: sa.ColumnElement[Any], of: sa.TableClause | None = None
) -> sa.Select[Any]:
    """Select from the runs that are not deleted, with a table's rows `of` them; newest first."""
    query = sa.select(*columns).select_from(_RUNS)
    if of is not None:
        query = query.join(of, of.c.run_uuid == _RUNS.c.run_uuid)
    return query.where(_RUNS.c.lifecycle_stage == "active").order_by(*_ORDER)


def as_logged(value: float, is_nan: bool = False) -> float:
    """Return a value as it was logged.

    MLflow's tables have the largest number for an infinity, and 0 for NaN with a column beside it
    (`SqlAlchemyStore.sanitize_metric_value`).
    """
    if is_nan:
        return math.nan
    return math.copysign(math.inf, value) if abs(value) >= sys.float_info.max else value
