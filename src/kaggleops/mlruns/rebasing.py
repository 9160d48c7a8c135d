"""Artifact locations, made to follow the bucket (MLflow issue #3144).

MLflow stores absolute locations. A bucket that was copied, or an `mlruns` that was carried from a
machine that is gone (`file:///content/mlruns/...`), would point nowhere. So whatever ends the way
the file store lays artifacts out under a root is taken to lie under the root of the bucket that is
being read; a location that the user chose otherwise stays as it is.
"""

from dataclasses import replace
from typing import Any

from kaggleops.mlruns.entity import META, Entity, dump_yaml
from kaggleops.mlruns.layout import Kind

_TRACE_LOCATION = "tags/mlflow.artifactLocation"


def rebase(entity: Entity, artifact_root: str) -> Entity:
    """Return the entity with its artifacts under this root.

    Args:
        entity: any entity.
        artifact_root: the URI under which this bucket's artifacts lie, without a trailing slash.
    """
    kind, experiment_id, name = entity.id.kind, entity.id.experiment_id, entity.id.name
    if kind is Kind.EXPERIMENT:
        return _field(entity, "artifact_location", artifact_root, f"/{experiment_id}")
    if kind is Kind.RUN:
        return _field(entity, "artifact_uri", artifact_root, f"/{experiment_id}/{name}/artifacts")
    if kind is Kind.LOGGED_MODEL:
        suffix = f"/{experiment_id}/models/{name}/artifacts"
        return _field(entity, "artifact_location", artifact_root, suffix)
    if kind is Kind.TRACE and _TRACE_LOCATION in entity.files:
        suffix = f"/{experiment_id}/traces/{name}/artifacts"
        old = entity.files[_TRACE_LOCATION].decode(errors="replace")
        new = _rebased(old, artifact_root, suffix)
        if new != old:
            return replace(entity, files={**entity.files, _TRACE_LOCATION: new.encode()})
    return entity


def _field(entity: Entity, name: str, root: str, suffix: str) -> Entity:
    old = entity.meta.get(name)
    new = _rebased(old, root, suffix)
    if new == old:
        return entity
    meta = dump_yaml({**entity.meta, name: new})
    return replace(entity, files={**entity.files, META: meta})


def _rebased(old: Any, root: str, suffix: str) -> Any:
    # An experiment's own id, or a run's, cannot end a location by chance.
    return root + suffix if isinstance(old, str) and old.rstrip("/").endswith(suffix) else old
