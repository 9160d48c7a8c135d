"""Runs and logged models as rows: params, tags, metric points, inputs and outputs.

An entity's files, by the folders they lie in.
"""

import math
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat

from kaggleops.index.tables import (
    INPUT_TAGS,
    INPUTS,
    LATEST_METRICS,
    LOGGED_MODEL_METRICS,
    LOGGED_MODEL_PARAMS,
    LOGGED_MODEL_TAGS,
    LOGGED_MODELS,
    METRICS,
    PARAMS,
    RUNS,
    TAGS,
    Row,
    Rows,
    dataset_uuid,
    input_uuid,
)
from kaggleops.mlruns import Entity, EntityId
from kaggleops.mlruns.entity import META, parse_yaml

Files = Mapping[str, bytes]


def by_folder(entity: Entity) -> Mapping[str, Files]:
    """Return the entity's files by the first part of their paths, then by the rest of them.

    A folder that is not there is empty.
    """
    folders: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
    for path, data in entity.files.items():
        folder, _, name = path.partition("/")
        folders[folder][name] = data
    return folders


def texts(files: Files) -> list[tuple[str, str]]:
    """Return params or tags: their keys and values."""
    return [(key, value.decode()) for key, value in files.items()]


RUN_STATUSES = (None, "RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED")
"""The names of MLflow's statuses, each in the place of its number (mlflow.entities.RunStatus)."""

_Points = tuple[Sequence[float], Sequence[int], Sequence[int], Sequence[int]]
"""As MLflow's tables have them: values, times in ms, steps, and 1 where the value is no number.

Python's SQLite module binds a row that holds a bool more slowly.
"""

_PLAIN_POINTS = re.compile(rb"(?:[^ \n]+ [^ \n]+ [^ \n]+\n)*+")


def rows_of_run(entity: Entity) -> Rows:
    """Return a run's rows."""
    run_id, folders = entity.id.name, by_folder(entity)
    points: list[Row] = []
    latest: list[Row] = []
    for key, data in folders["metrics"].items():
        values, times, steps, no_numbers = _points(data)
        rows = list(zip(repeat(run_id), repeat(key), values, times, steps, no_numbers))
        last = max(steps)
        # As a rule each step has one point, and nothing has to be compared point by point.
        newest = rows[steps.index(last)] if steps.count(last) == 1 else max(rows, key=age)
        latest.append(newest)
        # A point that was logged twice is one row; the database would refuse the second.
        points += rows if len(set(times)) == len(times) else dict.fromkeys(rows)
    links = [
        *_inputs(entity.id, folders["inputs"]),
        *_outputs(entity.id, folders["outputs"]),
    ]
    return {
        RUNS: [_run(entity)],
        PARAMS: [(run_id, *param) for param in texts(folders["params"])],
        TAGS: [(run_id, *tag) for tag in texts(folders["tags"])],
        METRICS: points,
        LATEST_METRICS: latest,
        INPUTS: [link for link, _ in links],
        INPUT_TAGS: [(link[0], *tag) for link, tags in links for tag in tags],
    }


def _run(entity: Entity) -> Row:
    meta = entity.meta
    source_type = meta.get("source_type")
    return RUNS.row(
        run_uuid=entity.id.name,
        name=meta.get("run_name") or meta.get("name"),
        # The file store writes a number, and the same one for every run.
        source_type=source_type if isinstance(source_type, str) else "LOCAL",
        source_name=meta.get("source_name", ""),
        entry_point_name=meta.get("entry_point_name", ""),
        user_id=meta.get("user_id"),
        status=RUN_STATUSES[meta.get("status", RUN_STATUSES.index("RUNNING"))],
        start_time=meta.get("start_time"),
        end_time=meta.get("end_time"),
        deleted_time=meta.get("deleted_time"),
        source_version=meta.get("source_version", ""),
        lifecycle_stage=meta.get("lifecycle_stage", "active"),
        artifact_uri=meta.get("artifact_uri"),
        experiment_id=int(entity.id.experiment_id),
    )


