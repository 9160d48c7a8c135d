"""Whether MLflow's file store could read an entity.

The file store trusts its folder: one metric line that is no number, one `meta.yaml` without its
fields, and listing the whole experiment fails. So what it could not read is refused here, with the
reason, and everything else is served. The fields are those that MLflow 3.17 needs
(mlflow/store/tracking/file_store.py, mlflow/store/model_registry/file_store.py, mlflow/entities).
"""

import posixpath
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from kaggleops.mlruns.entity import META, BrokenEntityError, Entity, parse_yaml
from kaggleops.mlruns.layout import Kind

TRACE_INFO = "trace_info.yaml"

# mlflow.utils.validation.validate_param_and_metric_name and path_not_unique.
_NAME = re.compile(r"[/\w.\- :]+")

# Bounded and possessive: a file is matched in one pass, or not at all, whatever it holds.
_TIME, _STEP = rb"-?\d{1,19}+", rb"-?\d{1,19}+"
_VALUE = (
    rb"[-+]?(?:(?:\d{1,400}+(?:\.\d{0,400}+)?|\.\d{1,400}+)(?:[eE][-+]?\d{1,9}+)?"
    rb"|[iI]nf(?:inity)?|[nN]a[nN])"
)
_DATASET = rb"(?: [^\s]{1,2000}+ [^\s]{1,2000}+)?"
_POINTS = re.compile(rb"(?:%b %b(?: %b%b)?\n)*+" % (_TIME, _VALUE, _STEP, _DATASET))
_MODEL_POINTS = re.compile(rb"(?:%b %b %b [\w-]{1,256}+%b\n)*+" % (_TIME, _VALUE, _STEP, _DATASET))

_Field = tuple[type, ...]
_TEXT, _OPTIONAL_TEXT = (str,), (str, type(None))
_NUMBER, _OPTIONAL_NUMBER = (int,), (int, type(None))
_NAMED = (str, int, type(None))  # by its name, or by its number in one of MLflow's enumerations

# What everybody who shows a time can show: ms of the years 1 to 9999.
_TIMES = range(-62_135_596_800_000, 253_402_300_800_000)
_TIME_FIELDS = re.compile(r".*(?:time|timestamp|_ms)")

_FIELDS: Mapping[Kind, Mapping[str, _Field]] = {
    Kind.EXPERIMENT: {"name": _TEXT, "artifact_location": _TEXT, "lifecycle_stage": _TEXT},
    Kind.RUN: {"user_id": _TEXT, "start_time": _NUMBER, "end_time": _OPTIONAL_NUMBER},
    Kind.LOGGED_MODEL: {
        "name": _TEXT,
        "artifact_location": _TEXT,
        "creation_timestamp": _NUMBER,
        "last_updated_timestamp": _NUMBER,
    },
    Kind.DATASET: {"name": _TEXT, "digest": _TEXT, "source_type": _TEXT, "source": _TEXT},
    Kind.REGISTERED_MODEL: {"name": _TEXT},
}
_OTHER_FIELDS: Mapping[Kind, Mapping[str, _Field]] = {
    Kind.EXPERIMENT: {
        "creation_time": _OPTIONAL_NUMBER,
        "last_update_time": _OPTIONAL_NUMBER,
        "workspace": _OPTIONAL_TEXT,
    },
    Kind.RUN: {
        **dict.fromkeys(
            ("artifact_uri", "entry_point_name", "name", "run_name", "source_name"), _OPTIONAL_TEXT
        ),
        "source_version": _OPTIONAL_TEXT,
        "source_type": _NAMED,
        "status": _NUMBER,
        "deleted_time": _OPTIONAL_NUMBER,
    },
    Kind.LOGGED_MODEL: {
        **dict.fromkeys(("model_type", "source_run_id", "status_message"), _OPTIONAL_TEXT),
        "status": _NUMBER,
    },
    Kind.DATASET: dict.fromkeys(("schema", "profile"), _OPTIONAL_TEXT),
    Kind.TRACE: {
        **dict.fromkeys(
            ("client_request_id", "request_preview", "response_preview"), _OPTIONAL_TEXT
        ),
        **dict.fromkeys(("status", "state", "request_time", "execution_duration"), _NAMED),
        **dict.fromkeys(
            ("timestamp_ms", "execution_time_ms", "execution_duration_ms"), _OPTIONAL_NUMBER
        ),
    },
    Kind.REGISTERED_MODEL: {
        "description": _OPTIONAL_TEXT,
        "creation_timestamp": _OPTIONAL_NUMBER,
        "last_updated_timestamp": _OPTIONAL_NUMBER,
    },
}
"""Those that may be missing."""

