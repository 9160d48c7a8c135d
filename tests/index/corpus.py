"""A bucket with everything that MLflow's file store knows, and what MLflow's tools make of it."""

import sqlite3
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag, TraceInfo, TraceLocation, TraceState
from mlflow.store.fs2db import migrate
from mlflow.store.tracking.file_store import FileStore

from kaggleops.mlruns import EntityStore
from kaggleops.mlruns.pulling import unpack_into
from tests.mlruns.corpus import bring, make_mlruns

GENERATED = {
    "datasets": {"dataset_uuid"},
    "inputs": {"input_uuid"},
    "input_tags": {"input_uuid"},
}
"""The columns whose values `mlflow migrate-filestore` draws at random."""
OURS = ("alembic_version", "sqlite_", "kaggleops_")


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


def migrated(store: EntityStore, folder: Path) -> Path:
    """Return the database that `mlflow migrate-filestore` makes of a bucket, unpacked."""
    unpack_into(store, folder / "unpacked", artifacts=False)
    for file in (folder / "unpacked").glob("**/metrics/**/*"):
        if file.is_file():  # it fails on a point that was logged twice
            lines = file.read_text().splitlines(keepends=True)
            file.write_text("".join(dict.fromkeys(lines)))
    migrate(folder / "unpacked", f"sqlite:///{folder / 'migrated.db'}", progress=False)
    return folder / "migrated.db"


def tables(database: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return every table of MLflow's schema, with generated ids replaced by what they stand for."""
    connection = sqlite3.connect(database)
    names = [
        name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")
    ]
    found = {
        name: _rows(connection, f"SELECT * FROM {name}", GENERATED.get(name, set()))
        for name in names
        if not name.startswith(OURS)
    }
    found["inputs"] = _rows(
        connection,
        "SELECT i.*, d.name, d.digest, d.experiment_id FROM inputs i"
        " LEFT JOIN datasets d ON d.dataset_uuid = i.source_id",
        {"input_uuid"},
    )
    found["inputs"] = [tuple(None if is_uuid(v) else v for v in row) for row in found["inputs"]]
    found["input_tags"] = _rows(
        connection,
        "SELECT t.name, t.value, i.source_type, i.destination_id FROM input_tags t"
        " JOIN inputs i ON t.input_uuid = i.input_uuid",
        set(),
    )
    connection.close()
    return found


def is_uuid(value: Any) -> bool:
    """Tell whether this is an id as the database's generated ones are."""
    return isinstance(value, str) and len(value) == 36 and value.count("-") == 4


def _rows(connection: sqlite3.Connection, query: str, without: set[str]) -> list[tuple[Any, ...]]:
    cursor = connection.execute(query)
    columns = [column for (column, *_) in cursor.description]
    kept = [place for place, column in enumerate(columns) if column not in without]
    return sorted((tuple(row[place] for place in kept) for row in cursor), key=repr)
