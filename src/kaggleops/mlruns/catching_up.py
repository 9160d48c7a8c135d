"""What the bucket holds of an entity after its source, a folder without notes, was looked at again.

What is imported is noted as written before anything that MLflow wrote. A later note tells of an
edit in the bucket, which stays. What has none came from an earlier import, so what the source says
now is newer. That cannot be told by merging alone, which takes both for equally old.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kaggleops.mlruns.entity import (
    META,
    Entity,
    Notes,
    Role,
    Stamp,
    dump_yaml,
    parse_yaml,
    role_of,
)
from kaggleops.mlruns.layout import Kind
from kaggleops.mlruns.merging import REGISTERS, merge_onto, status_rank

IMPORTED_AT = 946_684_800_000
"""When all that is imported is noted as written: on 2000-01-01, in milliseconds since the epoch."""


def noted_as_imported(entity: Entity) -> Entity:
    """Return a source's entity with notes: only what was once written can be seen to be deleted."""
    kind = entity.id.kind
    written = {path: IMPORTED_AT for path in entity.files if role_of(kind, path) is Role.WRITTEN}
    return replace(entity, notes=Notes(written=written))


def catch_up(stored: Entity, source: Entity) -> tuple[Entity, list[str]]:
    """Return what the bucket should hold: `stored` itself, if the source brings nothing new.

    And what has another name there than in the source, a sentence each.

    Args:
        stored: what it holds.
        source: what the source holds, noted as imported.

    Raises:
        BrokenEntityError: one of them cannot be read.
    """
    renamed: list[str] = []
    if stored.id.kind is Kind.REGISTERED_MODEL:
        caught_up = _catch_up_model(stored, source)
    else:
        caught_up, renamed = merge_onto(_overtaken(stored, source), source)
    same = caught_up.files == stored.files and caught_up.folders == stored.folders
    return (stored, []) if same else (caught_up, renamed)


def _overtaken(stored: Entity, source: Entity) -> Entity:
    """Return `stored` with what the source says where nobody has edited it in the bucket."""
    kind = stored.id.kind
    files = dict(stored.files)
    for path, data in source.files.items():
        if path not in files:
            continue
        role = role_of(kind, path)
        edited = stored.notes.written.get(path, 0) > IMPORTED_AT
        unedited = role is Role.WRITTEN and not edited
        # A file that only grew keeps the order in which it was written.
        grown = role is Role.POINTS and data.startswith(files[path])
        if unedited or grown:
            files[path] = data
    if role_of(kind, META) is Role.META:
        files[META] = _overtaken_meta(stored, source)
    return replace(stored, files=files)


def _overtaken_meta(stored: Entity, source: Entity) -> bytes:
    meta = dict(stored.meta)
    for name, fields in REGISTERS[stored.id.kind].items():
        stamp = stored.notes.registers.get(name, Stamp())
        if stamp.at or stamp.round:
            continue
        kind = stored.id.kind
        if name == "status" and _rank(kind, source.meta) < _rank(kind, stored.meta):
            continue  # an older copy of a run that has ended since
        meta.update({each: source.meta[each] for each in fields if each in source.meta})
    if meta == source.meta:
        return source.files[META]
    return stored.files[META] if meta == stored.meta else dump_yaml(meta)


def _rank(kind: Kind, meta: Mapping[str, Any]) -> int:
    return status_rank(kind, meta.get("status"))


def _catch_up_model(stored: Entity, source: Entity) -> Entity:
    # The registry keeps no notes, but a time of its own, which every change of a model sets.
    ours, theirs = _versions(stored), _versions(source)
    source_is_newer = _updated(source) > _updated(stored)

    def brought(path: str) -> bool:
        version = _version_of(path)
        if version is None:
            return source_is_newer
        if version not in ours:
            return version in theirs
        return source_is_newer and ours[version] == theirs.get(version)

    return replace(
        stored,
        files={**stored.files}
        | {path: data for path, data in source.files.items() if brought(path)},
        folders=stored.folders | {path for path in source.folders if brought(path)},
    )


def clashing_versions(stored: Entity, source: Entity) -> list[str]:
    """Return the versions of a registered model that are another one on each side.

    Their number was given twice, once in the bucket and once where the source comes from.
    """
    if stored.id.kind is not Kind.REGISTERED_MODEL:
        return []
    ours, theirs = _versions(stored), _versions(source)
    return sorted(each for each in ours.keys() & theirs.keys() if ours[each] != theirs[each])


def _versions(model: Entity) -> dict[str, Any]:
    """Return when each version of a registered model was made."""
    found = {}
    for path, data in model.files.items():
        if path.endswith(f"/{META}") and (version := _version_of(path)) is not None:
            meta = parse_yaml(data, f"reading {path} of {model.id}")
            found[version] = meta.get("creation_timestamp")
    return found


def _version_of(path: str) -> str | None:
    folder = path.split("/", 1)[0]
    return folder if folder.startswith("version-") else None


def _updated(model: Entity) -> int:
    at = model.meta.get("last_updated_timestamp")
    return at if isinstance(at, int) else 0
