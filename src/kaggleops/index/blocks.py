"""A block of a snapshot (snapshot.py): entities of one kind with all their rows, column by column.

What is read back is checked cell by cell, as the objects of the bucket are (mlruns/validation.py):
each row belongs to an entity that is named beside it, each value has its column's type, and no
location leads out of the bucket.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, repeat
from typing import Any

from kaggleops.bucket import ABSENT, Version
from kaggleops.index import tables as t
from kaggleops.index.rows import RUN_STATUSES, check_assessment
from kaggleops.index.tables import TABLES, Owned, Row
from kaggleops.index.transaction import is_number
from kaggleops.layout import ARTIFACTS, parse_key
from kaggleops.mlruns import EntityId, Kind
from kaggleops.mlruns.change_log import a_text
from kaggleops.mlruns.locations import (
    TRACE_LOCATIONS,
    TRACE_SPANS,
    leads_out,
    located,
    portable,
    refused,
)
from kaggleops.mlruns.validation import (
    LINK_ID,
    TIMES,
    VERSION_STATUSES,
    VERSIONS,
    is_allowed_name,
)
from kaggleops.tags import LOST

AT_ONCE = 200
"""Entities that a block has at most."""


# -- what is in a column ---------------------------------------------------------------------------

_Cells = Sequence[Any]
_Check = Callable[[_Cells], bool]


def _typed(kind: type, holds: _Check = lambda _: True) -> _Check:
    """Return the check of a column whose cells are of a type, or NULL."""

    def check(cells: _Cells) -> bool:
        types = {*map(type, cells)}
        if type(None) in types:
            types.discard(type(None))
            cells = [cell for cell in cells if cell is not None]
        return types <= {kind} and (not cells or holds(cells))

    return check


def _among(*allowed: object) -> _Check:
    types = {*map(type, allowed)}
    return lambda cells: {*map(type, cells)} <= types and {*cells} <= {*allowed}


def _within(numbers: range) -> _Check:
    return _typed(int, lambda cells: numbers[0] <= min(cells) and max(cells) <= numbers[-1])


def _each(holds: Callable[[str], object]) -> _Check:
    return _typed(str, lambda cells: all(map(holds, {*cells})))


_TEXT = _typed(str)
_INTEGER = _within(range(-(2**63), 2**63))
_NUMBER = _typed(float, lambda cells: all(map(math.isfinite, cells)))
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _all(columns: str, check: _Check) -> dict[str, _Check]:
    return dict.fromkeys(columns.split(), check)


_CHECKS: Mapping[str, _Check] = {
    **_all("key param_key tag_key metric_name alias", _each(is_allowed_name)),
    **_all(
        "creation_time last_update_time last_updated_time start_time end_time deleted_time "
        "creation_timestamp_ms last_updated_timestamp_ms timestamp_ms execution_time_ms",
        _within(TIMES),
    ),
    **_all(
        "timestamp step metric_timestamp_ms metric_step trace_timestamp_ms created_timestamp "
        "last_updated_timestamp input_tokens output_tokens total_tokens cache_read_input_tokens "
        "cache_creation_input_tokens cache_creation_input_tokens_above_1hr",
        _INTEGER,
    ),
    **_all(
        "latest_metrics.value metric_value aggregate_value input_cost output_cost total_cost",
        _NUMBER,
    ),
    **dict.fromkeys(t.BOOLEANS, _among(0, 1)),
    "lifecycle_stage": _among("active", "deleted"),
    "version": _within(VERSIONS),
    "input_uuid": _each(_UUID.fullmatch),
    "runs.status": _among(*(each for each in RUN_STATUSES if each not in (None, "RUNNING"))),
    "logged_models.status": _among(*range(4)),
    "trace_info.status": _among("STATE_UNSPECIFIED", "OK", "ERROR", "IN_PROGRESS"),
    "model_versions.status": _among(*VERSION_STATUSES),
}
"""How to check a column, by its table's name and its own, or by its own; others hold texts."""

_NEVER_NULL = _all(
    "key value param_key param_value tag_key tag_value metric_name metric_value alias version "
    "timestamp step metric_timestamp_ms metric_step timestamp_ms start_time runs.user_id digest "
    "artifact_location artifact_uri experiments.name datasets.name logged_models.name "
    "inputs.source_type inputs.source_id destination_type destination_id input_uuid "
    "dataset_source_type dataset_source input_tags.name assessments.name assessment_type "
    "created_timestamp last_updated_timestamp assessment_id",
    _TEXT,
).keys()


def _holds(table: Owned, column: str, cells: _Cells) -> bool:
    """Tell whether these can stand in a column."""
    full = f"{table.name}.{column}"
    if None in cells and {full, column} & _NEVER_NULL:
        return False
    return (_CHECKS.get(full) or _CHECKS.get(column, _TEXT))(cells)


# -- whose a row is --------------------------------------------------------------------------------

LINKS = (t.INPUTS, t.INPUT_TAGS)


def _implied(kind: Kind, table: Owned) -> dict[str, Callable[[EntityId], str | int]]:
    """Return the columns that follow from whose a row is."""
    if table in LINKS:
        return {}
    columns: dict[str, Callable[[EntityId], str | int]] = {table.owner: t.name_of}
    if kind is not Kind.REGISTERED_MODEL and "experiment_id" in table.columns:
        columns["experiment_id"] = lambda entity_id: int(entity_id.experiment_id)
    return columns


COLUMNS: Mapping[Kind, Mapping[str, list[str]]] = {
    kind: {
        table.name: [name for name in table.columns if name not in _implied(kind, table)]
        for table in tables
    }
    for kind, tables in TABLES.items()
}
"""The columns of each table that are stored, in the order of `TABLES`."""

