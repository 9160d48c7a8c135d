"""Runs as an index has them: read with a few plain queries, without MLflow's own classes.

Importing those takes longer than reading ten thousand runs.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from kaggleops.reports.metrics import as_logged
from kaggleops.tags import BACKEND, BRANCH, COMMIT, PARENT

REPEATED = ("fold", "seed")
"""The params that tell the repetitions of one training from each other."""

HOUSEKEEPING = ("overrides", *REPEATED)
"""The params that say nothing of what a training was set to."""

SUBMITTED = ("public_score", "private_score")
"""Metrics that a submission to Kaggle records on its run."""

_CHUNK = 500  # ids in a query

_RUNS = sa.table(
    "runs",
    *map(
        sa.column,
        ("run_uuid", "name", "experiment_id", "status", "start_time",
         "lifecycle_stage", "artifact_uri"),
    ),
)  # fmt: skip
_TAGS = sa.table("tags", *map(sa.column, ("run_uuid", "key", "value")))
_PARAMS = sa.table("params", *map(sa.column, ("run_uuid", "key", "value")))
_METRICS = sa.table("latest_metrics", *map(sa.column, ("run_uuid", "key", "value", "is_nan")))
_POINTS = sa.table(
    "metrics", *map(sa.column, ("run_uuid", "key", "value", "is_nan", "step", "timestamp"))
)
_EXPERIMENTS = sa.table("experiments", *map(sa.column, ("experiment_id", "name")))
_INPUTS = sa.table("inputs", *map(sa.column, ("source_id", "destination_id", "source_type")))
_DATASETS = sa.table("datasets", *map(sa.column, ("dataset_uuid", "name", "digest")))


@dataclass(frozen=True)
class Run:
    """One run.

    Args:
        id: its id.
        name: its name.
        experiment: its experiment's name.
        experiment_id: its experiment's id.
        status: MLflow's.
        started_ms: when it began, in milliseconds since the epoch; 0 where nobody knows.
        artifacts: where its artifacts lie.
        params: its params.
        tags: its tags.
        metrics: the latest value of each metric.
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
        """The id of the run that it is a part of, or ""."""
        return self.tags.get(PARENT, "")


@dataclass(frozen=True)
class Scored:
    """What a run counts for on a leaderboard.

    Args:
        id: its id.
        sha: its commit.
        value: its value of the metric.
        started_ms: when it began, in milliseconds since the epoch.
        repetition: its fold and its seed, "" each where it has none.
        settings: all its other params, as one comparable text.
        backend: where it ran, or "".
        submitted: Kaggle's scores of it.
        branch: its commit's, or "".
    """

    id: str
    sha: str
    value: float
    started_ms: int
    repetition: tuple[str, ...]
    settings: str
    backend: str
    submitted: dict[str, float]
    branch: str = ""


