"""An entity as rows of MLflow's tables: what `mlflow migrate-filestore` makes of its folder.

That command (mlflow/store/fs2db) is the oracle for every column. We differ where it would fail or
lose something:

- A metric point that was logged twice is one row; the command fails on it.
- Values keep their line ends; the command turns CR LF into LF.
- A creation time that nobody wrote down stays unknown; the command puts the present there.
- Ids that the command draws at random are derived from the entity (tables.py).

A registered model as rows: its versions, tags and aliases.

A trace as rows: its tags, metadata and assessments.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from mlflow.entities.trace_state import TraceState
from mlflow.store.tracking.dbmodels.models import SqlAssessments
from mlflow.store.tracking.utils.trace_analytics import (
    PROMOTED_TRACE_METADATA_KEYS,
    analytics_columns_from_metadata,
    assessment_aggregate,
)
from mlflow.tracing.constant import (
    MAX_CHARS_IN_TRACE_INFO_METADATA,
    MAX_CHARS_IN_TRACE_INFO_TAGS_VALUE,
    TraceMetadataKey,
    TraceTagKey,
)

from kaggleops.index.runs import Files, by_folder, rows_of_logged_model, rows_of_run, texts
from kaggleops.index.tables import (
    ALIASES,
    ASSESSMENTS,
    DATASETS,
    EXPERIMENT_TAGS,
    EXPERIMENTS,
    MODEL_VERSION_TAGS,
    MODEL_VERSIONS,
    REGISTERED_MODEL_TAGS,
    REGISTERED_MODELS,
    TRACE_ANALYTICS,
    TRACE_METADATA,
    TRACE_TAGS,
    TRACES,
    Row,
    Rows,
    dataset_uuid,
)
from kaggleops.mlruns import Entity, Kind
from kaggleops.mlruns.entity import META, parse_yaml
from kaggleops.mlruns.validation import TRACE_INFO


def rows_of_registered_model(entity: Entity) -> Rows:
    """Return a registered model's rows."""
    meta, name, folders = entity.meta, entity.id.name, by_folder(entity)
    row = REGISTERED_MODELS.row(
        name=name,
        creation_time=meta.get("creation_timestamp"),
        last_updated_time=meta.get("last_updated_timestamp"),
        description=meta.get("description"),
    )
    versions, version_tags = [], []
    for folder, files in folders.items():
        if folder.startswith("version-") and META in files:
            version = _version(name, files, f"reading {folder} of {entity.id}")
            versions.append(version)
            tags = {path[5:]: data for path, data in files.items() if path.startswith("tags/")}
            version_tags += [(*version[:2], *tag) for tag in texts(tags)]
    return {
        REGISTERED_MODELS: [row],
        REGISTERED_MODEL_TAGS: [(name, *tag) for tag in texts(folders["tags"])],
        MODEL_VERSIONS: versions,
        MODEL_VERSION_TAGS: version_tags,
        ALIASES: [
            (name, alias, int(version))
            for alias, version in texts(folders["aliases"])
            if version.strip().isdigit()
        ],
    }


def _version(name: str, files: Files, doing: str) -> Row:
    meta = parse_yaml(files[META], doing)
    return MODEL_VERSIONS.row(
        name=name,
        version=int(meta["version"]),
        creation_time=meta["creation_timestamp"],
        last_updated_time=meta.get("last_updated_timestamp"),
        description=meta.get("description"),
        user_id=meta.get("user_id"),
        current_stage=meta.get("current_stage", "None"),
        source=meta.get("source"),
        storage_location=meta.get("storage_location"),
        run_id=meta.get("run_id"),
        run_link=meta.get("run_link"),
        status=meta.get("status", "READY"),
        status_message=meta.get("status_message"),
    )


_SESSION = TraceMetadataKey.TRACE_SESSION


def rows_of_trace(entity: Entity) -> Rows:
    """Return a trace's rows."""
    meta = parse_yaml(entity.files[TRACE_INFO], f"reading {TRACE_INFO} of {entity.id}")
    folders, trace_id, home = by_folder(entity), entity.id.name, int(entity.id.experiment_id)
    at = _time_ms(meta)
    tags = dict(texts(folders["tags"]))
    name = tags.pop(TraceTagKey.TRACE_NAME, None)
    metadata = dict(texts(folders["request_metadata"]))
    if _SESSION in metadata:
        metadata[_SESSION] = metadata[_SESSION][:MAX_CHARS_IN_TRACE_INFO_METADATA]
    analytics = dict.fromkeys(TRACE_ANALYTICS) | analytics_columns_from_metadata(metadata)
    row = TRACES.row(
        request_id=trace_id,
        experiment_id=home,
        timestamp_ms=at,
        # The older format has other names for some fields.
        execution_time_ms=meta.get("execution_time_ms") or meta.get("execution_duration_ms"),
        # A status that MLflow does not know would end every search that finds it.
        status=TraceState(meta.get("status") or meta.get("state", "OK")).value,
        client_request_id=meta.get("client_request_id"),
        request_preview=meta.get("request_preview"),
        response_preview=meta.get("response_preview"),
        trace_name=None if name is None else name[:MAX_CHARS_IN_TRACE_INFO_TAGS_VALUE],
        **analytics,
    )
    return {
        TRACES: [row],
        TRACE_TAGS: [(trace_id, *tag) for tag in tags.items()],
        TRACE_METADATA: [
            (trace_id, *item)
            for item in metadata.items()
            if item[0] not in PROMOTED_TRACE_METADATA_KEYS
        ],
        ASSESSMENTS: list(_assessments(entity, home, at, folders["assessments"])),
    }


def _time_ms(meta: Mapping[str, Any]) -> int:
    if (at := meta.get("timestamp_ms")) is not None:
        return int(at)
    requested = meta.get("request_time")
    if isinstance(requested, int):
        return requested
    try:
        moment = datetime.fromisoformat(str(requested).replace("Z", "+00:00"))
    except ValueError:
        return 0
    return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1000)


def _assessments(entity: Entity, home: int, trace_at: int, files: Files) -> Iterator[Row]:
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
        created = meta.get("create_time_ms", 0)
        aggregate, is_number = assessment_aggregate(value)
        row = ASSESSMENTS.row(
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
            last_updated_timestamp=meta.get("last_update_time_ms", created),
            source_type=source.get("source_type", "CODE"),
            source_id=source.get("source_id"),
            run_id=meta.get("run_id"),
            span_id=meta.get("span_id"),
            rationale=meta.get("rationale"),
            overrides=meta.get("overrides"),
            valid=meta.get("valid", True),
            assessment_metadata=json.dumps(meta["metadata"]) if meta.get("metadata") else None,
            aggregate_value=aggregate,
            is_numeric_value=is_number,
        )
        # What MLflow could not show would end every search that finds the trace.
        columns = dict(zip(ASSESSMENTS.columns, row, strict=True))
        SqlAssessments(**columns).to_mlflow_entity().to_proto()
        yield row


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

    return rows_of_trace(entity)


_ROWS_OF: Mapping[Kind, Callable[[Entity], Rows]] = {
    Kind.EXPERIMENT: _experiment,
    Kind.DATASET: _dataset,
    Kind.RUN: rows_of_run,
    Kind.LOGGED_MODEL: rows_of_logged_model,
    Kind.TRACE: _trace,
    Kind.REGISTERED_MODEL: rows_of_registered_model,
}
