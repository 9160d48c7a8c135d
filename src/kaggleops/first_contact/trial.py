"""A trial's own place in a bucket, and how nothing is left of it, however it ended.

All of a trial lies below `doctor/try-…/` of the person's bucket: its runs, their code, logs and
artifacts, and a mark that is written first and deleted last. So whoever finds the mark finds all
that the trial made, on its platform too, by the tags of its runs. A file here is locked for as long
as the trial's process lives: one of this machine that is not locked was killed.
"""

import fcntl
import json
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kaggleops.backends.lookup import submitted_run
from kaggleops.backends.remote_run import RemoteRun
from kaggleops.bucket import ABSENT, Bucket, open_bucket
from kaggleops.bucket.location import tracking_uri
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.layout import TRIALS, Kind, parse_key
from kaggleops.platforms.folders import private_folder, state_folder
from kaggleops.tracking.outbox import outboxes, remove
from kaggleops.tracking.session import session

LONGEST = 3600.0
"""Seconds after which a trial of another machine is over."""

_MARK = "begun.json"
_PATIENCE = 30.0
_END_BY_THEMSELVES = ("colab",)  # their jobs cannot be deleted before they have
_TO_END, _PAUSE = 180.0, 2.0  # seconds that such a job is given, and between two looks


@dataclass(frozen=True)
class Trial:
    """One trial: the bucket (its address) and its own folder there."""

    bucket: str
    folder: str  # "doctor/try-…", without a slash behind it

    @property
    def uri(self) -> str:
        """The address of its own place, a bucket like any other."""
        return f"{self.bucket}/{self.folder}"

    @property
    def here(self) -> Path:
        """Its folder on this machine, for jobs that leave files here."""
        return _place(self.folder)

    @property
    def _keys(self) -> list[str]:
        place = open_bucket(self.bucket, patience=_PATIENCE)
        return [each.key for each in place.list(f"{self.folder}/")]

    def runs(self) -> list[str]:
        """Return the ids of its runs."""
        found = [parse_key(key.removeprefix(f"{self.folder}/")) for key in self._keys]
        return [each.name for each in found if each and each.kind is Kind.RUN]

    def delete(self) -> None:
        """Delete all that it made: its jobs first, as only its runs tell of them.

        Raises KaggleOpsError for what could not be deleted: then what tells of it is still there.
        """
        uri = tracking_uri(self.uri)
        for run_id in self.runs():
            try:
                run = submitted_run(uri, run_id)
            except UsageError:  # it was killed before it had handed it over
                continue
            with suppress(UsageError):  # it has ended already
                run.cancel()
            _remove(run)
        session(self.uri).close()  # which writes to the bucket once more
        place = open_bucket(self.bucket, patience=_PATIENCE)
        mark = f"{self.folder}/{_MARK}"
        for key in self._keys:
            if key != mark:
                place.delete(key)
        for outbox in outboxes(self.uri):
            for each in outbox.iterdir() if outbox.is_dir() else ():
                remove(each)
        shutil.rmtree(self.here, ignore_errors=True)
        if self.here.exists():
            problem = f"{self.here} holds files of another user's"
            raise KaggleOpsError("deleting a trial's files", problem, f"sudo rm -r {self.here}")
        place.delete(mark)
        _lock_of(self.folder).unlink(missing_ok=True)


def _remove(run: RemoteRun) -> None:
    """Delete a run's job; a machine that has to end by itself is given the time."""
    until = time.monotonic() + _TO_END
    while True:
        try:
            run.backend.remove(run.tags)
        except UsageError:
            raise
        except KaggleOpsError:
            if time.monotonic() > until or run.backend.name not in _END_BY_THEMSELVES:
                raise
            time.sleep(_PAUSE)
        else:
            return


def _place(folder: str) -> Path:
    return state_folder() / "first-contact" / folder.rpartition("/")[2]


def _lock_of(folder: str) -> Path:
    return _place(folder).with_suffix(".lock")


@contextmanager
def begun(bucket: str) -> Iterator[Trial]:
    """Begin a trial in a bucket; its end is for who asked for it to see to (`Trial.delete`)."""
    trial = Trial(bucket, f"{TRIALS}{secrets.token_hex(4)}")
    lock = _lock_of(trial.folder)
    private_folder(lock.parent)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        content = json.dumps({"begun": time.time()}).encode()
        place = open_bucket(bucket, patience=_PATIENCE)
        place.write(f"{trial.folder}/{_MARK}", content, expected=ABSENT)
        yield trial


def left_behind(bucket: str) -> list[Trial]:
    """Return the trials in a bucket whose process is gone."""
    place = open_bucket(bucket, patience=_PATIENCE)
    return [Trial(bucket, folder) for folder, last in _there(place).items() if _over(folder, last)]


def _there(place: Bucket) -> dict[str, float]:
    """Return the folders of trials, with when something was last written there."""
    found: dict[str, float] = {}
    for entry in place.list(TRIALS):
        folder = "/".join(entry.key.split("/")[:2])
        found[folder] = max(found.get(folder, 0.0), entry.updated_ms / 1000)
    return found


def _over(folder: str, last: float) -> bool:
    try:
        with _lock_of(folder).open() as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:  # of another machine
        return time.time() - last > LONGEST
    except BlockingIOError:
        return False
    return True