_LOCATIONS = {
    t.EXPERIMENTS: ("artifact_location",),
    t.RUNS: ("artifact_uri",),
    t.LOGGED_MODELS: ("artifact_location",),
    t.MODEL_VERSIONS: ("source", "storage_location"),
}


def _moved(
    table: Owned, columns: dict[str, _Cells], move: Callable[[Any, str], Any], root: str
) -> None:
    """Move each location in a table's columns: `portable` or `located`."""
    for name in _LOCATIONS.get(table, ()):
        columns[name] = [move(location, root) for location in columns[name]]
    if table is t.TRACE_TAGS:
        columns["value"] = [
            move(value, root) if key in TRACE_LOCATIONS else value
            for key, value in zip(columns["key"], columns["value"], strict=True)
        ]


# -- a block: some entities of one kind with all their rows ----------------------------------------

_Rows = Mapping[Owned, Sequence[Sequence[Row]]]
"""Of each table, the rows of each entity."""

Found = tuple[EntityId, Version]


def encoded(kind: Kind, entities: Sequence[Found], rows: _Rows, root: str) -> list[Any]:
    """Return a block as it stands in the object."""
    tables = []
    for table in TABLES[kind]:
        stored = COLUMNS[kind][table.name]
        cells = [*zip(*chain.from_iterable(rows[table]), strict=True)] or [()] * len(table.columns)
        columns: dict[str, _Cells] = dict(zip(table.columns, cells, strict=True))
        for name in {*stored} & {*t.BOOLEANS}:
            columns[name] = [*map(int, columns[name])]
        _moved(table, columns, portable, root)
        tables.append([[*map(len, rows[table])], *(columns[name] for name in stored)])
    return [kind, [each.key for each, _ in entities], [each for _, each in entities], tables]


def decoded(content: Any, root: str) -> tuple[list[Found], dict[Owned, list[Row]]]:
    """Return the entities of a block and their rows; raise anything where it is none."""
    kind_name, keys, versions, tables = content
    kind = Kind(kind_name)
    ids = [found for key in keys if (found := parse_key(key)) and found.kind is kind]
    if not 0 < len(ids) == len(keys) <= AT_ONCE:
        raise ValueError("a key that is none")
    if ABSENT in map(a_text, versions):
        raise ValueError("a version that is none")
    if kind is Kind.EXPERIMENT and not all(is_number(each.experiment_id) for each in ids):
        raise ValueError("an experiment without a number")
    names, rows = [each.name for each in ids], dict[Owned, list[Row]]()
    for table, (counts, *cells) in zip(TABLES[kind], tables, strict=True):
        if len(counts) != len(ids) or {*map(type, counts)} != {int} or min(counts) < 0:
            raise ValueError(f"{table.name}: counts that are none")
        columns: dict[str, _Cells] = dict(zip(COLUMNS[kind][table.name], cells, strict=True))
        for name, column in columns.items():
            if len(column) != sum(counts) or not _holds(table, name, column):
                raise ValueError(f"{table.name}.{name} holds something else")
        _moved(table, columns, _source if table is t.MODEL_VERSIONS else located, root)
        for name, value in _implied(kind, table).items():
            columns[name] = [*chain.from_iterable(map(repeat, map(value, ids), counts))]
        rows[table] = [*zip(*(columns[name] for name in table.columns), strict=True)]
        if table is TABLES[kind][0] and {*counts} != {1}:
            raise ValueError(f"{table.name}: an entity is one row of it")
        if table in LINKS:
            _check_links(table, [*chain.from_iterable(map(repeat, names, counts))], rows)
    _check_places(rows, root)
    return [*zip(ids, versions, strict=True)], rows


def _source(location: str | None, root: str) -> str | None:
    """Return where in this bucket a model version comes from; it need not lie there."""
    inside = location is not None and location.startswith(f"{ARTIFACTS}/")
    return located(location, root) if location and inside else location


_ENDS = {
    ("DATASET", "RUN"): _UUID,
    ("RUN_INPUT", "MODEL_INPUT"): LINK_ID,
    ("RUN_OUTPUT", "MODEL_OUTPUT"): LINK_ID,
}
"""What an input or output is from and to, and how the end that is not its run is called."""


def _check_links(table: Owned, runs: list[str], rows: Mapping[Owned, list[Row]]) -> None:
    for _, source_type, source, destination_type, destination, _ in rows[t.INPUTS]:
        other = source if destination_type == "RUN" else destination
        if not _ENDS[source_type, destination_type].fullmatch(other):
            raise ValueError("an input of nothing")
    owners = t.owners(rows[t.INPUTS])
    if [owners.get(row[0]) for row in rows[table]] != runs:
        raise ValueError("an input of no run")


def _check_places(rows: Mapping[Owned, list[Row]], root: str) -> None:
    for row in rows.get(t.MODEL_VERSIONS, ()):
        version = t.MODEL_VERSIONS.named(row)
        source, stored = version["source"], version["storage_location"]
        if leads_out(source, stored, root) and refused(stored or "") is None:
            raise ValueError("a model version leads out of the bucket")
    if any(key == TRACE_SPANS for _, key, _ in rows.get(t.TRACE_TAGS, ())):
        raise ValueError("spans lie in the bucket")
    if any(key == LOST for _, key, _ in rows.get(t.TAGS, ())):
        raise ValueError("a run that one machine shows as lost")
    for row in rows.get(t.ASSESSMENTS, ()):
        check_assessment(row)
