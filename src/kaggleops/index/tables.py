"""MLflow's tables, as the index fills them: which rows belong to which entity.

The tables are MLflow's own (mlflow.store.tracking.dbmodels, mlflow.store.model_registry.dbmodels).
Columns that are not named here keep the schema's defaults: the workspace, above all. The process
that makes rows (worker.py) imports this module, and neither MLflow nor SQLAlchemy: they would take
it four seconds and 200 MB.

Rows as a database can hold them: what is too long or too large for a column is cut.

MLflow's SQL store refuses or cuts such values when they are logged; a bucket may hold them all the
same. SQLite takes texts of any length, PostgreSQL does not. Which columns there are, and what they
hold, is asked of the database itself, and only after it has refused an entity's rows.
"""

import hashlib
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kaggleops.mlruns import EntityId, Kind

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Table
import sqlalchemy as sa

Row = tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Owned:
    """A table's rows that belong to an entity.

    Args:
        name: the table's name.
        columns: those that are filled, in the order in which a row has its values.
        of: the condition under which a row of the table belongs to an entity.
    """

    name: str
    columns: tuple[str, ...]
    of: "Callable[[Table, EntityId], ColumnElement[bool]]"

    @cached_property
    def table(self) -> "Table":
        """MLflow's table."""
        from mlflow.store.db.base_sql_model import Base
        from mlflow.store.model_registry.dbmodels import models as _registry  # noqa: F401
        from mlflow.store.tracking.dbmodels import models as _tracking  # noqa: F401

        return Base.metadata.tables[self.name]

    @cached_property
    def key(self) -> tuple[str, ...]:
        """The columns that tell one of its rows from another."""
        primary = self.table.primary_key.columns.keys()
        return tuple(name for name in self.columns if name in primary)

    def row(self, **values: Any) -> Row:
        """Return a row, its values by their columns' names."""
        return tuple(values[name] for name in self.columns)


Rows = Mapping[Owned, list[Row]]
"""The rows of an entity, or of several."""


def _named(column: str) -> "Callable[[Table, EntityId], ColumnElement[bool]]":
    return lambda table, entity_id: table.c[column] == entity_id.name


def _of_experiment(table: "Table", entity_id: EntityId) -> "ColumnElement[bool]":
    return table.c.experiment_id == int(entity_id.experiment_id)


def _linked(table: "Table", entity_id: EntityId) -> "ColumnElement[bool]":
    from sqlalchemy import or_

    run = entity_id.name
    return or_(
        (table.c.destination_type == "RUN") & (table.c.destination_id == run),
        table.c.source_type.in_(("RUN_INPUT", "RUN_OUTPUT")) & (table.c.source_id == run),
    )


def _tagged(table: "Table", entity_id: EntityId) -> "ColumnElement[bool]":
    from sqlalchemy import select

    inputs = INPUTS.table
    return table.c.input_uuid.in_(select(inputs.c.input_uuid).where(_linked(inputs, entity_id)))


def dataset_uuid(experiment_id: str, name: str) -> str:
    """Return the id of a dataset in the database: the same wherever it is made.

    So that a run can name a dataset that is not there yet, and importing again changes nothing.
    """
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{experiment_id}/datasets/{name}"))


def own_dataset_id(name: str, digest: str) -> str:
    """Return the id under which the file store keeps a dataset of that name and digest."""
    return hashlib.md5(
        f"{name}{digest}".encode(errors="replace"), usedforsecurity=False
    ).hexdigest()


def input_uuid(run_id: str, path: str) -> str:
    """Return the id of a run's input or output in the database: the same wherever it is made."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{run_id}/{path}"))


def assessment_id(trace_id: str, taken: str) -> str:
    """Return the id in the database of a trace's assessment whose own another trace has taken."""
    return f"a-{uuid.uuid5(uuid.NAMESPACE_OID, f'{trace_id}/{taken}').hex}"


_TEXT = ("key", "value")
_POINT = ("key", "value", "timestamp", "step", "is_nan")
_TIMES = ("creation_time", "last_updated_time", "description")

