"""A file-store `mlruns` taken into a bucket, again and again if need be.

- What the source has and the bucket has not is brought; a second import changes nothing.
- What was edited in the bucket since is not undone. All that is imported is noted as written before
  anything that MLflow wrote, so a later note tells of an edit in the bucket, which stays. What has
  no later note came from an earlier import: what the source says now is newer. Merging alone cannot
  tell that, and takes both for equally old.
- Artifacts come too, those in other buckets as well, and every location leads to the bucket
  afterwards; what had to stay elsewhere is named. Of two versions of an artifact the later written
  one stays.
- An experiment whose name the bucket has under another id is taken into that one.
- What is broken, here or there, is named and skipped.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kaggleops.bucket import ABSENT, Version
from kaggleops.layout import EntityId, Kind, is_model_name
from kaggleops.mlruns.archive import check_packable
from kaggleops.mlruns.change_log import ChangeLog
from kaggleops.mlruns.entity import (
    FOLDERS,
    META,
    BrokenEntityError,
    Entity,
    Notes,
    Role,
    Stamp,
    dump_yaml,
    parse_yaml,
    role_of,
)
from kaggleops.mlruns.export import WORKERS, batches
from kaggleops.mlruns.folder import entities_in, links_in, read_folder
from kaggleops.mlruns.import_artifacts import Carrier
from kaggleops.mlruns.import_sources import Source, linked, with_commit
from kaggleops.mlruns.locations import artifact_path, follow_runs
from kaggleops.mlruns.merge_rules import REGISTERS, merge_onto, status_rank
from kaggleops.mlruns.store import EntityStore
from kaggleops.printable import quoted

IMPORTED_AT = 946_684_800_000
"""When all that is imported is noted as written: on 2000-01-01, in milliseconds since the epoch."""


def noted_as_imported(entity: Entity) -> Entity:
    """Return a source's entity with notes: only what was once written can be seen to be deleted."""
    kind = entity.id.kind
    written = {path: IMPORTED_AT for path in entity.files if role_of(kind, path) is Role.WRITTEN}
    return replace(entity, notes=Notes(written=written))


def catch_up(stored: Entity, source: Entity) -> tuple[Entity, list[str]]:
    """Return what the bucket should hold, `stored` itself if the source brings nothing new; and
    what differs there from the source (which is noted as imported), a sentence each.
    Raises BrokenEntityError where the two cannot be merged.
    """
    clashes, renamed = list[str](), list[str]()
    if stored.id.kind is Kind.REGISTERED_MODEL:
        caught_up, clashes = _catch_up_model(stored, source)
    else:
        caught_up, renamed = merge_onto(_overtaken(stored, source), source)
    same = caught_up.files == stored.files and caught_up.folders == stored.folders
    return (stored, clashes) if same else (caught_up, clashes + renamed)


def _overtaken(stored: Entity, source: Entity) -> Entity:
    """Return `stored` with what the source says where nobody has edited it in the bucket."""
    kind = stored.id.kind
    files = dict(stored.files)
    for path, data in source.files.items():
        if path not in files:
            continue
        role = role_of(kind, path)
        unedited = role is Role.WRITTEN and stored.notes.written.get(path, 0) <= IMPORTED_AT
        # A file that only grew keeps the order in which it was written.
        grown = role is Role.POINTS and data.startswith(files[path])
        if unedited or grown:
            files[path] = data
    if role_of(kind, META) is Role.META:
        files[META] = _overtaken_meta(stored, source)
    return replace(stored, files=files)


def _overtaken_meta(stored: Entity, source: Entity) -> bytes:
    meta, kind = dict(stored.meta), stored.id.kind
    ranks = [status_rank(kind, each.meta.get("status")) for each in (source, stored)]
    for name, fields in REGISTERS[kind].items():
        stamp = stored.notes.registers.get(name, Stamp())
        if stamp.at or stamp.round:
            continue
        if name == "status" and ranks[0] < ranks[1]:
            continue  # an older copy of a run that has ended since
        meta.update({each: source.meta[each] for each in fields if each in source.meta})
    if meta == source.meta:
        return source.files[META]
    return stored.files[META] if meta == stored.meta else dump_yaml(meta)


