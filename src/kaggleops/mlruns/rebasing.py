r"""Artifact locations, made to follow the bucket (MLflow issue #3144).

MLflow stores absolute locations. A bucket that was copied, or an `mlruns` that was carried from a
machine that is gone (`file:///content/mlruns/...`, `C:\work\mlruns\...`), would point nowhere. So
whatever ends the way the file store lays artifacts out under a root is taken to lie under the root
of the bucket that is being read. A location that the user chose otherwise stays as it is, and so
does one in another bucket whose folder is called neither `mlruns` nor `artifacts`: that is no root
of a file store, however it ends.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kaggleops.mlruns.entity import META, Entity, dump_yaml, parse_yaml
from kaggleops.mlruns.layout import ARTIFACTS, MLRUNS, EntityId, Kind

_FIELDS: Mapping[Kind, str] = {
    Kind.EXPERIMENT: "artifact_location",
    Kind.RUN: "artifact_uri",
    Kind.LOGGED_MODEL: "artifact_location",
}
_TRACE_LOCATION = "tags/mlflow.artifactLocation"
_VERSION_FIELDS = {"source", "storage_location"}
# What a model version was made from: a run's artifacts or a logged model's, or something in them.
_OF_ANY = r"/[\w-]+/(?:[0-9a-f]{32}|models/m-[\w-]+)/artifacts(?:/.*)?"


def artifact_path(entity_id: EntityId) -> str:
    """Return where below a root the file store puts an entity's artifacts, with a slash before.

    Args:
        entity_id: an experiment, run, logged model or trace.
    """
    if entity_id.kind is Kind.EXPERIMENT:
        return f"/{entity_id.folder}"
    return f"/{entity_id.folder}/{ARTIFACTS}"


def artifact_location(entity: Entity) -> str | None:
    """Return where the entity says that its artifacts lie; None if it has no place for them."""
    if entity.id.kind is Kind.TRACE:
        written = entity.files.get(_TRACE_LOCATION)
        return None if written is None else written.decode(errors="replace")
    field = _FIELDS.get(entity.id.kind)
    found = entity.meta.get(field) if field else None
    return found if isinstance(found, str) else None


def relocate(entity: Entity, location: str) -> Entity:
    """Return the entity with its artifacts at this location; itself, where they are already."""
    if artifact_location(entity) == location:
        return entity
    if entity.id.kind is Kind.TRACE:
        return replace(entity, files={**entity.files, _TRACE_LOCATION: location.encode()})
    meta = dump_yaml({**entity.meta, _FIELDS[entity.id.kind]: location})
    return replace(entity, files={**entity.files, META: meta})


def rebase(entity: Entity, artifact_root: str) -> Entity:
    """Return the entity with its artifacts under this root.

    Args:
        entity: any entity.
        artifact_root: the URI under which this bucket's artifacts lie, without a trailing slash.
    """
    if entity.id.kind is Kind.REGISTERED_MODEL:
        return _rebase_versions(entity, artifact_root)
    old = artifact_location(entity)
    if old is None or old == artifact_root + artifact_path(entity.id):
        return entity
    return relocate(entity, _rebased(old, artifact_root, re.escape(artifact_path(entity.id))))


def is_elsewhere(location: str) -> bool:
    """Tell whether a location names a service that answers everywhere, and no machine's disk.

    `mlflow-artifacts:` does not: it means whichever server is asked.
    """
    match = re.match(r"([a-zA-Z][\w+.-]+):(?://)?", location)
    return match is not None and match.group(1).lower() not in ("file", "mlflow-artifacts")


def follows_the_bucket(location: str, entity_id: EntityId) -> bool:
    """Tell whether `rebase` would take this for the entity's place under some root."""
    place = re.escape(artifact_path(entity_id))
    return bool(_rebased(location, "somewhere/else", place) != location)


def _rebase_versions(entity: Entity, root: str) -> Entity:
    changed: dict[str, bytes] = {}
    for path, data in entity.files.items():
        if not re.fullmatch(r"version-[^/]+/meta\.yaml", path):
            continue
        meta = parse_yaml(data, f"reading {path} of {entity.id}")
        new = {
            field: _rebased(meta[field], root, _OF_ANY) for field in _VERSION_FIELDS & meta.keys()
        }
        if any(meta[field] != value for field, value in new.items()):
            changed[path] = dump_yaml({**meta, **new})
    return replace(entity, files={**entity.files, **changed}) if changed else entity


def _rebased(old: Any, root: str, below_root: str) -> Any:
    if not isinstance(old, str):
        return old
    # As on Windows, and relative to where it was logged.
    location = f"/{old}".replace("\\", "/").rstrip("/")
    match = re.fullmatch(rf"(.*?)({below_root})", location, re.DOTALL)
    if match is None:
        return old
    old_root, path = match.groups()
    if is_elsewhere(old) and old_root.rpartition("/")[2] not in (MLRUNS, ARTIFACTS):
        return old
    return root + path
