r"""Artifact locations: which lie in the bucket, which follow it, and which are refused.

MLflow stores absolute locations. A bucket that was copied, or an `mlruns` that was carried from a
machine that is gone (`file:///content/mlruns/...`, `C:\work\mlruns\...`), would point nowhere. So
whatever ends the way the file store lays artifacts out under a root is taken to lie under the root
of the bucket that is being read (MLflow issue #3144), unless it is in another bucket whose folder
is called neither `mlruns` nor `artifacts`: that is no root of a file store, however it ends.

A location is the word of whoever can write to the bucket, and gives them nothing else. One that is
not below the bucket's own `artifacts/` after that (`is_inside`) becomes an address under a scheme
of its own wherever the entity is read: `outside-the-bucket://run/0123/file:///etc`. Nothing opens
that; MLflow's plugin for it says whose location it is and where it leads. An experiment, whose
location only says where new runs write, gets its place in the bucket instead.
"""

import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import replace

from kaggleops.bucket.base import is_key
from kaggleops.layout import ARTIFACTS, MLRUNS, EntityId, Kind
from kaggleops.mlruns.entity import META, Entity, dump_yaml, parse_yaml

OUTSIDE = "outside-the-bucket"
"""The scheme of a location that is refused."""

_FIELDS: Mapping[Kind, str] = {
    Kind.EXPERIMENT: "artifact_location",
    Kind.RUN: "artifact_uri",
    Kind.LOGGED_MODEL: "artifact_location",
}
TRACE_LOCATIONS = ("mlflow.artifactLocation", "mlflow.trace.archiveLocation")
"""The tags of a trace that say where its files lie."""
_TRACE_LOCATION, _TRACE_ARCHIVE = (f"tags/{name}" for name in TRACE_LOCATIONS)
# It sends MLflow to a database for the spans; those of a bucket are artifacts, whatever it says.
TRACE_SPANS = "mlflow.trace.spansLocation"
# What a model version was made from: a run's artifacts or a logged model's, or something in them.
_OF_ANY = r"/[\w-]+/(?:[0-9a-f]{32}|models/m-[\w-]+)/artifacts(?:/.*)?"
_IN_A_RUN = re.compile(r"runs:/[0-9a-f]{32}(/[^?#]*)?")
_STORED = "storage_location"
_LONGEST = 2000  # characters: no key is half as long


def is_inside(location: str, artifact_root: str) -> bool:
    """Tell whether a location is below the root (a URI) of a bucket's artifacts.

    Every entity's location is asked about here before anything is read, listed, written or deleted
    there. Links in a folder are not looked at: `DirectoryBucket` refuses those that lead out.
    """
    below = location.removeprefix(f"{artifact_root}/").removesuffix("/")
    return location.startswith(f"{artifact_root}/") and _is_path(below)


def _is_path(path: str) -> bool:
    """Tell whether a path stays below where it begins, however often it is decoded."""
    while is_key(path) and not {"?", "#", "\\"} & set(path):
        decoded = urllib.parse.unquote(path)
        if decoded == path:
            return True
        path = decoded
    return False


def refused(location: str) -> tuple[str, str] | None:
    """Return whose location was refused, and where it leads; None for any other location."""
    scheme, _, rest = location.partition("://")
    if scheme != OUTSIDE:
        return None
    kind, _, rest = rest.partition("/")
    name, _, leads_to = rest.partition("/")
    return f"{kind.replace('-', ' ')} {urllib.parse.unquote(name)}", leads_to


def _refuse(location: str, entity_id: EntityId) -> str:
    name = urllib.parse.quote(entity_id.name or entity_id.experiment_id, safe="")
    return f"{OUTSIDE}://{entity_id.kind.replace(' ', '-')}/{name}/{location[:_LONGEST]}"


def _as_written(location: str) -> str:
    """Return a location as it was before it was refused: what is edited is written back so."""
    found = refused(location)
    return found[1] if found else location


def artifact_path(entity_id: EntityId) -> str:
    """Return where below a root the file store puts an entity's artifacts, with a slash before."""
    if entity_id.kind is Kind.EXPERIMENT:
        return f"/{entity_id.folder}"
    return f"/{entity_id.folder}/{ARTIFACTS}"


def artifact_location(entity: Entity) -> str | None:
    """Return where the entity says that its artifacts lie; None if it has no place for them."""
    if entity.id.kind is Kind.TRACE:
        written = entity.files.get(_TRACE_LOCATION)
        return None if written is None else _as_written(written.decode(errors="replace"))
    field = _FIELDS.get(entity.id.kind)
    found = entity.meta.get(field) if field else None
    return _as_written(found) if isinstance(found, str) else None


def relocate(entity: Entity, location: str) -> Entity:
    """Return the entity with its artifacts at this location; itself, where they are already."""
    if entity.id.kind is Kind.TRACE:
        return _with_file(entity, _TRACE_LOCATION, location.encode())
    field = _FIELDS[entity.id.kind]
    if entity.meta.get(field) == location:
        return entity
    return _with_file(entity, META, dump_yaml({**entity.meta, field: location}))


