"""An entity as a folder: what MLflow's own file store reads and writes.

A working folder also keeps the entity's notes. The file store does not know them, so they are
brought up to date by looking: a file's modification time is the time it was written, a file that
the notes name and that is gone was deleted, a register of `meta.yaml` that differs from the last
known one was set. All of this survives a kill, as it lies on the disk.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kaggleops.layout import ARTIFACTS, EntityId, Kind, experiment, is_experiment_id, parse_key
from kaggleops.mlruns.entity import (
    FOLDERS,
    META,
    NOTES,
    BrokenEntityError,
    Entity,
    Notes,
    Role,
    Stamp,
    dump_yaml,
    parse_yaml,
    role_of,
)
from kaggleops.mlruns.merge_rules import REGISTERS, status_rank

TRASH = ".trash"
"""Where the file store keeps deleted experiments."""


@dataclass(frozen=True)
class Base:
    """What was last known of an entity: its notes, and the fields of its `meta.yaml`."""

    notes: Notes = field(default_factory=Notes)
    meta: Mapping[str, Any] | None = None


def now_ms() -> int:
    """Return the time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def read_folder(entity_id: EntityId, folder: Path, base: Base | None = None) -> Entity:
    """Read an entity from its folder; artifacts that lie in it are left where they are.

    `base` is what was last known of it; None for a folder that no notes were kept of, whose entity
    then gets none either (a merge takes it for older than anything noted). Raises
    BrokenEntityError where the folder holds no such entity.
    """
    files: dict[str, bytes] = {}
    times: dict[str, int] = {}
    folders: set[str] = set()
    for path, entry in _walk(entity_id.kind, folder):
        if entry.is_dir(follow_symlinks=False):
            folders.add(path)
        elif entry.is_file(follow_symlinks=False):
            file = Path(entry.path)
            # The time first: a write between the two calls is then seen again next time.
            times[path] = file.stat().st_mtime_ns // 1_000_000
            files[path] = file.read_bytes()
    if not files:
        raise BrokenEntityError(f"reading {entity_id} from {folder}", "nothing is there")
    if base is not None and base.meta and _torn(files.get(META, b""), base.meta):
        files[META] = dump_yaml(base.meta)
    entity = Entity(entity_id, files, frozenset(folders))
    if base is None:
        return entity
    return Entity(entity_id, files, entity.folders, _observe(entity, base, times, folder))


def mend(folder: Path, base: Base) -> None:
    """Write an entity's `meta.yaml` as it was last known, if half of it is all that is there."""
    file = folder / META
    there = file.read_bytes() if file.exists() else b""
    if base.meta and folder.is_dir() and _torn(there, base.meta):
        replace_file(file, dump_yaml(base.meta), folder)


_MAY_GO = {"deleted_time", "lifecycle_stage"}
"""The fields of `meta.yaml` that MLflow ever takes away: of a restored run, of a ready model."""


def _torn(data: bytes, known: Mapping[str, Any]) -> bool:
    # MLflow truncates the file and writes it anew: a kill or a full disk may leave half of it,
    # which can still be YAML.
    try:
        meta = parse_yaml(data, "")
    except BrokenEntityError:
        return True
    return not data.endswith(b"\n") or bool(known.keys() - meta.keys() - _MAY_GO)