_VERSION_FIELDS = {"name": _TEXT, "version": (int, str), "creation_timestamp": _NUMBER}
_OTHER_VERSION_FIELDS: Mapping[str, _Field] = {
    **dict.fromkeys(
        ("current_stage", "description", "run_id", "run_link", "source", "status_message"),
        _OPTIONAL_TEXT,
    ),
    **dict.fromkeys(("storage_location", "user_id", "model_id"), _OPTIONAL_TEXT),
    "status": _OPTIONAL_TEXT,
    "last_updated_timestamp": _OPTIONAL_NUMBER,
}
_VERSION_STATUSES = (None, "READY", "PENDING_REGISTRATION", "FAILED_REGISTRATION")
_VERSIONS = range(1, 2**31)  # SQL's
_LINK_FIELDS = {"source_id": _TEXT, "destination_id": _TEXT, "tags": (dict,)}
_LINK_TYPES = {"source_type", "destination_type"}
_INPUT_TYPES = ("RUN", "DATASET", "MODEL")
_OUTPUT_TYPES = ("RUN_OUTPUT", "MODEL_OUTPUT")
_LINK_ID = re.compile(r"[a-zA-Z0-9][\w-]{0,255}", re.ASCII)
_STATUSES: Mapping[Kind, range] = {Kind.RUN: range(1, 6), Kind.LOGGED_MODEL: range(4)}


def holds_points(kind: Kind, data: bytes) -> bool:
    """Tell whether a metric's file of an entity of this kind is as MLflow writes it."""
    pattern = _MODEL_POINTS if kind is Kind.LOGGED_MODEL else _POINTS
    return bool(pattern.fullmatch(data))


def check_entity(entity: Entity, doing: str) -> None:
    """Refuse an entity that MLflow's file store could not read, or that is another than its key.

    Args:
        entity: which.
        doing: what is being done, for the error.

    Raises:
        BrokenEntityError: with the file and what is wrong with it.
    """
    _check_main_file(entity, doing)
    if entity.id.kind is Kind.RUN:
        _check_links_whole(entity, doing)
    folders = _FOLDERS.get(entity.id.kind, {})
    for path, data in entity.files.items():
        folder, _, name = path.partition("/")
        if check := folders.get("version-N" if _is_version(entity, folder) else folder):
            check(name, data, f"{doing}: {_short(path)}")


def _check_main_file(entity: Entity, doing: str) -> None:
    kind = entity.id.kind
    path = TRACE_INFO if kind is Kind.TRACE else META
    if path not in entity.files:
        raise BrokenEntityError(doing, f"it has no {path}")
    doing = f"{doing}: {path}"
    # An entity keeps what was read of its meta.yaml for whoever needs it next.
    meta = parse_yaml(entity.files[path], doing) if kind is Kind.TRACE else _meta(entity, doing)
    for field, expected in _identity(entity, meta).items():
        if str(meta.get(field)) != expected:
            found = _short(repr(meta.get(field)))
            raise BrokenEntityError(doing, f"its {field} is {found}, and its key says {expected}")
    _check_fields(meta, _FIELDS.get(kind, {}), doing)
    _check_fields(meta, _OTHER_FIELDS.get(kind, {}), doing, optional=True)
    statuses = _STATUSES.get(kind)
    if statuses and "status" in meta and meta["status"] not in statuses:
        raise BrokenEntityError(doing, f"there is no status {_short(str(meta['status']))}")
    if meta.get("lifecycle_stage", "active") not in ("active", "deleted"):
        raise BrokenEntityError(doing, "its lifecycle_stage is neither active nor deleted")


def _meta(entity: Entity, doing: str) -> Mapping[str, Any]:
    try:
        return entity.meta
    except BrokenEntityError as error:
        raise BrokenEntityError(doing, error.problem) from error


def _identity(entity: Entity, meta: Mapping[str, Any]) -> dict[str, str]:
    home, name = entity.id.experiment_id, entity.id.name
    match entity.id.kind:
        case Kind.EXPERIMENT:
            return {"experiment_id": home}
        case Kind.RUN:
            return {"experiment_id": home, "run_id": name}
        case Kind.LOGGED_MODEL:
            return {"experiment_id": home, "model_id": name}
        case Kind.TRACE:
            return {"trace_id" if "trace_id" in meta else "request_id": name}
        case Kind.REGISTERED_MODEL:
            return {"name": name}
        case _:
            return {}


