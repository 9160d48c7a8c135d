"""An entity as rows of MLflow's tables: what `mlflow migrate-filestore` makes of its folder.

That command (mlflow/store/fs2db) is the oracle for every column. We differ where it would fail or
lose something:

- A metric point that was logged twice is one row; the command fails on it.
- Values keep their line ends; the command turns CR LF into LF.
- A creation time that nobody wrote down stays unknown; the command puts the present there.
- Ids that the command draws at random are derived from the entity (tables.py).
"""

from collections.abc import Callable, Mapping

from kaggleops.index.content import by_folder, texts
from kaggleops.index.registered_models import rows_of_registered_model
from kaggleops.index.runs import rows_of_logged_model, rows_of_run
from kaggleops.index.tables import DATASETS, EXPERIMENT_TAGS, EXPERIMENTS, Rows, dataset_uuid
from kaggleops.mlruns import Entity, Kind


def rows_of(entity: Entity) -> Rows:
    """Return the rows that an entity is in MLflow's tables.

    Args:
        entity: one that `mlruns.unpack` has let through.

    Raises:
        ValueError, TypeError, AttributeError, LookupError: it holds something that fits no column.
    """
    return _ROWS_OF[entity.id.kind](entity)


def _experiment(entity: Entity) -> Rows:
    meta, home = entity.meta, int(entity.id.experiment_id)
    row = EXPERIMENTS.row(
        experiment_id=home,
        name=meta["name"],
        artifact_location=meta["artifact_location"],
        lifecycle_stage=meta["lifecycle_stage"],
        creation_time=meta.get("creation_time"),
        last_update_time=meta.get("last_update_time"),
    )
    tags = texts(by_folder(entity)["tags"])
    return {EXPERIMENTS: [row], EXPERIMENT_TAGS: [(home, *tag) for tag in tags]}


def _dataset(entity: Entity) -> Rows:
    meta, home = entity.meta, entity.id.experiment_id
    row = DATASETS.row(
        dataset_uuid=dataset_uuid(home, entity.id.name),
        experiment_id=int(home),
        name=meta["name"],
        digest=meta["digest"],
        dataset_source_type=meta["source_type"],
        dataset_source=meta["source"],
        dataset_schema=meta.get("schema"),
        dataset_profile=meta.get("profile"),
    )
    return {DATASETS: [row]}


def _trace(entity: Entity) -> Rows:
    # MLflow's own code counts a trace's tokens, and takes seconds to import.
    from kaggleops.index.traces import rows_of_trace

    return rows_of_trace(entity)


_ROWS_OF: Mapping[Kind, Callable[[Entity], Rows]] = {
    Kind.EXPERIMENT: _experiment,
    Kind.DATASET: _dataset,
    Kind.RUN: rows_of_run,
    Kind.LOGGED_MODEL: rows_of_logged_model,
    Kind.TRACE: _trace,
    Kind.REGISTERED_MODEL: rows_of_registered_model,
}
