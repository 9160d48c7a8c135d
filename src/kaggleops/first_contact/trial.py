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

from kaggleops.backends.base import RemoteRun
from kaggleops.backends.lookup import submitted_run
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
        return state_folder() / "first-contact" / self.folder.rpartition("/")[2]

    @property
    def lock(self) -> Path:
        """The file on this machine that is locked as long as its process lives."""
        return self.here.with_suffix(".lock")

    @property
    def _keys(self) -> list[str]:
        return [each.key for each in _opened(self.bucket).list(f"{self.folder}/")]

    def delete(self) -> None:
        """Delete all that it made: its jobs first, as only its runs tell of them.

        Raises KaggleOpsError for what could not be deleted: then what tells of it is still there.
        """
        found = [parse_key(key.removeprefix(f"{self.folder}/")) for key in self._keys]
        for run_id in [each.name for each in found if each and each.kind is Kind.RUN]:
            try:
                run = submitted_run(tracking_uri(self.uri), run_id)
            except UsageError:  # it was killed before it had handed it over
                continue
            with suppress(UsageError):  # it has ended already
                run.cancel()
            _remove(run)
        session(self.uri).close()  # which writes to the bucket once more
        place, mark = _opened(self.bucket), f"{self.folder}/{_MARK}"
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
        self.lock.unlink(missing_ok=True)


def _remove(run: RemoteRun) -> None:
    """Delete a run's job; a machine that has to end by itself is given the time."""
    until = time.monotonic() + _TO_END
    while True:
        try:
            run.backend.remove(run.tags)
            return
        except KaggleOpsError as error:
            waits = run.backend.name in _END_BY_THEMSELVES and not isinstance(error, UsageError)
            if not waits or time.monotonic() > until:
                raise
            time.sleep(_PAUSE)


def _opened(bucket: str) -> Bucket:
    return open_bucket(bucket, patience=_PATIENCE)


@contextmanager
def begun(bucket: str) -> Iterator[Trial]:
    """Begin a trial in a bucket; its end is for who asked for it to see to (`Trial.delete`)."""
    trial = Trial(bucket, f"{TRIALS}{secrets.token_hex(4)}")
    private_folder(trial.lock.parent)
    with trial.lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        content = json.dumps({"begun": time.time()}).encode()
        _opened(bucket).write(f"{trial.folder}/{_MARK}", content, expected=ABSENT)
        yield trial


def left_behind(bucket: str) -> list[Trial]:
    """Return the trials in a bucket whose process is gone."""
    last: dict[Trial, float] = {}  # when something was last written there
    for entry in _opened(bucket).list(TRIALS):
        trial = Trial(bucket, "/".join(entry.key.split("/")[:2]))
        last[trial] = max(last.get(trial, 0.0), entry.updated_ms / 1000)
    return [trial for trial in last if _is_over(trial, last[trial])]


def _is_over(trial: Trial, last: float) -> bool:
    try:
        with trial.lock.open() as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:  # of another machine
        return time.time() - last > LONGEST
    except BlockingIOError:
        return False
    return True
