"""MLflow's tables, as the index fills them: which rows belong to which entity, and writing them.

The tables are MLflow's own (mlflow.store.tracking.dbmodels, mlflow.store.model_registry.dbmodels).
Columns that are not named here keep the schema's defaults: the workspace, above all. Nothing here
imports MLflow, which takes four seconds and 200 MB.

What is too long or too large for a column is cut, after the database has refused it: MLflow's SQL
store refuses or cuts such values when they are logged, a bucket may hold them all the same.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from kaggleops.mlruns import EntityId, Kind

Row = tuple[Any, ...]

BOOLEANS = ("is_nan", "valid", "is_numeric_value")
"""The columns that PostgreSQL does not take a number for."""


class Owned:
    """A table's rows that belong to an entity.

    Args:
        name: the table's name.
        columns: those that are filled, in the order in which a row has its values. Those that
            distinguish one of its rows from another have a star behind their names.
        owner: the column that says whose a row is (`name_of`); by default the first one.
    """

    def __init__(self, name: str, columns: str, owner: str = "") -> None:
        self.name = name
        self.columns = tuple(columns.replace("*", "").split())
        self.key = tuple(each[:-1] for each in columns.split() if each.endswith("*"))
        self.owner = owner or self.columns[0]
        kinds = {each: sa.Boolean() for each in BOOLEANS}
        self.table = sa.table(name, *(sa.column(each, kinds.get(each)) for each in self.columns))
        """The table, as far as it is filled."""

    def row(self, meta: Mapping[str, Any], **values: Any) -> Row:
        """Return a row: the values that are given, the others as `meta` calls them, or NULL."""
        return tuple(values[name] if name in values else meta.get(name) for name in self.columns)

    def named(self, row: Row) -> dict[str, Any]:
        """Return a row's values by their columns' names."""
        return dict(zip(self.columns, row, strict=True))


Rows = Mapping[Owned, list[Row]]
"""The rows of an entity, or of several."""


def name_of(entity_id: EntityId) -> str | int:
    """Return what the rows of an entity call it."""
    if entity_id.kind is Kind.EXPERIMENT:
        return int(entity_id.experiment_id)
    if entity_id.kind is Kind.DATASET:
        return dataset_uuid(entity_id.experiment_id, entity_id.name)
    return entity_id.name


def belonging(owned: Owned, names: Sequence[str | int]) -> sa.ColumnElement[bool]:
    """Return the condition under which a row belongs to one of the entities of these names."""
    columns, links = owned.table.c, INPUTS.table.c
    if owned is INPUT_TAGS:
        of_these = sa.select(links.input_uuid).where(belonging(INPUTS, names))
        return columns.input_uuid.in_(of_these)
    if owned is INPUTS:
        from_run = links.source_type.in_(("RUN_INPUT", "RUN_OUTPUT"))
        return ((links.destination_type == "RUN") & links.destination_id.in_(names)) | (
            from_run & links.source_id.in_(names)
        )
    return columns[owned.owner].in_(names)


def owners(links: Iterable[Row]) -> dict[str, str]:
    """Return whose run's each input or output is, by its uuid."""
    return {
        uuid: destination if destination_type == "RUN" else source
        for uuid, _, source, destination_type, destination, _ in links
    }


def dataset_uuid(experiment_id: str, name: str) -> str:
    """Return the id of a dataset in the database: the same wherever it is made."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{experiment_id}/datasets/{name}"))


def input_uuid(run_id: str, path: str) -> str:
    """Return the id of a run's input or output in the database: the same wherever it is made."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{run_id}/{path}"))


_OF_MODEL = "model_id* experiment_id"

EXPERIMENTS = Owned(
    "experiments",
    "experiment_id* name artifact_location lifecycle_stage creation_time last_update_time",
)
EXPERIMENT_TAGS = Owned("experiment_tags", "experiment_id* key* value")

DATASETS = Owned(
    "datasets",
    "dataset_uuid experiment_id* name* digest* "
    "dataset_source_type dataset_source dataset_schema dataset_profile",
)

RUNS = Owned(
    "runs",
    "run_uuid* name source_type source_name entry_point_name user_id status start_time end_time "
    "deleted_time source_version lifecycle_stage artifact_uri experiment_id",
)
PARAMS = Owned("params", "run_uuid* key* value")
TAGS = Owned("tags", "run_uuid* key* value")
LATEST_METRICS = Owned("latest_metrics", "run_uuid* key* value timestamp step is_nan")
INPUTS = Owned(
    "inputs", "input_uuid source_type* source_id* destination_type* destination_id* step"
)
INPUT_TAGS = Owned("input_tags", "input_uuid* name* value")

LOGGED_MODELS = Owned(
    "logged_models",
    f"{_OF_MODEL} name artifact_location creation_timestamp_ms last_updated_timestamp_ms status "
    "lifecycle_stage model_type source_run_id status_message",
)
LOGGED_MODEL_PARAMS = Owned("logged_model_params", f"{_OF_MODEL} param_key* param_value")
LOGGED_MODEL_TAGS = Owned("logged_model_tags", f"{_OF_MODEL} tag_key* tag_value")
LOGGED_MODEL_METRICS = Owned(
    "logged_model_metrics",
    f"{_OF_MODEL} metric_name* metric_timestamp_ms* metric_step* metric_value run_id* "
    "dataset_name dataset_digest",
)

