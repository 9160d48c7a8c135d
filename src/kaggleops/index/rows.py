"""An entity as rows of MLflow's tables: what `mlflow migrate-filestore` makes of its folder.

That command (mlflow/store/fs2db) is the oracle for every column. We differ where it would fail or
lose something:

- Metric points stay in the bucket (points.py); a metric's last one is here. The command fails on
  a point that was logged twice.
- Values keep their line ends; the command turns CR LF into LF.
- A creation time that nobody wrote down stays unknown; the command puts the present there.
- An assessment has the times that its file says; the command looks for other names, and finds none.
- Ids that the command draws at random are derived from the entity (tables.py).
"""

import json
import math
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from kaggleops.index import tables as t
from kaggleops.index.tables import Row, Rows, dataset_uuid, input_uuid
from kaggleops.mlruns import Entity, EntityId, Kind
from kaggleops.mlruns.entity import META, parse_yaml
from kaggleops.mlruns.liveness import RUN_STATUSES
from kaggleops.mlruns.validation import TRACE_INFO
from kaggleops.platforms.machine import memory

Files = Mapping[str, bytes]

_MEMORY_OF_POINT = 1024  # bytes of this machine's; a row, or sorting one, takes some 250


def rows_of(entity: Entity) -> Rows:
    """Return the rows that an entity, which `mlruns.unpack` has let through, is in MLflow's tables.

    Raises ValueError, TypeError, AttributeError or LookupError for what fits no column.
    """
    return _ROWS_OF[entity.id.kind](entity)


def check_room(entity: Entity) -> None:
    """Raise ValueError where an entity has more metric points than this machine has room for."""
    files = [data for path, data in entity.files.items() if path.startswith("metrics/")]
    points, most = sum(data.count(b"\n") for data in files), memory() // _MEMORY_OF_POINT
    if points > most:
        raise ValueError(f"{points:,} points at once, and this machine has room for {most:,}")


def _by_folder(entity: Entity) -> Mapping[str, Files]:
    """Return the entity's files by the first part of their paths, then by the rest of them."""
    folders: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
    for path, data in entity.files.items():
        folder, _, name = path.partition("/")
        folders[folder][name] = data
    return folders


def _texts(*of: Any, files: Files) -> list[Row]:
    """Return params or tags as rows: whose they are, their keys and values."""
    return [(*of, key, value.decode()) for key, value in files.items()]


def _experiment(entity: Entity) -> Rows:
    home = int(entity.id.experiment_id)
    tags = _texts(home, files=_by_folder(entity)["tags"])
    row = t.EXPERIMENTS.row(entity.meta, experiment_id=home)
    return {t.EXPERIMENTS: [row], t.EXPERIMENT_TAGS: tags}


def _dataset(entity: Entity) -> Rows:
    meta, home = entity.meta, entity.id.experiment_id
    row = t.DATASETS.row(
        meta,
        dataset_uuid=dataset_uuid(home, entity.id.name),
        experiment_id=int(home),
        dataset_source_type=meta["source_type"],
        dataset_source=meta["source"],
        dataset_schema=meta.get("schema"),
        dataset_profile=meta.get("profile"),
    )
    return {t.DATASETS: [row]}


_PLAIN_POINTS = re.compile(rb"(?:[^ \n]+ [^ \n]+ [^ \n]+\n)*+")
_CHUNK = 1 << 16  # bytes of points that are looked at together: a long file takes no memory


def _run(entity: Entity) -> Rows:
    run_id, folders = entity.id.name, _by_folder(entity)
    links = [*_inputs(entity.id, folders["inputs"]), *_outputs(entity.id, folders["outputs"])]
    meta = entity.meta
    source_type = meta.get("source_type")
    row = t.RUNS.row(
        meta,
        run_uuid=run_id,
        name=meta.get("run_name") or meta.get("name"),
        # The file store writes a number, and the same one for every run.
        source_type=source_type if isinstance(source_type, str) else "LOCAL",
        source_name=meta.get("source_name", ""),
        entry_point_name=meta.get("entry_point_name", ""),
        status=RUN_STATUSES[meta.get("status", RUN_STATUSES.index("RUNNING"))],
        source_version=meta.get("source_version", ""),
        lifecycle_stage=meta.get("lifecycle_stage", "active"),
        experiment_id=int(entity.id.experiment_id),
    )
    return {
        t.RUNS: [row],
        t.PARAMS: _texts(run_id, files=folders["params"]),
        t.TAGS: _texts(run_id, files=folders["tags"]),
        t.LATEST_METRICS: [
            (run_id, key, *_last_point(data)) for key, data in folders["metrics"].items()
        ],
        t.INPUTS: [link for link, _ in links],
        t.INPUT_TAGS: [(link[0], *tag) for link, tags in links for tag in tags],
    }


