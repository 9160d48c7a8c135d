"""A trace as rows: its tags, metadata and assessments."""

import json
from collections.abc import Iterator, Mapping
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

from kaggleops.index.content import Files, by_folder, texts
from kaggleops.index.tables import (
    ASSESSMENTS,
    TRACE_ANALYTICS,
    TRACE_METADATA,
    TRACE_TAGS,
    TRACES,
    Row,
    Rows,
)
from kaggleops.mlruns import Entity
from kaggleops.mlruns.checking import TRACE_INFO
from kaggleops.mlruns.entity import parse_yaml

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
