"""A folder of unpacked entities that MLflow's file store works on, and which of them changed."""

import logging
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kaggleops.bucket import ABSENT, Version
from kaggleops.mlruns import Entity, EntityId, Kind
from kaggleops.mlruns.entity import META
from kaggleops.mlruns.folder import TRASH, Base, mend, read_folder, write_folder
from kaggleops.mlruns.merge_rules import BESIDE, make_room, renamed
from kaggleops.tracking.live import LiveRuns
from kaggleops.tracking.metric_log import Earlier, MetricLog

_log = logging.getLogger("kaggleops")


@dataclass
class Known:
    """What this process knows of an entity in the bucket."""

    version: Version = ABSENT
    base: Base = field(default_factory=Base)

    @classmethod
    def of(cls, entity: Entity, version: Version) -> "Known":
        """What there is to know of an entity at a version."""
        return cls(version, base_of(entity))


def base_of(entity: Entity) -> Base:
    """Return what to remember of an entity, to tell later what was changed."""
    return Base(entity.notes, entity.meta if META in entity.files else None)


class WorkingFolder:
    """This process's own folder. Everything in it may be lost but what is unsent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "mlruns"
        (self.root / TRASH).mkdir(parents=True)
        self.lock = threading.RLock()
        self.metric_logs: dict[str, MetricLog] = {}
        """Metric files held open, by run id; closed whenever the files are replaced."""
        self.earlier: dict[str, Earlier] = {}
        """What earlier legs of a run logged, by run id."""
        self.live = LiveRuns()
        self.known: dict[EntityId, Known] = {}
        self._dirty: set[EntityId] = set()
        self._being_sent: set[EntityId] = set()
        self.experiment_of: dict[tuple[Kind, str], str] = {}
        self._inside = threading.local()
        self._warned: set[str] = set()
        self.own_params: dict[tuple[str, str], str] = {}
        """What this process logged, by run and param."""

    def move(self, folder: Path) -> None:
        """Go on in another folder, which is this process's and empty: this one's disk is full.

        After an OSError (it cannot be written either), this one stays what is worked on.
        """
        with self.lock:
            for log in self.metric_logs.values():
                log.close()
            self.metric_logs.clear()
            # Under its name once it is whole: what dies half-way leaves no half behind to be sent.
            shutil.copytree(self.root, folder / "unfinished").rename(folder / self.root.name)
            self.folder, self.root = folder, folder / "mlruns"
            for entity_id, known in self.known.items():
                mend(self.path(entity_id), known.base)

    # -- where things lie ---------------------------------------------------------------------

    def path(self, entity_id: EntityId) -> Path:
        """Return the entity's folder; a deleted experiment's lies in the trash."""
        if entity_id.kind is not Kind.REGISTERED_MODEL:
            trashed = self.root / TRASH / entity_id.experiment_id
            if trashed.is_dir():
                return self.root / TRASH / entity_id.folder
        return self.root / entity_id.folder

    def held(self, kind: Kind, experiment_id: str) -> list[EntityId]:
        """Return the entities of a kind of one experiment that are here."""
        here = list(self.known)
        return [each for each in here if each.kind is kind and each.experiment_id == experiment_id]

    def in_bucket(self, entity_id: EntityId) -> bool:
        """Tell whether the bucket is known to have the entity."""
        return self.known.get(entity_id, Known()).version != ABSENT

    def file_for(self, entity_id: EntityId, path: str) -> Path:
        """Return the file of a metric, param or tag.

        One called `acc` and one called `acc/val` cannot lie in one folder: there, as where two
        machines' versions merge, the one without the slash gets another name.
        """
        folder = self.path(entity_id)
        wanted = path
        while (folder / path).is_dir():
            path += BESIDE
        parts = path.split("/")
        above = ["/".join(parts[:end]) for end in range(2, len(parts))]
        with self.lock:
            in_the_way = [each for each in above if (folder / each).is_file()]
            if in_the_way:
                entity = self.read(entity_id)
                entity = make_room(entity, entity.folders.union(in_the_way))
                self.close_log(entity_id)
                write_folder(entity, folder)
                self.known[entity_id].base = base_of(entity)
        for each in in_the_way or [wanted] * (wanted != path):
            said = renamed(entity_id, each)
            self.warn_once(said, said)
        return folder / path

    def close_log(self, entity_id: EntityId) -> None:
        """Close a run's metric files, if they are open: they are about to be replaced."""
        if entity_id.kind is Kind.RUN and (log := self.metric_logs.pop(entity_id.name, None)):
            log.close()

    # -- what is here -------------------------------------------------------------------------

    def adopt(self, entity_id: EntityId, known: Known | None = None) -> None:
        """Record an entity that is now in the folder."""
        self.known[entity_id] = known or Known()
        self.experiment_of[entity_id.kind, entity_id.name] = entity_id.experiment_id

    def forget(self, entity_id: EntityId) -> None:
        """Remove an entity that is no longer in the bucket, with what lies in its folder."""
        with self.lock:
            if entity_id.kind is Kind.EXPERIMENT:
                home = entity_id.experiment_id
                for each in [each for each in self.known if each.experiment_id == home]:
                    if each != entity_id:
                        self.forget(each)
            self.known.pop(entity_id, None)
            self._dirty.discard(entity_id)
            self.experiment_of.pop((entity_id.kind, entity_id.name), None)
            self.close_log(entity_id)
            shutil.rmtree(self.path(entity_id), ignore_errors=True)

    def read(self, entity_id: EntityId) -> Entity:
        """Read an entity from the folder, its notes brought up to date."""
        known = self.known.setdefault(entity_id, Known())
        return read_folder(entity_id, self.path(entity_id), known.base)

    # -- changes ------------------------------------------------------------------------------

    @property
    def inside(self) -> bool:
        """Whether this thread holds the folder still: then nothing is looked up anew."""
        return getattr(self._inside, "depth", 0) > 0

    @contextmanager
    def still(self) -> Iterator[None]:
        """Hold the folder still: no other thread, and nothing from the bucket, changes it."""
        with self.lock:
            self._inside.depth = getattr(self._inside, "depth", 0) + 1
            try:
                yield
            finally:
                self._inside.depth -= 1

    @contextmanager
    def changing(self, *entity_ids: EntityId) -> Iterator[None]:
        """Hold the folder still for a change of these entities, and note that they changed."""
        with self.still():
            try:
                yield
            finally:
                # Also after an error: the file store may have written half of what it was told.
                self._dirty.update(entity_ids)

    def changed(self, entity_id: EntityId) -> None:
        """Note that an entity changed."""
        self._dirty.add(entity_id)

    @property
    def unsent(self) -> list[EntityId]:
        """The entities that hold something the bucket does not."""
        with self.lock:
            return sorted(self._dirty)

    @property
    def experiments_in_use(self) -> set[str]:
        """The experiments of live runs, and of whatever is unsent."""
        with self.lock:
            in_use = {each.experiment_id for each in (*self._dirty, *self.live.runs)}
        return in_use - {""}

    # -- warnings -----------------------------------------------------------------------------

    def warn_once(self, about: str, message: str) -> None:
        """Log a warning, the first time that it is about this."""
        if about not in self._warned:
            self._warned.add(about)
            _log.warning("%s", message)

    def warn_again(self, about: str) -> None:
        """Let the next warning about this be logged: the problem was gone meanwhile."""
        self._warned.discard(about)