class History:
    """The runs of an index that have not been deleted.

    Args:
        engine: of the index's database.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def commits(self) -> dict[str, list[str]]:
        """Return the ids of the runs of each commit, the newest run first."""
        return self._ids_by_tag(COMMIT)

    def children(self) -> dict[str, list[str]]:
        """Return the ids of the runs that are parts of others, by those."""
        return self._ids_by_tag(PARENT)

    def _ids_by_tag(self, key: str) -> dict[str, list[str]]:
        query = (
            sa.select(_TAGS.c.value, _TAGS.c.run_uuid)
            .join(_RUNS, _RUNS.c.run_uuid == _TAGS.c.run_uuid)
            .where(_TAGS.c.key == key, _RUNS.c.lifecycle_stage == "active")
            .order_by(_RUNS.c.start_time.desc(), _RUNS.c.run_uuid)
        )
        found: defaultdict[str, list[str]] = defaultdict(list)
        with self._engine.connect() as connection:
            for value, run_id in connection.execute(query):
                found[value].append(run_id)
        return dict(found)

    def names(self) -> list[tuple[str, str]]:
        """Return the id and the name of every run, the newest first."""
        query = (
            sa.select(_RUNS.c.run_uuid, _RUNS.c.name)
            .where(_RUNS.c.lifecycle_stage == "active")
            .order_by(_RUNS.c.start_time.desc(), _RUNS.c.run_uuid)
        )
        with self._engine.connect() as connection:
            return [(run_id, name or "") for run_id, name in connection.execute(query)]

    def experiments(self) -> dict[str, str]:
        """Return the experiments' ids by their names."""
        with self._engine.connect() as connection:
            query = sa.select(_EXPERIMENTS.c.name, _EXPERIMENTS.c.experiment_id)
            return {name: str(number) for name, number in connection.execute(query)}

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
        with self._engine.connect() as connection:
            found: str | None = connection.scalar(query)
        return found

    def metric_names(self, experiment_id: str) -> dict[str, int]:
        """Return how many finished runs of an experiment have each metric."""
        query = (
            sa.select(_METRICS.c.key, sa.func.count())
            .join(_RUNS, _RUNS.c.run_uuid == _METRICS.c.run_uuid)
            .where(*_finished(experiment_id))
            .group_by(_METRICS.c.key)
        )
        with self._engine.connect() as connection:
            return dict(connection.execute(query).tuples().all())

    def scored(self, experiment_id: str, metric: str) -> list[Scored]:
        """Return the finished runs of an experiment that have a metric and a commit.

        Args:
            experiment_id: which experiment.
            metric: which metric.
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
            marks = ask(_TAGS, COMMIT, BACKEND, BRANCH)
            repeated = ask(_PARAMS, *REPEATED)
            values = ask(_METRICS, metric, *SUBMITTED)
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
                sha=marks[run_id][COMMIT],
                value=as_logged(float(values[run_id][metric])),
                started_ms=start or 0,
                repetition=tuple(repeated[run_id].get(name, "") for name in REPEATED),
                settings="\x1f".join(sorted(settings.get(run_id, "").split("\x1f"))),
                backend=marks[run_id].get(BACKEND, ""),
                submitted={
                    name: float(values[run_id][name])
                    for name in SUBMITTED
                    if name in values[run_id]
                },
                branch=marks[run_id].get(BRANCH, ""),
            )
            for run_id, start in runs
            if COMMIT in marks[run_id]
        ]

    def last_experiment(self) -> str | None:
        """Return the id of the experiment of the run that began last."""
        query = (
            sa.select(_RUNS.c.experiment_id)
            .where(_RUNS.c.lifecycle_stage == "active")
            .order_by(_RUNS.c.start_time.desc())
            .limit(1)
        )
        with self._engine.connect() as connection:
            found = connection.scalar(query)
        return None if found is None else str(found)

    def runs(self, run_ids: Sequence[str]) -> list[Run]:
        """Return runs in the order of their ids."""
        found: dict[str, Run] = {}
        with self._engine.connect() as connection:
            for chunk in _chunks(run_ids):
                found |= self._runs(connection, chunk)
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

    def points(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """Return a metric's steps and values in the order of the steps; without NaN."""
        query = (
            sa.select(_POINTS.c.step, _POINTS.c.value)
            .where(_POINTS.c.run_uuid == run_id, _POINTS.c.key == metric, sa.not_(_POINTS.c.is_nan))
            .order_by(_POINTS.c.step, _POINTS.c.timestamp)
        )
        with self._engine.connect() as connection:
            return [(step, as_logged(value)) for step, value in connection.execute(query)]


def _finished(experiment_id: str | None) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        _RUNS.c.experiment_id == int(experiment_id) if experiment_id is not None else sa.true(),
        _RUNS.c.lifecycle_stage == "active",
        _RUNS.c.status == "FINISHED",
        sa.not_(_METRICS.c.is_nan),
    )


def _chunks(run_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(run_ids), _CHUNK):
        yield run_ids[start : start + _CHUNK]
