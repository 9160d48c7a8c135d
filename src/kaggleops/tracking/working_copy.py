"""The part of a bucket that this process works on, as a folder MLflow's file store understands.

Every process has its own folder, so nobody waits for anybody's locks; processes and machines meet
in the bucket, where versions merge. What is logged goes to the disk at once (a kill loses none of
it there) and from the disk to the bucket when it is sent.
"""

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from mlflow.entities import RunStatus

from kaggleops.bucket import (
    ABSENT,
    BucketError,
    BucketUnavailableError,
    ObjectNotFoundError,
    Version,
)
from kaggleops.errors import KaggleOpsError
from kaggleops.layout import is_experiment_id
from kaggleops.mlruns import (
    BrokenEntityError,
    Entity,
    EntityId,
    EntityStore,
    Kind,
    Stored,
    experiment,
)
from kaggleops.mlruns.archive import pack
from kaggleops.mlruns.entity import META
from kaggleops.mlruns.folder import TRASH, now_ms, replace_file, write_base, write_folder
from kaggleops.mlruns.merge_rules import ENDED, merge_onto, status_rank
from kaggleops.tracking.outbox import disk_is_full
from kaggleops.tracking.working_folder import Known, WorkingFolder, base_of

HANDED_OVER = "KAGGLEOPS_HANDED_OVER"
"""The environment variable that tells a project's process where `leave` has put its run."""
_BEGUN_FOR = "begun-for"

_WORKERS = 16