def _with_file(entity: Entity, path: str, data: bytes) -> Entity:
    if entity.files.get(path) == data:
        return entity
    return replace(entity, files={**entity.files, path: data})


def rebase(entity: Entity, artifact_root: str) -> Entity:
    """Return the entity with its artifacts under this root (a URI), or their location refused.

    Raises BrokenEntityError if what says their location cannot be read.
    """
    kind = entity.id.kind
    if kind is Kind.REGISTERED_MODEL:
        return _rebase_versions(entity, artifact_root)
    if kind is Kind.TRACE and (archive := entity.files.get(_TRACE_ARCHIVE)) is not None:
        location = _as_written(archive.decode(errors="replace"))
        if not is_inside(location, artifact_root):
            location = _refuse(location, entity.id)
        entity = _with_file(entity, _TRACE_ARCHIVE, location.encode())
    if kind is Kind.TRACE and (spans := f"tags/{TRACE_SPANS}") in entity.files:
        files = {path: data for path, data in entity.files.items() if path != spans}
        entity = replace(entity, files=files)
    written = artifact_location(entity)
    if written is None and kind not in _FIELDS:
        return entity
    place = artifact_root + artifact_path(entity.id)
    if written is None or written == place:  # a run may lack one
        return relocate(entity, place)
    location = _rebased(written, artifact_root, re.escape(artifact_path(entity.id)))
    if not is_inside(location, artifact_root):
        location = place if kind is Kind.EXPERIMENT else _refuse(location, entity.id)
    return relocate(entity, location)


def portable(location: str | None, artifact_root: str) -> str | None:
    """Return a location as it is true of every copy of its bucket."""
    if location is not None and is_inside(location, artifact_root):
        return ARTIFACTS + location[len(artifact_root) :]
    return location


def located(location: str, artifact_root: str) -> str:
    """Return where in this bucket a location is that `portable` has made; ValueError if outside."""
    here = artifact_root + location.removeprefix(ARTIFACTS)
    if location.startswith(f"{ARTIFACTS}/") and is_inside(here, artifact_root):
        return here
    if refused(location) is None:
        raise ValueError(f"{location[:80]!r} leads out of the bucket")
    return location


def leads_out(source: str | None, stored: str | None, artifact_root: str) -> bool:
    """Tell whether a model version would be read from outside of the bucket."""
    location = stored or source or ""
    # A run's own location is asked about when it is read.
    in_a_run = _IN_A_RUN.fullmatch(location)
    below_it = in_a_run is not None and _is_path((in_a_run.group(1) or "/x")[1:])
    return not (below_it or is_inside(location, artifact_root))


def is_elsewhere(location: str) -> bool:
    """Tell whether a location names a service that answers everywhere, and no machine's disk.

    `mlflow-artifacts:` does not: it means whichever server is asked.
    """
    match = re.match(r"([a-zA-Z][\w+.-]+):(?://)?", location)
    return match is not None and match.group(1).lower() not in ("file", "mlflow-artifacts")


def follow_runs(model: Entity, runs: Mapping[str, str]) -> Entity:
    """Return a registered model whose versions lead to where runs' artifacts lie (by run id).

    Raises BrokenEntityError if a version cannot be read.
    """
    for path, data in model.files.items():
        if not re.fullmatch(r"version-[^/]+/meta\.yaml", path):
            continue
        meta = parse_yaml(data, f"reading {path} of {model.id}")
        new = {}
        for field in ("source", _STORED):
            inside = re.fullmatch(r".*/([0-9a-f]{32})/artifacts(/.*)?", str(meta.get(field)))
            if inside and inside[1] in runs:
                new[field] = runs[inside[1]] + (inside[2] or "")
        model = _with_file(model, path, dump_yaml({**meta, **new})) if new else model
    return model


def _rebase_versions(entity: Entity, root: str) -> Entity:
    for path, data in entity.files.items():
        if not re.fullmatch(r"version-[^/]+/meta\.yaml", path):
            continue
        meta = parse_yaml(data, f"reading {path} of {entity.id}")
        texts = {f: meta[f] if isinstance(meta.get(f), str) else None for f in ("source", _STORED)}
        new = {f: text and _rebased(_as_written(text), root, _OF_ANY) for f, text in texts.items()}
        # MLflow reads from the one, and shows the other.
        if leads_out(new["source"], new[_STORED], root):
            new[_STORED] = _refuse(new[_STORED] or new["source"] or "", entity.id)
        changed = {field: value for field, value in new.items() if meta.get(field) != value}
        if changed:
            entity = _with_file(entity, path, dump_yaml({**meta, **changed}))
    return entity


def _rebased(old: str, root: str, below_root: str) -> str:
    # As on Windows, and relative to where it was logged.
    location = f"/{old}".replace("\\", "/").rstrip("/")
    if len(location) > _LONGEST:
        return old
    match = re.fullmatch(rf"(.*?)({below_root})", location, re.DOTALL)
    if match is None:
        return old
    old_root, path = match.groups()
    if is_elsewhere(old) and old_root.rpartition("/")[2] not in (MLRUNS, ARTIFACTS):
        return old
    return root + path
