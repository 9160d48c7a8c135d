"""Whether MLflow's file store could read an entity.

The file store trusts its folder: one metric line that is no number, one `meta.yaml` without its
fields, and listing the whole experiment fails. So what it could not read is refused here, with the
reason, and everything else is served. The fields are those that MLflow 3.17 needs
(mlflow/store/tracking/file_store.py, mlflow/store/model_registry/file_store.py, mlflow/entities).
"""

import posixpath
import re
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

from kaggleops.layout import Kind
from kaggleops.mlruns.entity import META, BrokenEntityError, Entity, parse_yaml

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

# What everybody who shows a time can show: ms of the years 1 to 9999.
TIMES = range(-62_135_596_800_000, 253_402_300_800_000)
_TIME_FIELDS = re.compile(r".*(?:time|timestamp|_ms)")

_Fields = Mapping[str, tuple[type, ...]]


def _fields(
    text: str = "", number: str = "", either: str = "", *, null: bool = False
) -> dict[str, tuple[type, ...]]:
    """Return fields with the types that they may have; `null` allows YAML's null, too."""
    also = (type(None),) if null else ()
    return {
        **dict.fromkeys(text.split(), (str, *also)),
        **dict.fromkeys(number.split(), (int, *also)),
        **dict.fromkeys(either.split(), (int, str, *also)),
    }


_REQUIRED: Mapping[Kind, _Fields] = {
    Kind.EXPERIMENT: _fields("name artifact_location lifecycle_stage"),
    Kind.RUN: _fields("user_id", "start_time") | _fields(number="end_time", null=True),
    Kind.LOGGED_MODEL: _fields(
        "name artifact_location", "creation_timestamp last_updated_timestamp"
    ),
    Kind.DATASET: _fields("name digest source_type source"),
    Kind.REGISTERED_MODEL: _fields("name"),
}
_OPTIONAL: Mapping[Kind, _Fields] = {
    Kind.EXPERIMENT: _fields("workspace", "creation_time last_update_time", null=True),
    Kind.RUN: _fields(number="status")
    | _fields(
        "artifact_uri entry_point_name name run_name source_name source_version",
        "deleted_time",
        "source_type",
        null=True,
    ),
    Kind.LOGGED_MODEL: _fields(number="status")
    | _fields("model_type source_run_id status_message", null=True),
    Kind.DATASET: _fields("schema profile", null=True),
    Kind.TRACE: _fields(
        "client_request_id request_preview response_preview",
        "timestamp_ms execution_time_ms execution_duration_ms",
        # By its name, or by its number in one of MLflow's enumerations.
        "status state request_time execution_duration",
        null=True,
    ),
    Kind.REGISTERED_MODEL: _fields(
        "description", "creation_timestamp last_updated_timestamp", null=True
    ),
}
_REQUIRED_OF_VERSION = _fields("name", "creation_timestamp", "version")
_OPTIONAL_OF_VERSION = _fields(
    "current_stage description run_id run_link source status_message storage_location user_id "
    "model_id status",
    "last_updated_timestamp",
    null=True,
)
_REQUIRED_OF_LINK: _Fields = {**_fields("source_id destination_id"), "tags": (dict,)}
VERSION_STATUSES = (None, "READY", "PENDING_REGISTRATION", "FAILED_REGISTRATION")
VERSIONS = range(1, 2**31)  # SQL's
_INPUT_TYPES = ("RUN", "DATASET", "MODEL")
_OUTPUT_TYPES = ("RUN_OUTPUT", "MODEL_OUTPUT")
LINK_ID = re.compile(r"[a-zA-Z0-9][\w-]{0,255}", re.ASCII)
_STATUSES: Mapping[Kind, range] = {Kind.RUN: range(1, 6), Kind.LOGGED_MODEL: range(4)}


def check_entity(entity: Entity, doing: str) -> None:
    """Refuse an entity that MLflow's file store could not read, or that is another than its key.

    The BrokenEntityError names the file and what is wrong with it.
    """
    _check_main_file(entity, doing)
    for each in entity.folders if entity.id.kind is Kind.RUN else ():
        parent, _, name = each.partition("/")
        if name and parent in ("inputs", "outputs") and f"{each}/{META}" not in entity.files:
            raise BrokenEntityError(doing, f"{_short(each)} has no {META}")
    folders = _FOLDERS.get(entity.id.kind, {})
    for path, data in entity.files.items():
        folder, _, name = path.partition("/")
        if check := folders.get("version-" if folder.startswith("version-") else folder):
            try:
                check(name, data, doing)
            except BrokenEntityError as error:
                raise BrokenEntityError(f"{doing}: {_short(path)}", error.problem) from error


def _check_main_file(entity: Entity, doing: str) -> None:
    kind = entity.id.kind
    path = TRACE_INFO if kind is Kind.TRACE else META
    if path not in entity.files:
        raise BrokenEntityError(doing, f"it has no {path}")
    doing = f"{doing}: {path}"
    try:
        # An entity keeps what was read of its meta.yaml for whoever needs it next.
        meta = parse_yaml(entity.files[path], doing) if kind is Kind.TRACE else entity.meta
    except BrokenEntityError as error:
        raise BrokenEntityError(doing, error.problem) from error
    for field, expected in _identity(entity, meta).items():
        if str(meta.get(field)) != expected:
            found = _short(repr(meta.get(field)))
            raise BrokenEntityError(doing, f"its {field} is {found}, and its key says {expected}")
    _check_fields(meta, _REQUIRED.get(kind, {}), doing)
    _check_fields(meta, _OPTIONAL.get(kind, {}), doing, optional=True)
    statuses = _STATUSES.get(kind)
    if statuses and "status" in meta and meta["status"] not in statuses:
        raise BrokenEntityError(doing, f"there is no status {_short(str(meta['status']))}")
    if meta.get("lifecycle_stage", "active") not in ("active", "deleted"):
        raise BrokenEntityError(doing, "its lifecycle_stage is neither active nor deleted")