TRACE_ANALYTICS = (
    "session_id input_tokens output_tokens total_tokens cache_read_input_tokens "
    "cache_creation_input_tokens cache_creation_input_tokens_above_1hr "
    "input_cost output_cost total_cost"
)
TRACES = Owned(
    "trace_info",
    "request_id* experiment_id timestamp_ms execution_time_ms status client_request_id "
    f"request_preview response_preview trace_name {TRACE_ANALYTICS}",
)
TRACE_TAGS = Owned("trace_tags", "request_id* key* value")
TRACE_METADATA = Owned("trace_request_metadata", "request_id* key* value")
ASSESSMENTS = Owned(
    "assessments",
    "assessment_id* trace_id experiment_id trace_timestamp_ms name assessment_type value error "
    "created_timestamp last_updated_timestamp source_type source_id run_id span_id rationale "
    "overrides valid assessment_metadata aggregate_value is_numeric_value",
    owner="trace_id",
)

_TIMES = "creation_time last_updated_time description"
REGISTERED_MODELS = Owned("registered_models", f"name* {_TIMES}")
REGISTERED_MODEL_TAGS = Owned("registered_model_tags", "name* key* value")
MODEL_VERSIONS = Owned(
    "model_versions",
    f"name* version* {_TIMES} user_id current_stage source storage_location run_id run_link "
    "status status_message",
)
MODEL_VERSION_TAGS = Owned("model_version_tags", "name* version* key* value")
ALIASES = Owned("registered_model_aliases", "name* alias* version")

TABLES: Mapping[Kind, tuple[Owned, ...]] = {
    Kind.EXPERIMENT: (EXPERIMENTS, EXPERIMENT_TAGS),
    Kind.DATASET: (DATASETS,),
    Kind.RUN: (RUNS, PARAMS, TAGS, LATEST_METRICS, INPUTS, INPUT_TAGS),
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


def add(connection: sa.Connection, several: Sequence[Rows]) -> None:
    """Write the rows of entities of which there are none yet."""
    for tables in TABLES.values():
        for owned in tables:
            _insert(connection, owned, [row for rows in several for row in rows.get(owned, ())])


def replace(connection: sa.Connection, entity_id: EntityId, rows: Rows) -> None:
    """Make exactly these the rows of an entity: what others refer to, its first, stays in place."""
    main, *others = TABLES[entity_id.kind]
    names = [name_of(entity_id)]
    for owned in reversed(others):  # what refers to other rows goes before them
        connection.execute(owned.table.delete().where(belonging(owned, names)))
    mine, new = belonging(main, names), rows.get(main, ())
    if not new:
        connection.execute(main.table.delete().where(mine))
    for row in new:
        update = main.table.update().where(mine).values(**main.named(row))
        if not connection.execute(update).rowcount:
            _insert(connection, main, [row])
    for owned in others:
        places = [owned.columns.index(name) for name in owned.key]
        by_key = {tuple(row[each] for each in places): row for row in rows.get(owned, ())}
        _insert(connection, owned, [*by_key.values()])


def remove(connection: sa.Connection, entity_id: EntityId) -> None:
    """Remove the rows of an entity; those of one that has moved to another experiment stay."""
    main = TABLES[entity_id.kind][0]
    mine = belonging(main, [name_of(entity_id)])
    if "experiment_id" in main.table.c:
        mine &= main.table.c.experiment_id == int(entity_id.experiment_id)
    if connection.execute(sa.select(sa.literal(1)).select_from(main.table).where(mine)).first():
        replace(connection, entity_id, {})


def _insert(connection: sa.Connection, owned: Owned, rows: Sequence[Row]) -> None:
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        # Past SQLAlchemy, which would take longer than the database.
        columns = ", ".join(f'"{name}"' for name in owned.columns)
        places = ", ".join("?" * len(owned.columns))
        statement = f'INSERT INTO "{owned.name}" ({columns}) VALUES ({places})'  # noqa: S608
        connection.exec_driver_sql(statement, list(rows))
    else:
        connection.execute(sa.insert(owned.table), [owned.named(row) for row in rows])


def fit(connection: sa.Connection, entity_id: EntityId, rows: Rows) -> tuple[Rows, list[str]]:
    """Return an entity's rows cut to what the columns hold, and the columns that were cut.

    The entity's own name is never cut: it would be another's.
    """
    cut: dict[str, None] = {}
    fitted: dict[Owned, list[Row]] = {}
    exact = connection.dialect.name != "sqlite"  # keeps to what a type says of lengths and sizes
    for owned, several in rows.items():
        columns = sa.inspect(connection).get_columns(owned.name) if several else []
        types = {column["name"]: column["type"] for column in columns}
        fitting: dict[Row, Row] = {}
        for row in several:
            values = {}
            for name, value in owned.named(row).items():
                same = value == entity_id.name
                values[name] = value if same else _held(value, types[name], exact)
                if values[name] != value:
                    cut[f"{owned.name}.{name}"] = None
            # Of two that are one now, the first stays.
            fitting.setdefault(tuple(values[name] for name in owned.key), (*values.values(),))
        fitted[owned] = list(fitting.values())
    return fitted, list(cut)


def _held(value: Any, of_type: sa.types.TypeEngine[Any], exact: bool) -> Any:
    """Return what a column keeps of a value."""
    if isinstance(value, str):
        text = value.encode("utf-8", "replace").decode()  # YAML may hold half a character
        if not exact:
            return text
        # PostgreSQL has no place for NUL.
        return text.replace("\0", "\N{REPLACEMENT CHARACTER}")[: getattr(of_type, "length", None)]
    if isinstance(value, int) and isinstance(of_type, sa.Integer):
        is_narrow = exact and not isinstance(of_type, sa.BigInteger)
        largest = 2 ** (31 if is_narrow else 63) - 1
        return max(-largest - 1, min(largest, value))
    return value