def _walk(kind: Kind, root: Path, below: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    with os.scandir(root / below) as entries:
        for entry in entries:
            path = f"{below}/{entry.name}" if below else entry.name
            # An experiment's folder also holds its runs, models, traces: entities themselves.
            own = kind is not Kind.EXPERIMENT or path.split("/", 1)[0] in (META, "tags")
            if path.startswith(NOTES) or entry.is_symlink() or not own:
                continue
            yield path, entry
            if entry.is_dir() and path != ARTIFACTS:
                yield from _walk(kind, root, path)


def links_in(entity_id: EntityId, folder: Path) -> Iterator[Path]:
    """Yield the links in an entity's folder, which `read_folder` passes over."""
    for path, folders, names in os.walk(folder):
        if Path(path) == folder and ARTIFACTS in folders:
            folders.remove(ARTIFACTS)
        if entity_id.kind is Kind.EXPERIMENT and Path(path) == folder:
            folders[:] = [each for each in folders if each == "tags"]
        links = (Path(path, each) for each in (*folders, *names))
        yield from (each for each in links if each.is_symlink())


def _observe(entity: Entity, base: Base, times: Mapping[str, int], folder: Path) -> Notes:
    notes = base.notes.copy()
    for path, at in times.items():
        if role_of(entity.id.kind, path) is Role.WRITTEN and notes.written.get(path) != at:
            # Later than what was known, whatever this machine's clock says.
            known = max(notes.written.get(path, -1), notes.deleted.pop(path, -1))
            notes.written[path] = max(at, known + 1)
            if notes.written[path] != at:
                _set_time(folder / path, notes.written[path])
    for path in notes.written.keys() - entity.files.keys():
        notes.deleted[path] = max(now_ms(), notes.written.pop(path) + 1)
    if role_of(entity.id.kind, META) is Role.META:
        _observe_meta(entity, base, times.get(META, 0), notes)
    return notes


def _observe_meta(entity: Entity, base: Base, at: int, notes: Notes) -> None:
    known = base.meta
    for name, fields in REGISTERS[entity.id.kind].items():
        old = notes.registers.get(name, Stamp())
        if known is not None and all(entity.meta.get(f) == known.get(f) for f in fields):
            continue
        stamp = Stamp(old.round, 0, max(at, old.at + 1))
        if name == "status":
            kind, status = entity.id.kind, entity.meta.get("status")
            rank = status_rank(kind, status)
            resumed = rank < old.rank  # nobody goes back but on purpose
            stamp = Stamp(old.round + resumed, rank, stamp.at)
        notes.registers[name] = stamp


def entities_in(mlruns: Path, *, homeless: bool = False) -> Iterator[tuple[EntityId, Path]]:
    """Yield every entity of a file-store `mlruns` with its folder, experiments before their runs.

    Folders that are no entity (one without its `meta.yaml`, a stray file) are skipped. `homeless`
    yields what is in an experiment that is not there, too: a copy may have brought a run alone.
    """
    for home in (mlruns, mlruns / TRASH):
        for folder in _folders(home):
            if not is_experiment_id(folder.name):
                continue
            if there := (folder / META).is_file():
                yield experiment(folder.name), folder
            if there or homeless:
                yield from _entities_of(folder)
    for folder in _folders(mlruns / "models"):
        if (folder / META).is_file():
            yield EntityId(Kind.REGISTERED_MODEL, "", folder.name), folder


def _entities_of(home: Path) -> Iterator[tuple[EntityId, Path]]:
    for kind, below in (
        (Kind.DATASET, "datasets"),
        (Kind.RUN, ""),
        (Kind.LOGGED_MODEL, "models"),
        (Kind.TRACE, "traces"),
    ):
        for folder in _folders(home / below):
            entity_id = EntityId(kind, home.name, folder.name)
            main_file = "trace_info.yaml" if kind is Kind.TRACE else META
            if parse_key(entity_id.key) == entity_id and (folder / main_file).is_file():
                yield entity_id, folder


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.is_symlink())


def write_folder(entity: Entity, folder: Path, *, notes: bool = True) -> None:
    """Make the folder hold exactly this entity, changing only what differs.

    What lies under its `artifacts/` stays. `notes=False` is for a folder meant for other tools.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = entity.folders | FOLDERS.get(entity.id.kind, frozenset())
    # Deepest first, and before anything is made: a file may have become a folder.
    for path, entry in sorted(_walk(entity.id.kind, folder), reverse=True):
        if entry.is_dir():
            if path not in wanted:
                (folder / path).rmdir()
        elif path not in entity.files:
            (folder / path).unlink()
    for path in sorted(wanted):
        (folder / path).mkdir(exist_ok=True)
    for path, data in entity.files.items():
        file = folder / path
        if not file.is_file() or file.read_bytes() != data:
            replace_file(file, data, folder)
        if (at := entity.notes.written.get(path)) is not None:
            _set_time(file, at)
    if notes:
        write_base(entity, folder)


def write_base(entity: Entity, folder: Path) -> None:
    """Keep in the folder what is now known of its entity."""
    meta = entity.meta if META in entity.files else None
    content = {"notes": entity.notes.to_json(), "meta": meta}
    replace_file(folder / NOTES, json.dumps(content, default=str).encode(), folder)


def read_base(folder: Path) -> Base:
    """Return what was last known of the folder's entity: nothing, where no notes were kept.

    Raises BrokenEntityError if the notes cannot be read.
    """
    doing = f"reading {folder / NOTES}"
    try:
        content = json.loads((folder / NOTES).read_bytes())
        return Base(Notes.from_json(content["notes"], doing), content["meta"])
    except FileNotFoundError:
        return Base()
    except (ValueError, TypeError, KeyError) as error:
        raise BrokenEntityError(doing, f"the notes are not readable ({error})") from error


def replace_file(file: Path, data: bytes, temporary_in: Path) -> None:
    """Write a file so that no reader, and no kill, ever sees half of it.

    A kill may leave the half-written file in `temporary_in`: an entity's own folder, where nobody
    takes it for a tag or a metric.
    """
    handle, temporary = tempfile.mkstemp(dir=temporary_in, prefix=NOTES)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _set_time(file: Path, at_ms: int) -> None:
    os.utime(file, ns=(at_ms * 1_000_000, at_ms * 1_000_000))
