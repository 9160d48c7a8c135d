"""What a watcher knows of a bucket: its index, brought up to date where something may have changed.

Where nothing was announced, that costs one request of class B.
"""

from collections import Counter

import sqlalchemy as sa

from kaggleops.bucket import ABSENT, Bucket, ObjectNotFoundError, ObjectTooLargeError
from kaggleops.campaign.state import SweepState, open_sweeps
from kaggleops.campaign.turn import Clock
from kaggleops.index.refresh import Index
from kaggleops.layout import LOG_KEY
from kaggleops.mlruns import EntityStore
from kaggleops.reports.history import History
from kaggleops.tags import SUBMITTED_TO

_REFRESH = 300.0  # seconds after which open runs are looked at although nothing was announced
_REFRESH_PRUNING = 60.0


class Reader:
    """Reads the open sweeps of a bucket through an index. Not thread-safe.

    Args:
        bucket: which.
        index: the URL of the index's database.
        clock: the time.
    """

    def __init__(self, bucket: Bucket, index: str, clock: Clock) -> None:
        self._bucket = bucket
        self._url = index
        self._clock = clock
        self._index: Index | None = None
        self._engine: sa.Engine | None = None
        self._log_version = ""
        self._read_at = float("-inf")
        self.sweeps: list[SweepState] = []
        """The open sweeps, as they were read last."""
        self.stale = True
        """Whether they are to be read again though nothing was announced."""

    def read(self, *, again: bool = False) -> bool:
        """Bring what is known up to date, where something may have changed; tell whether it was."""
        version = self._log_now()
        prunes = any(state.sweep.pruner for state in self.sweeps)
        age = self._clock.steady() - self._read_at
        due = age >= (_REFRESH_PRUNING if prunes else _REFRESH)
        if version == self._log_version and not (self.stale or due or again):
            return False
        if self._index is None:
            store = EntityStore(self._bucket)
            self._index = Index(self._url, store, lambda: self._clock.now().timestamp())
            self._engine = sa.create_engine(self._url)
        refreshed = self._index.refresh()
        self._log_version, self._read_at = version, self._clock.steady()
        fresh = bool(refreshed.changed or refreshed.removed or refreshed.lost)
        if fresh or self.stale or not self.sweeps:
            self.sweeps = open_sweeps(self.history)
        self.stale = False
        return fresh

    @property
    def history(self) -> History:
        """The runs as they were read last."""
        assert self._engine is not None  # noqa: S101 - it was read
        return History(self._engine, lambda: EntityStore(self._bucket))

    def others(self) -> Counter[str]:
        """Return how many open runs of no sweep each backend has."""
        sweeps = {job.run_id for state in self.sweeps for job in state.jobs}
        runs = self.history.open_with(SUBMITTED_TO)
        return Counter(where for run_id, where in runs.items() if run_id not in sweeps)

    def close(self) -> None:
        """Let go of the database."""
        if self._engine:
            self._engine.dispose()
        if self._index:
            self._index.close()

    def _log_now(self) -> str:
        try:
            found = self._bucket.read(LOG_KEY, unless=self._log_version or None)
        except ObjectNotFoundError:
            return ABSENT
        except ObjectTooLargeError as error:
            return error.version
        return found.version if found else self._log_version
