"""One process's work on one bucket: its working copy, and the thread that sends it.

What was logged is in the bucket within the flush interval, and at exit: when the interpreter ends,
on SIGTERM and on SIGINT. Sending never stops the training: while the bucket cannot be reached, one
warning is given, everything stays on the disk, and sending is tried again with growing pauses. At
exit it is said what could not be sent, where it lies and which command sends it.

The same thread sends heartbeats for live runs, and checks whether somebody has set one to
KILLED in the bucket: then the process ends, as it does when its own machine stops it.

Of several processes of one training, only the first sends (`kaggleops.tracking.ranks`).
"""

import logging
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from mlflow.entities import RunStatus

from kaggleops.bucket import Bucket, open_bucket
from kaggleops.errors import KaggleOpsError
from kaggleops.mlruns import ChangeLog, EntityId, EntityStore, experiment
from kaggleops.session_end import TO_BE_CONTINUED
from kaggleops.tracking import ownership, ranks, signals
from kaggleops.tracking.live import flush_interval
from kaggleops.tracking.outbox import (
    OUTBOX,
    RANKS,
    disk_is_full,
    left_behind,
    new_folder,
    outboxes,
    remove,
)
from kaggleops.tracking.push import push
from kaggleops.tracking.working_copy import WorkingCopy

_log = logging.getLogger("kaggleops")

LONGEST_PAUSE = 300.0
"""Seconds between two attempts to reach a bucket that cannot be reached."""

PATIENCE = 30.0
"""Seconds that one request is retried before it counts as failed; the next flush tries again."""

_IN_SERVER = "_MLFLOW_SERVER_FILE_STORE"  # set by `mlflow server` for its own processes

UpdateRunInfo = Callable[[str, int, int | None, None], object]
"""Sets a run's status and the time of its end, in ms; its name stays."""

_sessions: dict[str, "Session"] = {}
_sessions_lock = threading.Lock()


def session(bucket_uri: str) -> "Session":
    """Return this process's session with a bucket."""
    with _sessions_lock:
        if bucket_uri not in _sessions:
            _sessions[bucket_uri] = Session(bucket_uri)
        return _sessions[bucket_uri]


@dataclass
class _Open:
    """What a session holds from its first use to its end."""

    working: WorkingCopy
    owned: dict[Path, TextIO]  # this process's folders, with the files that mark them as its own
    silent: bool = False  # whether nothing of it is sent
    started: float = field(default_factory=time.monotonic)