def _catch_up_model(stored: Entity, source: Entity) -> tuple[Entity, list[str]]:
    # The registry keeps no notes, but a time of its own, which every change of a model sets.
    ours, theirs = _versions(stored), _versions(source)
    # Their number was given twice, once in the bucket and once where the source comes from.
    clashes = [
        f"importing {stored.id}: the bucket has another {version}, and keeps it."
        for version in sorted(ours.keys() & theirs.keys())
        if ours[version] != theirs[version]
    ]
    times = [each.meta.get("last_updated_timestamp") for each in (source, stored)]
    updated = [each if isinstance(each, int) else 0 for each in times]
    source_is_newer = updated[0] > updated[1]

    def brought(path: str) -> bool:
        version = _version_of(path)
        if version is None:
            return source_is_newer
        if version not in ours:
            return version in theirs
        return source_is_newer and ours[version] == theirs.get(version)

    files = {path: data for path, data in source.files.items() if brought(path)}
    folders = {path for path in source.folders if brought(path)}
    both = {**stored.files, **files}
    return replace(stored, files=both, folders=stored.folders | folders), clashes


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


_LONG_ID = 8
"""From this length on, MLflow draws ids at random; shorter ones only count 0, 1, 2."""

_TRACE_INFO = "trace_info.yaml"


@dataclass
class Imported:
    """What became of an import."""

    new: list[EntityId] = field(default_factory=list)  # what the bucket did not have
    # what the source has more of than the bucket had
    changed: list[EntityId] = field(default_factory=list)
    unchanged: int = 0
    artifacts: int = 0  # how many artifacts were copied
    artifacts_size: int = 0  # how many bytes they have
    problems: list[str] = field(default_factory=list)  # what was passed over, and why


Progress = Callable[[int, int, int, int], None]
"""Called with how many entities were looked at, how many there are, how many artifacts were copied
and how many bytes these have; from any thread."""


def import_into(
    store: EntityStore, source: Source, progress: Progress = lambda *_: None
) -> Imported:
    """Make the bucket hold what a file-store `mlruns` holds, besides what it holds already."""
    store.bucket.prepare()
    return _Import(store, source, progress).run()


_Due = tuple[Entity, Version]
"""An entity to write, and the version that it replaces."""


