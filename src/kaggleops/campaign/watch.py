"""The loop that keeps the sweeps of a bucket going: read, tell, ask, place, submit, go on.

All that it knows is in the bucket. So it can be killed at any moment and started elsewhere: a turn
looks at what there is and does what is lacking, and each of its acts, done twice, is done once. The
lease keeps two watchers apart, and is asked for before each act.

    a job that is made twice            is one run: its id follows from its sweep's
    … submitted twice                   is found by its backend, by its run's id
    … submitted, and nobody noted it    is asked about before anything else becomes of it
    … ended without a word              ends as its platform says, or as lost

A platform that does not answer, or a sweep that cannot be read, is named, and the others go on. A
turn that finds nothing new costs one request of class B, and a renewal of the lease now and then.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from kaggleops.bucket import ABSENT, Bucket, ObjectNotFoundError, ObjectTooLargeError, open_bucket
from kaggleops.bucket.location import tracking_uri
from kaggleops.campaign.lease import Lease, NotLeadingError
from kaggleops.campaign.state import SweepState, open_sweeps
from kaggleops.campaign.turn import IDLE, QUICK, QUIET, Clock, Context, Turn, told
from kaggleops.index.refresh import Index
from kaggleops.layout import LOG_KEY
from kaggleops.mlruns import EntityStore
from kaggleops.reports.history import History
from kaggleops.tags import SUBMITTED_TO

if TYPE_CHECKING:
    from kaggleops.backends.base import Backend
    from kaggleops.campaign.keeper import Keeper

_LONGEST_PAUSE = 300.0
_PATIENCE = 30.0  # seconds that a request to the bucket is tried again
_REFRESH = 300.0  # seconds after which open runs are looked at although nothing was announced
_REFRESH_PRUNING = 60.0


class Watcher:
    """Keeps all sweeps of a bucket going, as long as `turn` is called. Not thread-safe.

    `index` is the URL of the bucket's index; `bucket` is given if it was opened already, and
    `backends` finds a backend by its name.
    """

    def __init__(
        self,
        address: str,
        *,
        index: str,
        clock: Clock | None = None,
        bucket: Bucket | None = None,
        backends: "Callable[[str], Backend[Any]] | None" = None,
    ) -> None:
        self._clock = clock or Clock()
        self._bucket = bucket or open_bucket(address, patience=_PATIENCE)
        self._backends = backends
        self.lease = Lease(self._bucket, self._clock.moment)
        self._context = Context(tracking_uri(address), self._bucket, self.lease, self._clock)
        self._keeper: Keeper | None = None  # as soon as there is a sweep
        self._failed = 0  # turns in a row that could not read the bucket
        self._quiet = 0  # turns in a row in which nothing happened
        self._url = index
        self._index: Index | None = None  # as soon as there is anything to read
        self._engine = sa.create_engine(index)
        self._log_version = ""
        self._read_at = float("-inf")
        self._sweeps: list[SweepState] = []  # the open ones, as they were read last
        self._stale = True  # whether they are to be read again though nothing was announced

    def turn(self) -> Turn:
        """Look once, do what is lacking, and say so; nothing is raised for what may pass."""
        turn = Turn()
        try:
            self._turn(turn)
            self._failed = 0
        except NotLeadingError:
            turn.leading = False
            turn.holder = self.lease.reason
        except Exception as raised:  # noqa: BLE001
            # Whatever it is, a bucket or a database that is away, the next turn begins anew.
            self._failed += 1
            turn.stale = True
            turn.problems.append(told(raised))
            turn.pause = _growing(self._failed, _LONGEST_PAUSE)
            turn.sweeps = list(self._sweeps)
        self._stale |= turn.stale
        return turn

    def wait(self, seconds: float, stop: threading.Event) -> None:
        """Wait until the next turn; less where a job on this machine ends meanwhile."""
        end = time.monotonic() + seconds
        while not stop.is_set() and (left := end - time.monotonic()) > 0:
            stop.wait(min(0.1, left))  # the next job is to begin at once; a look costs microseconds
            if self._keeper and self._keeper.submissions.ended_here():
                self._stale = True
                return

    def close(self) -> None:
        """Let another watcher act at once; the jobs go on."""
        self.lease.release()
        self._engine.dispose()
        if self._index:
            self._index.close()

    def _turn(self, turn: Turn) -> None:
        led = self.lease.held()
        changed = self._read()
        turn.read = True
        turn.sweeps = [state for state in self._sweeps if not state.problem]
        turn.problems += [
            f"sweep {each.id}: {each.problem}" for each in self._sweeps if each.problem
        ]
        if not turn.sweeps:
            self.lease.release()  # it costs a write now and then
            turn.pause = IDLE
            return
        turn.leading = self.lease.acquire()
        if not turn.leading:
            turn.holder = self.lease.reason
            turn.pause = QUIET
            return
        if not led:
            # What another watcher has done until now counts.
            changed = self._read(again=True)
            turn.sweeps = [state for state in self._sweeps if not state.problem]
        self._act(turn)
        self._quiet = 0 if turn.done or turn.acted or changed else self._quiet + 1
        turn.pause = _growing(self._quiet, QUIET)

    def _read(self, *, again: bool = False) -> bool:
        """Bring what is known up to date, where something may have changed; tell whether it was.

        Where nothing was announced, that costs one request of class B.
        """
        version = self._log_now()
        prunes = any(state.sweep.pruner for state in self._sweeps)
        age = self._clock.steady() - self._read_at
        due = age >= (_REFRESH_PRUNING if prunes else _REFRESH)
        if version == self._log_version and not (self._stale or due or again):
            return False
        if self._index is None:
            store = EntityStore(self._bucket)
            self._index = Index(self._url, store, lambda: self._clock.now().timestamp())
        refreshed = self._index.refresh()
        self._log_version, self._read_at = version, self._clock.steady()
        fresh = bool(refreshed.changed or refreshed.removed or refreshed.lost)
        if fresh or self._stale or not self._sweeps:
            self._sweeps = open_sweeps(self._history)
        self._stale = False
        return fresh

    @property
    def _history(self) -> History:
        return History(self._engine, lambda: EntityStore(self._bucket))

    def _log_now(self) -> str:
        try:
            found = self._bucket.read(LOG_KEY, unless=self._log_version or None)
        except ObjectNotFoundError:
            return ABSENT
        except ObjectTooLargeError as error:
            return error.version
        return found.version if found else self._log_version

    def _act(self, turn: Turn) -> None:
        # With it comes MLflow, 140 MB that a watcher without a sweep does not need.
        from kaggleops.campaign.keeper import Keeper

        if self._keeper is None:
            self._keeper = Keeper(self._context, self._backends)
        mine = {job.run_id for state in self._sweeps for job in state.jobs}
        runs = self._history.open_with(SUBMITTED_TO)
        others = Counter(where for run_id, where in runs.items() if run_id not in mine)
        self._keeper.act(turn, self._history, others)


def _growing(turns: int, most: float) -> float:
    """Return the pause after so many turns alike; of a day's, 2**turns is no float any more."""
    return min(most, QUICK * 2 ** min(turns, 20))