class Session:
    """Sends what this process logs to a bucket, by its address (of its root, not of its `mlruns`).

    With `serving`, what is logged here comes from clients, who wait for the result.
    """

    def __init__(self, bucket_uri: str, *, serving: bool = False) -> None:
        self.bucket_uri = bucket_uri
        self._serving = serving
        self._closing = False
        self._has_sent = False
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._open: _Open | None = None
        self._opening = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._failed = False
        self._killed: set[str] = set()
        self._to_end: set[str] = set()
        self._claimed: dict[EntityId, UpdateRunInfo] = {}

    @property
    def working(self) -> WorkingCopy:
        """This process's working copy, made when it is first needed."""
        return (self._open or self._opened()).working

    def _opened(self) -> _Open:
        with self._opening:
            if self._open is None:
                flush_interval(0)  # a mistaken setting is an error now, not in a thread
                signals.heed_signals()
                bucket = open_bucket(self.bucket_uri, patience=PATIENCE)
                if any(place.is_dir() for place in outboxes(self.bucket_uri)):
                    bucket.expect()  # another process of this machine logs there, or has
                bucket.prepare()
                silent = ranks.is_silent() and not self.in_server
                working, owner = self._new_working_copy(bucket, silent=silent)
                working.killed = self._was_killed
                if multiprocessing.parent_process() is not None:
                    signals.at_end_of_child(self.close)
                self._open = _Open(working, {working.folder: owner}, silent)
            return self._open

    @property
    def _is_silent(self) -> bool:
        return self._open is not None and self._open.silent

    def _new_working_copy(self, bucket: Bucket, *, silent: bool) -> tuple[WorkingCopy, TextIO]:
        store, name = EntityStore(bucket, ChangeLog(bucket)), OUTBOX
        if silent:
            store, name = ranks.SilentStore(bucket), RANKS  # not where `push` looks
            with suppress(OSError), ExitStack() as held:  # a training needs none of it
                for killed in left_behind(self.bucket_uri, [], held, RANKS):
                    remove(killed)
            if ranks.rank() == 1:
                told = "Rank 0 logs for all ranks; the others log nothing. To have every rank log:"
                _log.warning("%s %s=all", told, ranks.RANKS)
        places = outboxes(self.bucket_uri, name)
        for place in places:
            try:
                with new_folder(place) as (folder, owner):
                    return WorkingCopy(store, folder), owner
            except OSError as error:
                if place == places[-1]:
                    doing = f"making a working copy of {self.bucket_uri}"
                    hint = "Free some space, or name a writable folder in KAGGLEOPS_HOME."
                    raise KaggleOpsError(doing, str(error), hint) from error
        raise AssertionError("unreachable")

    # -- the runs of this process -------------------------------------------------------------

    @property
    def in_server(self) -> bool:
        """Whether this process serves MLflow's interface: it is then nobody's runner."""
        return self._serving or _IN_SERVER in os.environ

    def run_begins(self, run: EntityId) -> None:
        """Record that this process runs it: it sends heartbeats, and stops when killed."""
        if not self.in_server:
            self._killed.discard(run.name)
            self.working.live.begin(run)

    def claim(self, run: EntityId, update: UpdateRunInfo) -> None:
        """Make it this process's to end, unless another one on this machine has it.

        `update` is the store's method, for a run that another process started again and ended.
        """
        if not self.in_server and not self._is_silent:
            ownership.claim(self.bucket_uri, run.name)
            self._claimed[run] = update

    def may_end(self, run: EntityId, status: int, end_time: int | None) -> bool:
        """Tell whether this process may end it: no other one on this machine is its owner."""
        word = run.name, status, end_time
        alone = self.in_server or self._is_silent
        return alone or not ownership.leave_word(self.bucket_uri, *word)

    def hand_over(self, run: EntityId) -> None:
        """Record that another process is going to run it."""
        self.working.live.end(run)
        self._release(run)

    def run_ends(self, run: EntityId, *, for_all: bool) -> None:
        """Send what this process has of a run that it does not run any more.

        `for_all`: the run has ended, and is not only left by this process.
        """
        self.working.live.end(run)
        self._to_end.discard(run.name)
        if for_all:
            self._release(run)
        if self.send() and for_all:
            self._push_helpers()
            self.close_run(run)

    def _release(self, run: EntityId) -> tuple[int, int | None] | None:
        self._claimed.pop(run, None)
        return ownership.release(self.bucket_uri, run.name)

    def _end_claimed(self, *, at_end: bool) -> None:
        """End the claimed runs that other processes ran and ended; release all `at_end`."""
        for run, update in list(self._claimed.items()):
            left = ownership.word_left(self.bucket_uri, run.name)
            if not (at_end or (left and run.name not in _active_runs())):
                continue
            if word := self._release(run):
                with suppress(Exception):  # it was deleted meanwhile, say
                    update(run.name, *word, None)

    def close_run(self, run: EntityId | None = None) -> None:
        """Tell readers that poll the bucket that a run, or all, will not change any more."""
        with suppress(KaggleOpsError):  # then readers look at it some hours longer
            self.working.store.close(run)

    def last_status(self, run_id: str, wanted: int) -> int:
        """Return what a run that ends now ends as: KILLED, whatever else, if somebody ended it.

        And SCHEDULED, for the one that goes on with it, if this process exits to be continued;
        FAILED rather than FINISHED at the exit of a process that an error has ended.
        """
        if signals.by_signal() or run_id in self._killed:
            return RunStatus.KILLED if RunStatus.is_terminated(wanted) else wanted
        leaving = sys.exc_info()[1]  # as `with mlflow.start_run()` ends
        if isinstance(leaving, SystemExit) and leaving.code == TO_BE_CONTINUED:
            return RunStatus.SCHEDULED
        # Not what `close` says of a run: that is the word of the process that ran it.
        if wanted == RunStatus.FINISHED and not self._closing and _ended_by_error():
            return RunStatus.FAILED
        return wanted

    def _was_killed(self, run: EntityId) -> None:
        self._killed.add(run.name)
        self._to_end.add(run.name)
        _log.warning("%s was set to KILLED in %s: this process ends.", run, self.bucket_uri)
        # A notebook's kernel ends the cell and the run, and lives on.
        signals.end_process_group(lambda: run.name in self._to_end, self.send)

    # -- sending ------------------------------------------------------------------------------

    def changed(self) -> None:
        """Have what changed sent within the flush interval.

        In an MLflow server it is sent at once, or KaggleOpsError is raised: its users wait for it,
        and it is ended by a signal that leaves no time for more.
        """
        if self._closing:
            self.close()
        elif self._thread is not None or self._is_silent:
            return  # asked first: a training loop comes here with every point
        elif self.in_server:
            self.flush()
        else:
            self._thread = threading.Thread(target=self._run, name="kaggleops-flush", daemon=True)
            self._thread.start()

    def flush(self, entity_ids: Iterable[EntityId] | None = None) -> None:
        """Send what changed now; KaggleOpsError if not all of it could be sent."""
        opened = self._open or self._opened()
        if self._failed:
            # A bucket that went away and was made anew lacks what was sent to the old one.
            for experiment_id in opened.working.experiments_in_use:
                opened.working.bring(experiment(experiment_id), refresh=True)
        try:
            opened.working.send(entity_ids)
        except OSError as error:
            if not self.escape_full_disk(error):
                raise KaggleOpsError(f"sending to {self.bucket_uri}", str(error)) from error
            opened.working.send(entity_ids)
        if self._failed and not opened.working.unsent:
            self._failed = False
            opened.working.warn_again("sending")
            back = "%s can be reached again: everything logged is there now."
            _log.warning(back, self.bucket_uri)

    def send(
        self,
        entity_ids: Iterable[EntityId] | None = None,
        *,
        fatal: tuple[type[KaggleOpsError], ...] = (),
    ) -> bool:
        """Send what changed now; tell whether all of it went, and warn once if not.

        Errors that are `fatal` are raised rather than warned of, as long as nothing has been sent:
        later a training is going on. (In a server they are always raised.)
        """
        try:
            self.flush(entity_ids)
        except Exception as error:  # whatever it is, the training goes on
            if isinstance(error, fatal) and (self.in_server or not self._has_sent):
                raise
            self._failed = True
            known = isinstance(error, KaggleOpsError)
            problem = str(error) if known else f"sending failed: {type(error).__name__}: {error}."
            kept = "Nothing is lost: it is kept on this machine and sent later."
            self.working.warn_once("sending", f"{problem} {kept}")
            return False
        # What has errors that are fatal is a change, so there was something to send.
        self._has_sent = self._has_sent or bool(fatal)
        return True

    def _run(self) -> None:
        pause, left_behind = flush_interval(0), True
        while not (self._wake.wait(pause) or self._closing):
            if not self._tick():
                pause = min(LONGEST_PAUSE, pause * 2)
                continue
            age = time.monotonic() - self._open.started if self._open else 0.0
            pause = flush_interval(age)
            if left_behind:
                # In a thread that nobody waits for: it may be much, and `push` sends the rest.
                threading.Thread(target=self._push, name="kaggleops-push", daemon=True).start()
                left_behind = False

    def _tick(self) -> bool:
        working = self.working
        self._end_claimed(at_end=False)
        for run in working.live.to_beat():
            working.changed(run)
        sent = self.send()
        for run in working.live.to_look_at():
            with suppress(Exception):  # a broken object, say: what is here goes there again
                working.bring(run, refresh=True)
        return sent

    def _push_helpers(self) -> None:
        """Send what processes left that began after this one and were killed: helpers of its."""
        if self._open and not self.in_server and not self._is_silent:
            self._push(since=self._open.working.folder.name)

    def _push(self, since: str = "") -> None:
        """Send what ended processes on this machine left: a kernel that was restarted, say."""
        try:
            sent = push(self.working.store, since=since)
        except Exception:  # noqa: BLE001 - whatever it is, the training goes on
            return  # it stays where it is, for the next process or for `kaggleops push`
        for problem in (*sent.renamed, *sent.problems):
            self.working.warn_once(problem, problem)  # each run that ends comes here
        if found := [*map(str, sent.entities), *map(str, sent.artifacts)]:
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            names = ", ".join(found[:3]) + more
            _log.warning("Sent what a process that ended had left behind here: %s", names)

    def escape_full_disk(self, error: BaseException) -> bool:
        """Move the working copy to where there is space; tell whether it was that, and worked."""
        opened = self._open
        if opened is None or opened.silent or not disk_is_full(error):
            return False
        with opened.working.lock:
            old = opened.working.folder
            for place in outboxes(self.bucket_uri):
                if place == old.parent:
                    continue
                with suppress(OSError), new_folder(place) as (folder, owner):
                    opened.working.move(folder)
                    opened.owned[folder] = owner
                    _log.warning("%s cannot be written (%s): going on in %s", old, error, folder)
                    return True
        return False

    # -- the end ------------------------------------------------------------------------------

    @signals.undisturbed()
    def close(self) -> None:
        """Send what is left, and say what could not be sent."""
        self._closing = True
        self._wake.set()
        if self._open is None:
            return
        working, owned = self._open.working, self._open.owned
        self._end_claimed(at_end=True)
        if self.send() and not working.unsent:
            self._push_helpers()
            self.close_run()
            self._open = None
            for folder, owner in owned.items():
                remove(folder)  # while it is this one's: nobody may look at half of it
                owner.close()
            return
        unsent = working.unsent
        names = ", ".join(str(entity_id) for entity_id in unsent[:3])
        more = f" and {len(unsent) - 3} more" if len(unsent) > 3 else ""
        sys.stderr.write(
            f"kaggleops: not sent to {self.bucket_uri}: {names}{more}. It lies in "
            f"{working.folder}. Send it with: kaggleops push --bucket {self.bucket_uri}\n"
        )