class WorkingCopy(WorkingFolder):
    """A folder of unpacked entities, this process's own, each fetched when it is needed."""

    def __init__(self, store: EntityStore, folder: Path) -> None:
        super().__init__(folder)
        self.store = store
        self._sending = threading.Lock()
        self.killed: Callable[[EntityId], None] = lambda run: None
        """Called when a live run comes back from the bucket as KILLED."""
        self.home_of: Callable[[Kind, str], str | None] = lambda *_: None
        """Where somebody else believes an entity to be, by its id: that spares a listing."""
        self.always_fresh = False
        """Whether `bring` always looks for a newer version."""

    def locate(self, kind: Kind, name: str, *, refresh: bool = False) -> EntityId | None:
        """Find an entity by its id, here or in the bucket, and `bring` it here."""
        home = self.experiment_of.get((kind, name))
        if home is not None:
            entity_id = EntityId(kind, home, name)
            return entity_id if self.bring(entity_id, refresh=refresh) else None
        if self.inside:
            homes = (each.name for each in self.root.iterdir() if is_experiment_id(each.name))
            made = (EntityId(kind, home, name) for home in homes)
            if found := next(filter(self._just_made, made), None):
                self.adopt(found)
                return found
        # MLflow tells a project's process which experiment its run belongs to: that spares a list.
        hint = os.environ.get("MLFLOW_EXPERIMENT_ID") if kind is Kind.RUN else None
        for home in filter(None, (hint, self.home_of(kind, name))):
            entity_id = EntityId(kind, home, name)
            if is_experiment_id(home) and self.bring(entity_id):
                return entity_id
        found = self.store.find(kind, name)
        return found if found is not None and self.bring(found) else None

    def _just_made(self, entity_id: EntityId) -> bool:
        folder = self.path(entity_id)
        return (folder / META).exists() or (folder / "trace_info.yaml").exists()

    # -- from the bucket ----------------------------------------------------------------------

    def bring(self, entity_id: EntityId, *, refresh: bool = False) -> bool:
        """Make sure that the entity is here; return False if there is none.

        With `refresh`, a newer version is fetched even if it is here, if the bucket can be reached.
        Raises BrokenEntityError if what the bucket has cannot be read.
        """
        if entity_id not in self.known and self._take_over(entity_id):
            refresh = True
        while True:
            known = self.known.get(entity_id)
            if known is not None and (not (refresh or self.always_fresh) or self.inside):
                return True
            if known is None and self.inside and self._just_made(entity_id):
                self.adopt(entity_id)
                return True
            version = known.version if known else None
            try:
                stored = self.store.read_unless(entity_id, version)
            except ObjectNotFoundError:
                return self._gone(entity_id)
            except BucketError as error:
                if known is None:
                    raise
                self.warn_once("reading", f"{error} What is known here has to do meanwhile.")
                return True
            self.live.looked_at(entity_id)
            if stored is None or self._take(stored, version):
                return True

    def _gone(self, entity_id: EntityId) -> bool:
        """The bucket does not have the entity; tell whether it is here all the same."""
        known = self.known.get(entity_id)
        if known is None or known.version == ABSENT or entity_id in self._dirty:
            return known is not None
        wanted = entity_id in self.live
        if entity_id.kind is Kind.EXPERIMENT:
            wanted = entity_id.experiment_id in self.experiments_in_use
        if not wanted:
            self.forget(entity_id)
            return False
        # What a run logged before somebody emptied the bucket is still here: it goes there again,
        # and its experiment with it.
        known.version = ABSENT
        self.changed(entity_id)
        return True

    def bring_all(self, kind: Kind, experiment_id: str = "") -> None:
        """Bring every entity of a kind (of one experiment) here, in its newest version."""
        if self.inside:
            return
        try:
            found = self.store.list(kind, experiment_id)
            listed = {entity_id: entry.version for entity_id, entry in found}
        except BucketUnavailableError as error:
            self.warn_once("reading", str(error))
            return
        here = [each for each in list(self.known) if each.kind is kind]
        for entity_id in here:
            in_scope = kind is Kind.EXPERIMENT or entity_id.experiment_id == experiment_id
            sent = self.in_bucket(entity_id) and entity_id not in self._dirty
            if in_scope and sent and entity_id not in listed:
                self._gone(entity_id)
        known = self.known
        changed = [each for each in listed if known.get(each, Known()).version != listed[each]]
        with ThreadPoolExecutor(_WORKERS) as pool:  # it begins no more threads than it needs
            list(pool.map(self.bring_readable, changed))

    def bring_readable(self, entity_id: EntityId) -> None:
        """Bring the newest version here; a broken one is a warning, so that it hides no other."""
        try:
            self.bring(entity_id, refresh=True)
        except BrokenEntityError as error:
            self.warn_once(entity_id.key, str(error))

    def _take(self, stored: Stored, known: Version | None) -> bool:
        """Take what was read; False if another thread's answer, which may be newer, was faster."""
        entity = stored.entity
        with self.lock:
            now = self.known.get(entity.id)
            if (now.version if now else None) != known:
                return False
            if entity.id in self._dirty or entity.id in self._being_sent:
                entity = self._merged(self.read(entity.id), entity)
            self._put(entity, stored.version)
            return True

    def _put(self, entity: Entity, version: Version) -> None:
        """Make folder and memory agree on an entity (under the lock)."""
        self._move_experiment(entity)
        self.close_log(entity.id)
        write_folder(entity, self.path(entity.id))
        self.adopt(entity.id, Known.of(entity, version))
        if entity.id in self.live and status_rank(Kind.RUN, entity.meta.get("status")) == ENDED:
            self.live.end(entity.id)
            if entity.meta["status"] == RunStatus.KILLED:
                self.killed(entity.id)

    def _merged(self, ours: Entity, theirs: Entity) -> Entity:
        merged, renamed = merge_onto(theirs, ours)
        for each in renamed:
            self.warn_once(each, each)
        return merged

    def _move_experiment(self, entity: Entity) -> None:
        # The file store keeps a deleted experiment, with all that is in it, in the trash.
        if entity.id.kind is Kind.EXPERIMENT:
            deleted = entity.meta.get("lifecycle_stage") == "deleted"
            old = self.path(entity.id)
            new = self.root / (TRASH if deleted else "") / entity.id.folder
            if old != new and old.is_dir():
                old.rename(new)
            elif deleted:
                new.mkdir(exist_ok=True)

    def delete(self, entity_id: EntityId) -> None:
        """Delete an entity for good, here and in the bucket."""
        self.store.delete(entity_id)
        self.forget(entity_id)

    # -- from another process -----------------------------------------------------------------

    def leave(self, run: EntityId) -> Path:
        """Leave what is known of a run to the process that will run it, without the bucket too."""
        folder = self.folder / "handed-over"
        home = experiment(run.experiment_id)
        for entity_id in (home, run, *self.held(Kind.DATASET, run.experiment_id)):
            with self.lock:
                entity, version = self.read(entity_id), self.known[entity_id].version
            file = folder / entity_id.key
            with suppress(OSError):  # on a full disk that process needs the bucket
                file.parent.mkdir(parents=True, exist_ok=True)
                replace_file(file, f"{version}\n".encode() + pack(entity), file.parent)
        with suppress(OSError):
            told = f"{self.store.bucket.uri}\n{run.name}"
            replace_file(folder / _BEGUN_FOR, told.encode(), folder)
        return folder

    def begun_for(self) -> str | None:
        """Return the id of the run of this bucket that another process began this one for."""
        if not (folder := os.environ.get(HANDED_OVER)):
            return None
        try:
            uri, _, run_id = Path(folder, _BEGUN_FOR).read_text().partition("\n")
        except OSError:
            return None
        return run_id if uri == self.store.bucket.uri else None

    def _take_over(self, entity_id: EntityId) -> bool:
        """Bring here what another process has handed over of an entity; tell whether it has."""
        if not (folder := os.environ.get(HANDED_OVER)):
            return False
        try:
            version, _, packed = Path(folder, entity_id.key).read_bytes().partition(b"\n")
        except OSError:
            return False
        with self.lock:
            if entity_id not in self.known:  # else another thread was faster
                self._put(self.store.unpack(entity_id, packed), version.decode())
        return True

    # -- to the bucket ------------------------------------------------------------------------

    def send(self, entity_ids: Iterable[EntityId] | None = None) -> None:
        """Send what changed (of these entities), merged with what others wrote.

        Raises:
            KaggleOpsError: the first that could not be sent; every other one was tried, unless
                the bucket cannot be reached.
            OSError: this folder's disk is full.
        """
        failure: KaggleOpsError | None = None
        with self._sending:
            wanted = None if entity_ids is None else set(entity_ids)
            unsent = [each for each in self.unsent if wanted is None or each in wanted]
            if len(unsent) > 1:
                self.store.announce(unsent)
            for entity_id in unsent:
                try:
                    self._send(entity_id)
                except BucketUnavailableError as error:
                    failure = failure or error
                    break  # the others would wait as long, and fail as well
                except KaggleOpsError as error:
                    failure = failure or error
                except OSError as error:
                    if disk_is_full(error):
                        raise  # for whoever knows of another disk
                    problem = f"its folder cannot be read ({error})"
                    failure = failure or BrokenEntityError(f"sending {entity_id}", problem)
        if failure is not None:
            raise failure

    def _send(self, entity_id: EntityId) -> None:
        with self.lock:
            if entity_id not in self._dirty:
                return
            entity = self.read(entity_id)
            known = self.known[entity_id]
            if entity_id in self.live:
                entity.notes.heartbeat = now_ms()
                entity.notes.promise = int(self.live.promise(entity_id))
            known.base = base_of(entity)
            write_base(entity, self.path(entity_id))
            self._dirty.discard(entity_id)
            self._being_sent.add(entity_id)
            version = known.version
        try:
            stored = self.store.merge_in(entity, known=version)
        except BaseException:
            with self.lock:
                self._being_sent.discard(entity_id)
                self._dirty.add(entity_id)
            raise
        for renamed in stored.renamed:
            self.warn_once(renamed, renamed)
        with self.lock:
            self._being_sent.discard(entity_id)
            self.live.written(entity_id)
            latest = self.known.get(entity_id)
            if latest is None:
                return  # forgotten meanwhile
            if stored.entity is entity:
                latest.version = stored.version
            else:
                self._put(self._merged(self.read(entity_id), stored.entity), stored.version)
