"""A bucket with everything that MLflow's file store knows, and what MLflow's tools make of it."""

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from mlflow.entities import Metric, Param, RunTag, TraceInfo, TraceLocation, TraceState
from mlflow.store.fs2db import migrate
from mlflow.store.tracking.file_store import FileStore

from kaggleops.mlruns import EntityStore
from kaggleops.mlruns.export import export
from tests.mlruns.corpus import bring, make_mlruns

Row = tuple[tuple[str, Any], ...]


def fill(store: EntityStore, folder: Path) -> None:
    """Bring every kind of entity into a bucket, as MLflow's own stores have made them.

    Args:
        store: of an empty bucket.
        folder: where MLflow's stores may make an `mlruns`.
    """
    make_mlruns(folder)
    source = FileStore(str(folder))
    home = source.create_experiment("übung")
    parent = source.create_run(home, "ada", 1, [], "parent").info.run_id
    tags = [RunTag("mlflow.parentRunId", parent), RunTag("long", "ä" * 4000)]
    child = source.create_run(home, "ada", 2, tags, "kind").info.run_id
    odd = [float("nan"), float("inf"), float("-inf"), 0.1, 1e308, -5e-324]
    source.log_batch(
        child,
        # The newest by step, by time, by value; and where the newest is no number.
        [Metric("by step", value, 7, step) for step, value in enumerate(odd)]
        + [Metric("by time", value, 10 - at, 0) for at, value in enumerate(odd)]
        + [Metric("by value", value, 0, 0) for value in odd]
        + [Metric("no number", float("nan"), 9, 9), Metric("no number", -1.0, 9, 9)]
        + [Metric("big", 1.0, 2**62, -(2**62))],
        [Param("lines", "one\ntwo"), Param("a/b.c - d", "x")],
        [],
    )
    source.start_trace(
        TraceInfo(
            trace_id="tr-" + "cd" * 16,
            trace_location=TraceLocation.from_experiment_id(home),
            request_time=1_700_000_000_001,
            execution_duration=12,
            state=TraceState.ERROR,
            request_preview="wie?",
            response_preview="so!",
            client_request_id="c-1",
            trace_metadata={
                "mlflow.trace.session": "s" * 300,
                "mlflow.trace.tokenUsage": '{"input_tokens": 3, "output_tokens": 4}',
                "mlflow.trace.cost": '{"total_cost": 0.25}',
                "other": "x",
            },
            tags={},
        )
    )
    bring(store, folder)


def migrated(store: EntityStore, folder: Path) -> str:
    """Return the URL of what `mlflow migrate-filestore` makes of a bucket, unpacked."""
    export(store, folder / "unpacked", artifacts=False)
    for file in (folder / "unpacked").glob("**/metrics/**/*"):
        if file.is_file():  # it fails on a point that was logged twice
            lines = file.read_text().splitlines(keepends=True)
            file.write_text("".join(dict.fromkeys(lines)))
    url = f"sqlite:///{folder / 'migrated.db'}"
    migrate(folder / "unpacked", url, progress=False)
    return url


def tables(url: str) -> dict[str, list[Row]]:
    """Return every table of MLflow's schema, with generated ids replaced by what they stand for.

    Args:
        url: of the database.
    """
    engine = sa.create_engine(url)
    names = [name for name in sa.inspect(engine).get_table_names() if not name.startswith(OURS)]
    with engine.connect() as connection:
        found = {name: _rows(connection, f"SELECT * FROM {name}") for name in names}
        found |= {name: _rows(connection, query) for name, query in _WITHOUT_GENERATED_IDS.items()}
    engine.dispose()
    return found


OURS = ("alembic_version", "kaggleops_")

_DATASET = "SELECT experiment_id || name || digest FROM datasets d WHERE d.dataset_uuid = "
_WITHOUT_GENERATED_IDS = {
    "datasets": "SELECT experiment_id, name, digest, dataset_source_type, dataset_source,"
    " dataset_schema, dataset_profile FROM datasets",
    "inputs": f"SELECT COALESCE(({_DATASET} source_id), source_id) AS source, source_type,"
    " destination_type, destination_id, step FROM inputs",
    "input_tags": "SELECT t.name, t.value, source_type, destination_id"
    " FROM input_tags t JOIN inputs i ON t.input_uuid = i.input_uuid",
}
"""`mlflow migrate-filestore` draws some ids at random; what they link is compared instead."""


def _rows(connection: sa.Connection, query: str) -> list[Row]:
    rows = connection.exec_driver_sql(query).mappings()
    plain = (tuple((name, _plain(row[name])) for name in sorted(row)) for row in rows)
    return sorted(plain, key=repr)


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, bool) else value