def point_fields(data: bytes) -> Iterator[list[bytes]]:
    """Yield the times, values and steps, in turn, of a metric's points, some points at a time."""
    begin = 0
    while begin < len(data):
        end = data.rfind(b"\n", begin, begin + _CHUNK) + 1 or len(data)
        chunk, begin = data[begin:end], end
        if _PLAIN_POINTS.fullmatch(chunk):
            yield chunk.split()
        else:
            # Old MLflow wrote no step; a dataset's name and digest may follow it.
            lines = [(*line.split(), b"0") for line in chunk.splitlines()]
            yield [field for line in lines for field in line[:3]]


def _last_point(data: bytes) -> tuple[float, int, int, int]:
    """Return the value that MLflow shows for a metric, its time in ms, its step, and 1 for NaN.

    Python's SQLite module binds a row that holds a bool more slowly.
    """
    last: tuple[int, int, float, int] | None = None
    for fields in point_fields(data):
        steps = list(map(int, fields[2::3]))
        step = max(steps)
        # As a rule each step has one point, and no other has to be looked at.
        places = [steps.index(step)]
        if steps.count(step) > 1:
            places = [place for place, each in enumerate(steps) if each == step]
        for place in places:
            logged = float(fields[3 * place + 1])
            # By step, time and value: the largest is the latest.
            point = (step, int(fields[3 * place]), storable(logged), int(math.isnan(logged)))
            if last is None or point[:3] > last[:3]:
                last = point
    if last is None:
        raise ValueError("a metric without a point")
    step, time, value, is_nan = last
    return value, time, step, is_nan


def storable(value: float) -> float:
    """Return a number for what not every database's numbers include, as MLflow does."""
    if math.isnan(value):
        return 0.0
    return max(-sys.float_info.max, min(sys.float_info.max, value))


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


def _logged_model(entity: Entity) -> Rows:
    meta, folders = entity.meta, _by_folder(entity)
    home = int(entity.id.experiment_id)
    model = (entity.id.name, home)
    row = t.LOGGED_MODELS.row(
        meta,
        model_id=entity.id.name,
        experiment_id=home,
        creation_timestamp_ms=meta["creation_timestamp"],
        last_updated_timestamp_ms=meta["last_updated_timestamp"],
        status=meta.get("status", 1),
        lifecycle_stage=meta.get("lifecycle_stage", "active"),
    )
    points = [
        (*model, key, *point)
        for key, data in folders["metrics"].items()
        for point in _model_points(data)
    ]
    return {
        t.LOGGED_MODELS: [row],
        t.LOGGED_MODEL_PARAMS: _texts(*model, files=folders["params"]),
        t.LOGGED_MODEL_TAGS: _texts(*model, files=folders["tags"]),
        t.LOGGED_MODEL_METRICS: points,
    }


def _model_points(data: bytes) -> list[Row]:
    points: dict[Row, Row] = {}
    for line in data.decode().split("\n")[:-1]:
        time, value, step, run, *dataset = line.split(" ")
        at = (int(time), int(step))
        # The table has room for one value of a run at a time and step: the one logged last.
        points[*at, run] = (*at, float(value), run, *(dataset or (None, None)))
    return list(points.values())


def _registered_model(entity: Entity) -> Rows:
    meta, name, folders = entity.meta, entity.id.name, _by_folder(entity)
    row = t.REGISTERED_MODELS.row(
        meta,
        name=name,
        creation_time=meta.get("creation_timestamp"),
        last_updated_time=meta.get("last_updated_timestamp"),
    )
    versions, version_tags = [], []
    for folder, files in folders.items():
        if folder.startswith("version-") and META in files:
            version = _version(name, files, f"reading {folder} of {entity.id}")
            versions.append(version)
            tags = {path[5:]: data for path, data in files.items() if path.startswith("tags/")}
            version_tags += _texts(*version[:2], files=tags)
    return {
        t.REGISTERED_MODELS: [row],
        t.REGISTERED_MODEL_TAGS: _texts(name, files=folders["tags"]),
        t.MODEL_VERSIONS: versions,
        t.MODEL_VERSION_TAGS: version_tags,
        t.ALIASES: [
            (name, alias, int(version))
            for alias, version in _texts(files=folders["aliases"])
            if version.strip().isdigit()
        ],
    }


def _version(name: str, files: Files, doing: str) -> Row:
    meta = parse_yaml(files[META], doing)
    return t.MODEL_VERSIONS.row(
        meta,
        name=name,
        version=int(meta["version"]),
        creation_time=meta["creation_timestamp"],
        last_updated_time=meta.get("last_updated_timestamp"),
        current_stage=meta.get("current_stage", "None"),
        status=meta.get("status", "READY"),
    )