def _ended_by_error() -> bool:
    """Tell whether an error that nobody caught has ended this process's script.

    MLflow ends a run at the exit of a process as FINISHED, and there may be nobody who knows
    better: it is not `kaggleops run`'s, or that was killed, and the error is that of a closed pipe.
    """
    main = threading.main_thread()
    if main.is_alive() or threading.current_thread() is not main:
        return False  # no exit yet, or not yet of a thread that goes on after the script's error
    trace = getattr(sys, "last_traceback", None)  # also of a callback, or of a prompt that goes on
    return trace is not None and trace.tb_frame.f_back is None and not hasattr(sys, "ps1")


def _active_runs() -> set[str]:
    """Return the runs that a thread of this process is in, by `mlflow.start_run`."""
    fluent = sys.modules.get("mlflow.tracking.fluent")
    stacks = fluent._active_run_stack.get_all_thread_values().values() if fluent else ()
    return {run.info.run_id for stack in stacks for run in stack}


def serving_session(bucket_uri: str) -> Session:
    """Return a new session for what clients log, closed with the others."""
    with _sessions_lock:
        made = Session(bucket_uri, serving=True)
        _sessions[f"serving {id(made)} {bucket_uri}"] = made
        return made


def close_all() -> None:
    """End every session of this process."""
    for live in list(_sessions.values()):
        live.close()


def _after_fork_in_child() -> None:
    global _sessions_lock
    _sessions_lock = threading.Lock()
    ownership.forget_in_child()
    for live in _sessions.values():
        if live._open is not None:  # the folder, its lock and what is unsent in it: the parent's
            for owner in live._open.owned.values():
                owner.close()
        live._begin_anew()


os.register_at_fork(after_in_child=_after_fork_in_child)