EXPERIMENTS = Owned(
    "experiments",
    (
        "experiment_id",
        "name",
        "artifact_location",
        "lifecycle_stage",
        "creation_time",
        "last_update_time",
    ),
    _of_experiment,
)
EXPERIMENT_TAGS = Owned("experiment_tags", ("experiment_id", *_TEXT), _of_experiment)

DATASETS = Owned(
    "datasets",
    (
        "dataset_uuid",
        "experiment_id",
        "name",
        "digest",
        "dataset_source_type",
        "dataset_source",
        "dataset_schema",
        "dataset_profile",
    ),
    lambda table, id_: table.c.dataset_uuid == dataset_uuid(id_.experiment_id, id_.name),
)

RUNS = Owned(
    "runs",
    (
        "run_uuid",
        "name",
        "source_type",
        "source_name",
        "entry_point_name",
        "user_id",
        "status",
        "start_time",
        "end_time",
        "deleted_time",
        "source_version",
        "lifecycle_stage",
        "artifact_uri",
        "experiment_id",
    ),
    _named("run_uuid"),
)
PARAMS = Owned("params", ("run_uuid", *_TEXT), _named("run_uuid"))
TAGS = Owned("tags", ("run_uuid", *_TEXT), _named("run_uuid"))
METRICS = Owned("metrics", ("run_uuid", *_POINT), _named("run_uuid"))
LATEST_METRICS = Owned("latest_metrics", ("run_uuid", *_POINT), _named("run_uuid"))
INPUTS = Owned(
    "inputs",
    ("input_uuid", "source_type", "source_id", "destination_type", "destination_id", "step"),
    _linked,
)
INPUT_TAGS = Owned("input_tags", ("input_uuid", "name", "value"), _tagged)

LOGGED_MODELS = Owned(
    "logged_models",
    (
        "model_id",
        "experiment_id",
        "name",
        "artifact_location",
        "creation_timestamp_ms",
        "last_updated_timestamp_ms",
        "status",
        "lifecycle_stage",
        "model_type",
        "source_run_id",
        "status_message",
    ),
    _named("model_id"),
)
_OF_MODEL = ("model_id", "experiment_id")
LOGGED_MODEL_PARAMS = Owned(
    "logged_model_params", (*_OF_MODEL, "param_key", "param_value"), _named("model_id")
)
LOGGED_MODEL_TAGS = Owned(
    "logged_model_tags", (*_OF_MODEL, "tag_key", "tag_value"), _named("model_id")
)
LOGGED_MODEL_METRICS = Owned(
    "logged_model_metrics",
    (
        *_OF_MODEL,
        "metric_name",
        "metric_timestamp_ms",
        "metric_step",
        "metric_value",
        "run_id",
        "dataset_name",
        "dataset_digest",
    ),
    _named("model_id"),
)

TRACE_ANALYTICS = (
    "session_id",
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation_input_tokens_above_1hr",
    "input_cost",
    "output_cost",
    "total_cost",
)
TRACES = Owned(
    "trace_info",
    (
        "request_id",
        "experiment_id",
        "timestamp_ms",
        "execution_time_ms",
        "status",
        "client_request_id",
        "request_preview",
        "response_preview",
        "trace_name",
        *TRACE_ANALYTICS,
    ),
    _named("request_id"),
)
TRACE_TAGS = Owned("trace_tags", ("request_id", *_TEXT), _named("request_id"))
TRACE_METADATA = Owned("trace_request_metadata", ("request_id", *_TEXT), _named("request_id"))
ASSESSMENTS = Owned(
    "assessments",
    (
        "assessment_id",
        "trace_id",
        "experiment_id",
        "trace_timestamp_ms",
        "name",
        "assessment_type",
        "value",
        "error",
        "created_timestamp",
        "last_updated_timestamp",
        "source_type",
        "source_id",
        "run_id",
        "span_id",
        "rationale",
        "overrides",
        "valid",
        "assessment_metadata",
        "aggregate_value",
        "is_numeric_value",
    ),
    _named("trace_id"),
)