def _identity(entity: Entity, meta: Mapping[str, Any]) -> dict[str, str]:
    home, name = {"experiment_id": entity.id.experiment_id}, entity.id.name
    identities: dict[Kind, dict[str, str]] = {
        Kind.EXPERIMENT: home,
        Kind.RUN: {**home, "run_id": name},
        Kind.LOGGED_MODEL: {**home, "model_id": name},
        Kind.TRACE: {"trace_id" if "trace_id" in meta else "request_id": name},
        Kind.REGISTERED_MODEL: {"name": name},
    }
    return identities.get(entity.id.kind, {})


def _check_fields(
    meta: Mapping[str, Any], fields: _Fields, doing: str, *, optional: bool = False
) -> None:
    for field, types in fields.items():
        if field not in meta:
            if optional:
                continue
            raise BrokenEntityError(doing, f"it has no {field}")
        value = meta[field]
        timed = type(value) is int and _TIME_FIELDS.fullmatch(field)
        # Not isinstance: Python takes `true` for a number.
        if type(value) not in types or (timed and value not in TIMES):
            raise BrokenEntityError(doing, f"its {field} is {_short(repr(value))}")


def _check_version(name: str, data: bytes, doing: str) -> None:
    if name != META:
        _check_text(name.removeprefix("tags/"), data, doing)
        return
    meta = parse_yaml(data, doing)
    _check_fields(meta, _REQUIRED_OF_VERSION, doing)
    _check_fields(meta, _OPTIONAL_OF_VERSION, doing, optional=True)
    number = str(meta["version"])
    if not (re.fullmatch(r"[1-9]\d{0,9}", number, re.ASCII) and int(number) in VERSIONS):
        raise BrokenEntityError(doing, f"its version is {_short(repr(meta['version']))}")
    if meta.get("status") not in VERSION_STATUSES:
        raise BrokenEntityError(doing, f"there is no status {_short(repr(meta['status']))}")


def _check_link(name: str, data: bytes, doing: str, types: tuple[str, ...] = _INPUT_TYPES) -> None:
    if not re.fullmatch(rf"[^/]+/{META}", name):
        raise BrokenEntityError(doing, "that is no place for a file")
    meta = parse_yaml(data, doing)
    _check_fields(meta, _REQUIRED_OF_LINK, doing)
    for field in ("destination_type", "source_type"):
        if meta.get(field) not in types:
            raise BrokenEntityError(doing, f"its {field} is {_short(repr(meta.get(field)))}")
    # What it names is looked for by that name, here and in the bucket.
    for field in ("source_id", "destination_id"):
        if not LINK_ID.fullmatch(meta[field]):
            raise BrokenEntityError(doing, f"its {field} is {_short(repr(meta[field]))}")
    if types is _OUTPUT_TYPES:
        _check_fields(meta, _fields(number="step"), doing)


def _check_points(name: str, data: bytes, doing: str, pattern: re.Pattern[bytes] = _POINTS) -> None:
    _check_name(name, doing)
    if not pattern.fullmatch(data):
        whose = "" if pattern is _POINTS else "a model's "
        raise BrokenEntityError(doing, f"it holds something else than {whose}metric points")


def _check_text(name: str, data: bytes, doing: str) -> None:
    _check_name(name, doing)
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise BrokenEntityError(doing, f"it is not UTF-8 ({error})") from error


def _check_name(name: str, doing: str) -> None:
    if not is_allowed_name(name):
        raise BrokenEntityError(doing, "MLflow does not allow that name")


@lru_cache(4096)  # the runs of a project have the same names, thousands of times
def is_allowed_name(name: str) -> bool:
    """Tell whether MLflow allows a metric, param or tag of that name."""
    return bool(_NAME.fullmatch(name)) and posixpath.normpath(name) == name


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


_Check = Callable[[str, bytes, str], object]

_FOLDERS: Mapping[Kind, Mapping[str, _Check]] = {
    Kind.EXPERIMENT: {"tags": _check_text},
    Kind.RUN: {
        "metrics": _check_points,
        "params": _check_text,
        "tags": _check_text,
        "inputs": _check_link,
        "outputs": partial(_check_link, types=_OUTPUT_TYPES),
    },
    Kind.LOGGED_MODEL: {
        "metrics": partial(_check_points, pattern=_MODEL_POINTS),
        "params": _check_text,
        "tags": _check_text,
    },
    Kind.TRACE: {
        "tags": _check_text,
        "request_metadata": _check_text,
        "assessments": lambda _, data, doing: parse_yaml(data, doing),
    },
    Kind.REGISTERED_MODEL: {
        "tags": _check_text,
        "aliases": _check_text,
        "version-": _check_version,
    },
}
"""How to check what lies in each folder of an entity, by kind."""