def _check_fields(
    meta: Mapping[str, Any], fields: Mapping[str, _Field], doing: str, *, optional: bool = False
) -> None:
    for field, types in fields.items():
        if field not in meta:
            if optional:
                continue
            raise BrokenEntityError(doing, f"it has no {field}")
        value = meta[field]
        # Not isinstance: Python takes `true` for a number.
        known = type(value) in types
        if not known or (type(value) is int and _is_time(field) and value not in _TIMES):
            raise BrokenEntityError(doing, f"its {field} is {_short(repr(value))}")


@lru_cache
def _is_time(field: str) -> bool:
    return bool(_TIME_FIELDS.fullmatch(field))


def _is_version(entity: Entity, folder: str) -> bool:
    return entity.id.kind is Kind.REGISTERED_MODEL and folder.startswith("version-")


def _check_version(name: str, data: bytes, doing: str) -> None:
    if name != META:
        _check_text(name.removeprefix("tags/"), data, doing)
        return
    meta = parse_yaml(data, doing)
    _check_fields(meta, _VERSION_FIELDS, doing)
    _check_fields(meta, _OTHER_VERSION_FIELDS, doing, optional=True)
    number = str(meta["version"])
    if not (re.fullmatch(r"[1-9]\d{0,9}", number, re.ASCII) and int(number) in _VERSIONS):
        raise BrokenEntityError(doing, f"its version is {_short(repr(meta['version']))}")
    if meta.get("status") not in _VERSION_STATUSES:
        raise BrokenEntityError(doing, f"there is no status {_short(repr(meta['status']))}")


def _check_input(name: str, data: bytes, doing: str) -> None:
    _check_link(name, data, doing, _INPUT_TYPES)


def _check_output(name: str, data: bytes, doing: str) -> None:
    meta = _check_link(name, data, doing, _OUTPUT_TYPES)
    _check_fields(meta, {"step": _NUMBER}, doing)


def _check_link(name: str, data: bytes, doing: str, types: tuple[str, ...]) -> Mapping[str, Any]:
    if not re.fullmatch(rf"[^/]+/{META}", name):
        raise BrokenEntityError(doing, "that is no place for a file")
    meta = parse_yaml(data, doing)
    _check_fields(meta, _LINK_FIELDS, doing)
    for field in sorted(_LINK_TYPES):
        if meta.get(field) not in types:
            raise BrokenEntityError(doing, f"its {field} is {_short(repr(meta.get(field)))}")
    # What it names is looked for by that name, here and in the bucket.
    for field in ("source_id", "destination_id"):
        if not _LINK_ID.fullmatch(meta[field]):
            raise BrokenEntityError(doing, f"its {field} is {_short(repr(meta[field]))}")
    return meta


def _check_links_whole(entity: Entity, doing: str) -> None:
    for folder in entity.folders:
        parent, _, name = folder.partition("/")
        if name and parent in ("inputs", "outputs") and f"{folder}/{META}" not in entity.files:
            raise BrokenEntityError(doing, f"{_short(folder)} has no {META}")


def _check_yaml(name: str, data: bytes, doing: str) -> None:
    parse_yaml(data, doing)


def _check_points(name: str, data: bytes, doing: str) -> None:
    _check_name(name, doing)
    if not holds_points(Kind.RUN, data):
        raise BrokenEntityError(doing, "it holds something else than metric points")


def _check_model_points(name: str, data: bytes, doing: str) -> None:
    _check_name(name, doing)
    if not holds_points(Kind.LOGGED_MODEL, data):
        raise BrokenEntityError(doing, "it holds something else than a model's metric points")


def _check_text(name: str, data: bytes, doing: str) -> None:
    _check_name(name, doing)
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise BrokenEntityError(doing, f"it is not UTF-8 ({error})") from error


def _check_name(name: str, doing: str) -> None:
    if not _is_allowed(name):
        raise BrokenEntityError(doing, "MLflow allows no such name")


@lru_cache(4096)  # the runs of a project have the same names, thousands of times
def _is_allowed(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and posixpath.normpath(name) == name


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


_Check = Callable[[str, bytes, str], None]

_FOLDERS: Mapping[Kind, Mapping[str, _Check]] = {
    Kind.EXPERIMENT: {"tags": _check_text},
    Kind.RUN: {
        "metrics": _check_points,
        "params": _check_text,
        "tags": _check_text,
        "inputs": _check_input,
        "outputs": _check_output,
    },
    Kind.LOGGED_MODEL: {
        "metrics": _check_model_points,
        "params": _check_text,
        "tags": _check_text,
    },
    Kind.TRACE: {
        "tags": _check_text,
        "request_metadata": _check_text,
        "assessments": _check_yaml,
    },
    Kind.REGISTERED_MODEL: {
        "tags": _check_text,
        "aliases": _check_text,
        "version-N": _check_version,
    },
}
"""How to check what lies in each folder of an entity, by kind."""