REGISTERED_MODELS = Owned("registered_models", ("name", *_TIMES), _named("name"))
REGISTERED_MODEL_TAGS = Owned("registered_model_tags", ("name", *_TEXT), _named("name"))
MODEL_VERSIONS = Owned(
    "model_versions",
    (
        "name",
        "version",
        *_TIMES,
        "user_id",
        "current_stage",
        "source",
        "storage_location",
        "run_id",
        "run_link",
        "status",
        "status_message",
    ),
    _named("name"),
)
MODEL_VERSION_TAGS = Owned("model_version_tags", ("name", "version", *_TEXT), _named("name"))
ALIASES = Owned("registered_model_aliases", ("name", "alias", "version"), _named("name"))

TABLES: Mapping[Kind, tuple[Owned, ...]] = {
    Kind.EXPERIMENT: (EXPERIMENTS, EXPERIMENT_TAGS),
    Kind.DATASET: (DATASETS,),
    Kind.RUN: (RUNS, PARAMS, TAGS, METRICS, LATEST_METRICS, INPUTS, INPUT_TAGS),
    Kind.LOGGED_MODEL: (
        LOGGED_MODELS,
        LOGGED_MODEL_PARAMS,
        LOGGED_MODEL_TAGS,
        LOGGED_MODEL_METRICS,
    ),
    Kind.TRACE: (TRACES, TRACE_TAGS, TRACE_METADATA, ASSESSMENTS),
    Kind.REGISTERED_MODEL: (
        REGISTERED_MODELS,
        REGISTERED_MODEL_TAGS,
        MODEL_VERSIONS,
        MODEL_VERSION_TAGS,
        ALIASES,
    ),
}
"""The tables of each kind: first its own, and what rows refer to before them."""


_BITS: dict[type, int] = {sa.SmallInteger: 16, sa.BigInteger: 64, sa.Integer: 32}
"""From the narrowest class of types to the widest."""


def fit(connection: sa.Connection, entity_id: EntityId, rows: Rows) -> tuple[Rows, list[str]]:
    """Return an entity's rows cut to what the columns hold.

    Args:
        connection: to the database.
        entity_id: whose rows; its name is never cut, for it would be another entity's.
        rows: any.

    Returns:
        The rows, and the columns in which something was cut.
    """
    cut: dict[str, None] = {}
    fitting = {owned: _fit(connection, entity_id, owned, each, cut) for owned, each in rows.items()}
    return fitting, list(cut)


def _fit(
    connection: sa.Connection,
    entity_id: EntityId,
    owned: Owned,
    rows: list[Row],
    cut: dict[str, None],
) -> list[Row]:
    found = sa.inspect(connection).get_columns(owned.name) if rows else []
    types = {column["name"]: column["type"] for column in found}
    exact = connection.dialect.name != "sqlite"
    fitting: dict[Row, Row] = {}
    for row in rows:
        values = []
        for name, value in zip(owned.columns, row, strict=True):
            held = value if value == entity_id.name else _held(value, types[name], exact)
            if held != value:
                cut[f"{owned.name}.{name}"] = None
            values.append(held)
        # Of two that are one now, the first stays.
        fitting.setdefault(
            tuple(values[owned.columns.index(name)] for name in owned.key), (*values,)
        )
    return list(fitting.values())


def _held(value: Any, of_type: sa.types.TypeEngine[Any], exact: bool) -> Any:
    """Return what a column keeps of a value.

    Args:
        value: any.
        of_type: the column's.
        exact: whether the database keeps to what the type says of lengths and sizes.
    """
    if isinstance(value, str):
        text = value.encode("utf-8", "replace").decode()  # YAML may hold half a character
        if not exact:
            return text
        # PostgreSQL has no place for NUL.
        return text.replace("\0", "\N{REPLACEMENT CHARACTER}")[: getattr(of_type, "length", None)]
    if isinstance(value, int) and isinstance(of_type, sa.Integer):
        known = next((each for each in _BITS if isinstance(of_type, each)), sa.BigInteger)
        largest = 2 ** (_BITS[known] - 1 if exact else 63) - 1
        return max(-largest - 1, min(largest, value))
    return value
