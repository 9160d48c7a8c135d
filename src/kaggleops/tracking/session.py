"""One process's work on one bucket: its working copy, and the thread that sends it.

What was logged is in the bucket within the flush interval, and at exit: when the interpreter ends,
on SIGTERM and on SIGINT. Sending never stops the training: while the bucket cannot be reached, one
warning is given, everything stays on the disk, and sending is tried again with growing pauses. At
exit it is said what could not be sent, where it lies and which command sends it.
"""

import contextlib
import fcntl
import logging
import multiprocessing
import multiprocessing.util
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TextIO

from kaggleops.bucket import open_bucket
from kaggleops.errors import KaggleOpsError
from kaggleops.mlruns import EntityId, EntityStore
from kaggleops.platforms.folders import state_folder
from kaggleops.tracking.sending import Sender
from kaggleops.tracking.working import WorkingCopy, new_folder

_log = logging.getLogger("kaggleops")

FLUSH_SECONDS = 10.0
"""How long a logged value may stay away from the bucket, at first."""

LONGEST_FLUSH_SECONDS = 60.0
"""…and after an hour: a long run need not be seen by the second, and writes cost money."""

LONGEST_PAUSE = 300.0
"""Seconds between two attempts to reach a bucket that cannot be reached."""

PATIENCE = 30.0
"""Seconds that one request is retried before it counts as failed; the next flush tries again."""

OWNER = "owner.lock"

_IN_SERVER = "_MLFLOW_SERVER_FILE_STORE"  # set by `mlflow server` for its own processes

_sessions: dict[str, "Session"] = {}
_sessions_lock = threading.Lock()


def session(bucket_uri: str) -> "Session":
    """Return this process's session with a bucket."""
    with _sessions_lock:
        if bucket_uri not in _sessions:
            _sessions[bucket_uri] = Session(bucket_uri)
        return _sessions[bucket_uri]


def outbox(bucket_uri: str | None = None) -> Path:
    """Return the folder under which working copies lie, all or a bucket's."""
    root = state_folder() / "outbox"
    return root if bucket_uri is None else root / bucket_uri.replace("://", "-").replace("/", "-")


@dataclass
class _Open:
    """What a session holds from its first use to its end."""

    working: WorkingCopy
    sender: Sender
    owner: TextIO
    """Locked for as long as this process lives: a folder that nobody holds is an orphan's."""
    started: float


class Session:
    """Sends what this process logs to a bucket.

    Args:
        bucket_uri: the bucket's address (of its root, not of its `mlruns`).
    """

    def __init__(self, bucket_uri: str) -> None:
        self.bucket_uri = bucket_uri
        self._closing = False
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._open: _Open | None = None
        self._opening = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._failed = False

    @property
    def working(self) -> WorkingCopy:
        """This process's working copy, made when it is first needed."""
        return (self._open or self._opened()).working

    def _opened(self) -> _Open:
        with self._opening:
            if self._open is None:
                store = EntityStore(open_bucket(self.bucket_uri, patience=PATIENCE))
                store.bucket.prepare()
                working = WorkingCopy(store, new_folder(outbox(self.bucket_uri)))
                owner = (working.folder / OWNER).open("w")
                fcntl.flock(owner, fcntl.LOCK_EX)
                if multiprocessing.parent_process() is not None:
                    # A child of multiprocessing ends without the interpreter's exit handlers.
                    multiprocessing.util.Finalize(None, self.close, exitpriority=1)
                self._open = _Open(working, Sender(working), owner, time.monotonic())
            return self._open

    def begin_anew_in_child(self) -> None:
        """After a fork: the folder, its lock and what is unsent in it are the parent's."""
        if self._open is not None:
            self._open.owner.close()
        self._begin_anew()

    # -- sending ------------------------------------------------------------------------------

    def changed(self) -> None:
        """Take note that there is something to send: it will be, within the flush interval.

        In an MLflow server it is sent at once: its users wait for it, and it is ended by a signal
        that leaves no time for more.

        Raises:
            KaggleOpsError: in a server, it could not be sent.
        """
        if self._closing:
            self.close()
        elif _IN_SERVER in os.environ:
            self.flush()
        elif self._thread is None:
            self._thread = threading.Thread(target=self._run, name="kaggleops-flush", daemon=True)
            self._thread.start()

    def flush(self, entity_ids: Iterable[EntityId] | None = None) -> None:
        """Send what changed now.

        Raises:
            KaggleOpsError: not all of it could be sent.
        """
        opened = self._open or self._opened()
        opened.sender.send(entity_ids)
        if self._failed and not opened.working.unsent:
            self._failed = False
            opened.working.warn_again("sending")
            _log.warning(
                "%s can be reached again: everything logged is there now.", self.bucket_uri
            )

    def send(
        self,
        entity_ids: Iterable[EntityId] | None = None,
        *,
        fatal: tuple[type[KaggleOpsError], ...] = (),
    ) -> bool:
        """Send what changed now; tell whether all of it went, and warn once if not.

        Args:
            entity_ids: which entities; all that changed by default.
            fatal: errors to raise rather than to warn of.
        """
        try:
            self.flush(entity_ids)
        except fatal:
            raise
        except KaggleOpsError as error:
            self._failed = True
            self.working.warn_once(
                "sending", f"{error} Nothing is lost: it is kept on this machine and sent later."
            )
            return False
        return True

    def _interval(self) -> float:
        age = time.monotonic() - self._open.started if self._open else 0.0
        return min(LONGEST_FLUSH_SECONDS, max(FLUSH_SECONDS, age / 60))

    def _run(self) -> None:
        pause = self._interval()
        while True:
            self._wake.wait(pause)
            if self._closing:
                return
            pause = self._interval() if self.send() else min(LONGEST_PAUSE, pause * 2)

    # -- the end ------------------------------------------------------------------------------

    def close(self) -> None:
        """Send what is left, and say what could not be sent."""
        self._closing = True
        self._wake.set()
        if self._open is None:
            return
        working, owner = self._open.working, self._open.owner
        if self.send() and not working.unsent:
            self._open = None
            owner.close()
            shutil.rmtree(working.folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                working.folder.parent.rmdir()
            return
        unsent = working.unsent
        names = ", ".join(str(entity_id) for entity_id in unsent[:3])
        more = f" and {len(unsent) - 3} more" if len(unsent) > 3 else ""
        sys.stderr.write(
            f"kaggleops: not sent to {self.bucket_uri}: {names}{more}. It lies in "
            f"{working.folder}. Send it with: kaggleops push --bucket {self.bucket_uri}\n"
        )


def close_all() -> None:
    """End every session of this process."""
    for live in list(_sessions.values()):
        live.close()


# -- the process -------------------------------------------------------------------------------


def _after_fork_in_child() -> None:
    global _sessions_lock
    _sessions_lock = threading.Lock()
    for live in _sessions.values():
        live.begin_anew_in_child()


def _on_sigterm(signum: int, frame: FrameType | None) -> None:
    # SystemExit, so that `with mlflow.start_run()` ends the run and the exit handlers send it.
    sys.exit(128 + signum)


os.register_at_fork(after_in_child=_after_fork_in_child)
if (
    threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
):
    signal.signal(signal.SIGTERM, _on_sigterm)