def _points(data: bytes) -> _Points:
    if _PLAIN_POINTS.fullmatch(data):
        fields = data.split()
    else:
        # Old MLflow wrote no step; a dataset's name and digest may follow it.
        lines = [(*line.split(), b"0") for line in data.splitlines()]
        fields = [field for line in lines for field in line[:3]]
    values = list(map(float, fields[1::3]))
    times, steps = list(map(int, fields[::3])), list(map(int, fields[2::3]))
    if all(map(math.isfinite, values)):
        return values, times, steps, [0] * len(values)
    no_numbers = list(map(int, map(math.isnan, values)))
    return list(map(_storable, values)), times, steps, no_numbers


def _storable(value: float) -> float:
    """Return a number for what not every database's numbers include, as MLflow does."""
    if math.isnan(value):
        return 0.0
    return max(-sys.float_info.max, min(sys.float_info.max, value))


def age(point: Row) -> tuple[int, int, float]:
    """Return what is larger for the later one of two rows of `METRICS` or `LATEST_METRICS`."""
    _, _, value, time, step, _ = point
    return step, time, value


def _inputs(run: EntityId, files: Files) -> Iterator[tuple[Row, list[tuple[str, str]]]]:
    for path, data in files.items():
        meta = parse_yaml(data, f"reading inputs/{path} of {run}")
        source = str(meta["source_id"])
        ends = {
            "DATASET": ("DATASET", dataset_uuid(run.experiment_id, source), "RUN", run.name),
            # In the file store the model is the source, in SQL the run is.
            "MODEL": ("RUN_INPUT", run.name, "MODEL_INPUT", source),
        }.get(meta["source_type"])
        if ends is not None:
            tags = [(str(name), str(value)) for name, value in meta["tags"].items()]
            yield (input_uuid(run.name, f"inputs/{path}"), *ends, 0), tags


def _outputs(run: EntityId, files: Files) -> Iterator[tuple[Row, list[tuple[str, str]]]]:
    for path, data in files.items():
        meta = parse_yaml(data, f"reading outputs/{path} of {run}")
        model = path.removesuffix(f"/{META}")
        ends = ("RUN_OUTPUT", run.name, "MODEL_OUTPUT", model)
        yield (input_uuid(run.name, f"outputs/{path}"), *ends, meta.get("step", 0)), []


def rows_of_logged_model(entity: Entity) -> Rows:
    """Return a logged model's rows."""
    meta, folders = entity.meta, by_folder(entity)
    model = (entity.id.name, int(entity.id.experiment_id))
    row = LOGGED_MODELS.row(
        model_id=entity.id.name,
        experiment_id=int(entity.id.experiment_id),
        name=meta["name"],
        artifact_location=meta["artifact_location"],
        creation_timestamp_ms=meta["creation_timestamp"],
        last_updated_timestamp_ms=meta["last_updated_timestamp"],
        status=meta.get("status", 1),
        lifecycle_stage=meta.get("lifecycle_stage", "active"),
        model_type=meta.get("model_type"),
        source_run_id=meta.get("source_run_id"),
        status_message=meta.get("status_message"),
    )
    return {
        LOGGED_MODELS: [row],
        LOGGED_MODEL_PARAMS: [(*model, *param) for param in texts(folders["params"])],
        LOGGED_MODEL_TAGS: [(*model, *tag) for tag in texts(folders["tags"])],
        LOGGED_MODEL_METRICS: [
            (*model, key, *point)
            for key, data in folders["metrics"].items()
            for point in _model_points(data)
        ],
    }


def _model_points(data: bytes) -> list[Row]:
    points: dict[Row, Row] = {}
    for line in data.decode().split("\n")[:-1]:
        time, value, step, run, *dataset = line.split(" ")
        at = (int(time), int(step))
        # The table has room for one value of a run at a time and step: the one logged last.
        points[*at, run] = (*at, float(value), run, *(dataset or (None, None)))
    return list(points.values())