def _trace(entity: Entity) -> Rows:
    # MLflow's own code counts a trace's tokens, and takes seconds to import.
    from mlflow.entities.trace_state import TraceState
    from mlflow.store.tracking.utils import trace_analytics
    from mlflow.tracing import constant

    meta = parse_yaml(entity.files[TRACE_INFO], f"reading {TRACE_INFO} of {entity.id}")
    folders, trace_id, home = _by_folder(entity), entity.id.name, int(entity.id.experiment_id)
    at = _time_ms(meta)
    tags: dict[str, str] = dict(_texts(files=folders["tags"]))
    name = tags.pop(constant.TraceTagKey.TRACE_NAME, None)
    metadata: dict[str, str] = dict(_texts(files=folders["request_metadata"]))
    session = constant.TraceMetadataKey.TRACE_SESSION
    if session in metadata:
        metadata[session] = metadata[session][: constant.MAX_CHARS_IN_TRACE_INFO_METADATA]
    analytics = dict.fromkeys(t.TRACE_ANALYTICS.split())
    row = t.TRACES.row(
        meta,
        request_id=trace_id,
        experiment_id=home,
        timestamp_ms=at,
        # The older format has other names for some fields.
        execution_time_ms=meta.get("execution_time_ms") or meta.get("execution_duration_ms"),
        # A status that MLflow does not know would end every search that finds it.
        status=TraceState(meta.get("status") or meta.get("state", "OK")).value,
        trace_name=name and name[: constant.MAX_CHARS_IN_TRACE_INFO_TAGS_VALUE],
        **analytics | trace_analytics.analytics_columns_from_metadata(metadata),
    )
    return {
        t.TRACES: [row],
        t.TRACE_TAGS: [(trace_id, *tag) for tag in tags.items()],
        t.TRACE_METADATA: [
            (trace_id, *item)
            for item in metadata.items()
            if item[0] not in trace_analytics.PROMOTED_TRACE_METADATA_KEYS
        ],
        # As in MLflow's own tables: the one that was written first comes first.
        t.ASSESSMENTS: sorted(
            _assessments(entity, home, at, folders["assessments"]),
            key=lambda row: t.ASSESSMENTS.named(row)["created_timestamp"],
        ),
    }


def _time_ms(meta: Mapping[str, Any]) -> int:
    if (at := meta.get("timestamp_ms")) is not None:
        return int(at)
    return _moment_ms(meta.get("request_time"))


def _moment_ms(told: object) -> int:
    """Return a time that is written as a number of milliseconds or as a text; 0 if as neither."""
    if isinstance(told, int):
        return told
    try:
        moment = datetime.fromisoformat(str(told).replace("Z", "+00:00"))
    except ValueError:
        return 0
    return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1000)


def _assessments(entity: Entity, home: int, trace_at: int, files: Files) -> Iterator[Row]:
    from mlflow.store.tracking.utils.trace_analytics import assessment_aggregate

    for path, data in files.items():
        if "/" in path or not path.endswith(".yaml"):
            continue
        meta = parse_yaml(data, f"reading assessments/{path} of {entity.id}")
        kind = "feedback" if meta.get("feedback") is not None else "expectation"
        content = meta.get(kind)
        if content is None:
            continue
        value = content.get("value")
        if serialized := content.get("serialized_value"):  # lists and dictionaries
            value = json.loads(serialized["value"])
        error = content.get("error") if kind == "feedback" else None
        source = meta.get("source", {})
        created, updated = (
            meta.get(f"{name}_ms") or _moment_ms(meta.get(name))
            for name in ("create_time", "last_update_time")
        )
        aggregate, is_number = assessment_aggregate(value)
        row = t.ASSESSMENTS.row(
            meta,
            # As the file is called: so no two of a trace have the same.
            assessment_id=path.removesuffix(".yaml"),
            trace_id=entity.id.name,
            experiment_id=home,
            trace_timestamp_ms=trace_at,
            name=meta.get("assessment_name", meta.get("name", "")),
            assessment_type=kind,
            value=json.dumps(value),
            error=json.dumps(error) if error else None,
            created_timestamp=created,
            last_updated_timestamp=updated or created,
            source_type=source.get("source_type", "CODE"),
            source_id=source.get("source_id"),
            valid=meta.get("valid", True),
            assessment_metadata=json.dumps(meta["metadata"]) if meta.get("metadata") else None,
            aggregate_value=aggregate,
            is_numeric_value=is_number,
        )
        check_assessment(row)
        yield row


def check_assessment(row: Row) -> None:
    """Raise whatever MLflow raises over an assessment that it cannot show."""
    from mlflow.store.tracking.dbmodels.models import SqlAssessments

    # It would end every search that finds the trace.
    SqlAssessments(**t.ASSESSMENTS.named(row)).to_mlflow_entity().to_proto()


_ROWS_OF: Mapping[Kind, Callable[[Entity], Rows]] = {
    Kind.EXPERIMENT: _experiment,
    Kind.DATASET: _dataset,
    Kind.RUN: _run,
    Kind.LOGGED_MODEL: _logged_model,
    Kind.TRACE: _trace,
    Kind.REGISTERED_MODEL: _registered_model,
}