class _Import:
    def __init__(self, store: EntityStore, source: Source, progress: Progress) -> None:
        self._store = store
        self._source = source
        self._there = {entity_id for entity_id, _ in store.every()}
        self._progress = progress
        self._done = self._all = 0
        self._carrier = Carrier(source, store.bucket, store.artifact_root, self._tell)
        self._log = ChangeLog(store.bucket)
        self._homes: dict[str, str] = {}
        self._runs: dict[str, str] = {}
        """Where the artifacts of each run lie in the bucket."""
        self._unchanged: list[EntityId] = []
        self._result = Imported()

    def _tell(self) -> None:
        self._progress(self._done, self._all, self._carrier.carried, self._carrier.size)

    def run(self) -> Imported:
        found = list(entities_in(self._source.folder))
        self._all = len(found)
        with ThreadPoolExecutor(WORKERS) as pool:
            self._find_homes([each for each in found if each[0].kind is Kind.EXPERIMENT], pool)
            self._runs = {
                each.name: self._store.artifact_root
                + artifact_path(replace(each, experiment_id=self._homes[each.experiment_id]))
                for each, _ in found
                if each.kind is Kind.RUN and each.experiment_id in self._homes
            }
            for batch in batches(found):
                due = []
                for each in pool.map(self._prepare, batch):
                    due += [] if each is None else [each]
                    self._done += 1
                    self._tell()
                self._write(due, pool)
        self._result.unchanged = len(self._unchanged)
        self._result.artifacts = self._carrier.carried
        self._result.artifacts_size = self._carrier.size
        self._result.problems += dict.fromkeys(self._source.problems)
        self._result.problems += [*dict.fromkeys(self._carrier.problems), *self._carrier.left()]
        return self._result

    # -- which experiment is which ------------------------------------------------------------

    def _find_homes(
        self, experiments: Sequence[tuple[EntityId, Path]], pool: ThreadPoolExecutor
    ) -> None:
        """Decide in which of the bucket's experiments each of the source's belongs."""
        there_ids = [each for each in self._there if each.kind is Kind.EXPERIMENT]
        stored = {
            entity.id.experiment_id: entity
            for entity in pool.map(self._store.readable, there_ids)
            if entity is not None
        }
        ids = {str(each.meta.get("name")): home for home, each in stored.items()}
        for entity_id, folder in experiments:
            home = entity_id.experiment_id
            entity = self._read_source(entity_id, folder)
            if entity is None:
                continue
            name = str(entity.meta.get("name"))
            there = stored.get(home)
            if there is not None and not _is_same(entity, there):
                other = quoted(str(there.meta.get("name")))
                self._result.problems.append(
                    f"importing experiment {home}, {quoted(name)}: experiment {home} of the bucket "
                    f"is {other}, another one. Import it into a bucket of its own."
                )
            else:
                self._homes[home] = home if there is not None else ids.get(name, home)

    # -- reading and combining ----------------------------------------------------------------

    def _prepare(self, found: tuple[EntityId, Path]) -> _Due | None:
        entity_id, folder = found
        home = self._homes.get(entity_id.experiment_id, "")
        if not home and entity_id.kind is not Kind.REGISTERED_MODEL:
            return None  # of an experiment that was named and passed over
        entity = self._read_source(entity_id, folder)
        if entity is None:
            return None
        new_id = replace(entity_id, experiment_id=home)
        try:
            if entity_id.kind is Kind.REGISTERED_MODEL:
                entity = follow_runs(entity, self._runs)
            return self._combine(_moved(self._carrier.carry(entity, folder, new_id), new_id))
        except BrokenEntityError as error:
            self._result.problems.append(str(error))
            return None

    def _read_source(self, entity_id: EntityId, folder: Path) -> Entity | None:
        doing = f"importing {folder.relative_to(self._source.folder)} of {self._source.name}"
        try:
            if entity_id.kind is Kind.REGISTERED_MODEL and not is_model_name(entity_id.name):
                raise BrokenEntityError(doing, "MLflow does not allow that name")
            entity = with_commit(read_folder(entity_id, folder))
            self._source.problems += map(linked, links_in(entity_id, folder))
            # A copy may have lost empty folders.
            wanted = FOLDERS.get(entity_id.kind, frozenset())
            entity = noted_as_imported(replace(entity, folders=entity.folders | wanted))
            check_packable(entity, doing)
        except (BrokenEntityError, OSError) as error:
            also = " So was all that is in it." if entity_id.kind is Kind.EXPERIMENT else ""
            self._result.problems.append(f"{error} It was skipped.{also}")
            return None
        return entity

    def _combine(self, entity: Entity) -> _Due | None:
        if entity.id not in self._there:
            self._result.new.append(entity.id)
            return entity, ABSENT
        stored = self._store.read(entity.id)
        wanted, different = catch_up(stored.entity, entity)
        self._result.problems += different
        if wanted is stored.entity:
            self._unchanged.append(entity.id)
            return None
        self._result.changed.append(entity.id)
        return wanted, stored.version

    # -- writing ------------------------------------------------------------------------------

    def _write(self, due: Sequence[_Due], pool: ThreadPoolExecutor) -> None:
        ids = [entity.id for entity, _ in due]
        self._log.announce(ids)
        for problems in pool.map(self._write_one, due):
            self._result.problems += problems
        self._log.close(entity_id for entity_id in ids if entity_id.kind is Kind.RUN)

    def _write_one(self, due: _Due) -> list[str]:
        try:
            return self._store.merge_in(due[0], known=due[1]).renamed
        except BrokenEntityError as error:
            return [str(error)]


def _is_same(a: Entity, b: Entity) -> bool:
    """Tell whether two experiments of one id are one: renamed at most."""
    if len(a.id.experiment_id) >= _LONG_ID or a.meta.get("name") == b.meta.get("name"):
        return True
    made = a.meta.get("creation_time")
    return made is not None and made == b.meta.get("creation_time")


def _moved(entity: Entity, new_id: EntityId) -> Entity:
    """Return the entity as one of another experiment."""
    if entity.id == new_id:
        return entity
    if entity.id.kind is Kind.TRACE:
        text = entity.files[_TRACE_INFO]
        meta = parse_yaml(text, f"reading {_TRACE_INFO} of {entity.id}")
        location = meta.get("trace_location")
        inner = location.get("mlflow_experiment") if isinstance(location, dict) else None
        # An older trace has its experiment's id beside its own.
        (inner if isinstance(inner, dict) else meta)["experiment_id"] = new_id.experiment_id
        files = {**entity.files, _TRACE_INFO: dump_yaml(meta)}
    elif "experiment_id" in entity.meta:
        meta = {**entity.meta, "experiment_id": new_id.experiment_id}
        files = {**entity.files, META: dump_yaml(meta)}
    else:
        files = dict(entity.files)
    return Entity(new_id, files, entity.folders, entity.notes)
