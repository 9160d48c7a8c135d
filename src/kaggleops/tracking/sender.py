"""From the working copy to the bucket: merged with what others wrote, or all or nothing."""

import shutil
import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

from kaggleops.bucket import BucketUnavailableError, ConflictError
from kaggleops.errors import KaggleOpsError
from kaggleops.mlruns import BrokenEntityError, Entity, EntityId
from kaggleops.mlruns.folder import read_folder, write_folder
from kaggleops.tracking.outbox import disk_is_full
from kaggleops.tracking.working_copy import WorkingCopy
from kaggleops.tracking.working_folder import Known

_ATTEMPTS = 10

_T = TypeVar("_T")


class Sender:
    """Sends what changed in a working copy."""

    def __init__(self, working: WorkingCopy) -> None:
        self._working = working
        self._sending = threading.Lock()

    def send(self, entity_ids: Iterable[EntityId] | None = None) -> None:
        """Send what changed.

        Args:
            entity_ids: which entities; all that changed by default.

        Raises:
            KaggleOpsError: the first that could not be sent; every other one was tried, unless
                the bucket cannot be reached.
            OSError: the working copy's disk is full.
        """
        failure: KaggleOpsError | None = None
        with self._sending:
            unsent = self._working.unsent
            if entity_ids is not None:
                wanted = set(entity_ids)
                unsent = [entity_id for entity_id in unsent if entity_id in wanted]
            if len(unsent) > 1:
                self._working.store.announce(unsent)
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
        begun = self._working.begin_sending(entity_id)
        if begun is None:
            return
        entity, version = begun
        try:
            stored = self._working.store.merge_in(entity, known=version)
        except BaseException:
            self._working.sending_failed(entity_id)
            raise
        for renamed in stored.renamed:
            self._working.warn_once(renamed, renamed)
        self._working.end_sending(entity, stored)


def transact(working: WorkingCopy, entity_ids: list[EntityId], change: Callable[[], _T]) -> _T:
    """Make a change of these entities on their newest state and send it, all or nothing.

    For what must not be merged afterwards. If somebody else was faster, the change is made again
    on what they left.

    Args:
        working: where.
        entity_ids: every entity that the change may make, change or remove.
        change: makes it in the working copy; may be called several times.

    Raises:
        KaggleOpsError: the bucket refused; then nothing has changed.
    """
    for _ in range(_ATTEMPTS):
        for entity_id in entity_ids:
            working.bring(entity_id, refresh=True)
        with working.still():
            before = {entity_id: _content(working, entity_id) for entity_id in entity_ids}
            try:
                result = change()
                for entity_id in entity_ids:
                    _commit(working, entity_id, before[entity_id])
            except ConflictError:
                _roll_back(working, before)
            except BaseException:
                _roll_back(working, before)
                raise
            else:
                return result
    raise BucketUnavailableError(
        f"changing {entity_ids[0]}", "others kept changing it at the same time", "Try again."
    )


def _content(working: WorkingCopy, entity_id: EntityId) -> Entity | None:
    folder = working.path(entity_id)
    return read_folder(entity_id, folder) if folder.is_dir() else None


def _commit(working: WorkingCopy, entity_id: EntityId, before: Entity | None) -> None:
    after = _content(working, entity_id)
    version = working.known.get(entity_id, Known()).version
    if after is None and before is not None:
        working.store.delete(entity_id, expected=version)
        working.known.pop(entity_id, None)
    elif after is not None and after != before:
        working.adopt(entity_id, Known(working.store.write(after, expected=version)))


def _roll_back(working: WorkingCopy, before: dict[EntityId, Entity | None]) -> None:
    for entity_id, entity in before.items():
        if entity is None:
            shutil.rmtree(working.path(entity_id), ignore_errors=True)
        else:
            write_folder(entity, working.path(entity_id), notes=False)
