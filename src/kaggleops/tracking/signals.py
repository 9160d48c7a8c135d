"""How a process that trains is ended from outside: by a signal, or because its run was killed.

SIGTERM and SIGHUP raise SystemExit, so that what was logged is sent. Python does that between two
instructions of the main thread, and one that is just about to wait, for the lock of a pool say,
would not hear a signal that comes once. So a thread sends it again until it is heard, and again
where what it raised is swallowed: in a `__del__`, in the callback of a weak reference (importing a
module calls them), or by a library that catches everything. A forked process is ended by the
system, as any is, until it has something to send itself.
"""

import logging
import multiprocessing.util
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

_log = logging.getLogger("kaggleops")

GRACE = 60.0
"""Seconds that a process has to end by itself once its run was killed."""

LAUNCHER = "KAGGLEOPS_LAUNCHER"
"""The environment variable in which who runs a commit tells its processes which one it is."""

_PAUSE, _LONGEST_PAUSE = 0.5, 10.0  # seconds until a signal that is not heard comes again

AGAIN = 3.0
"""Seconds for whoever caught what a signal raised to come to an end."""

_ENDING = (signal.SIGTERM, signal.SIGHUP)  # the latter where a terminal or a session closes

_MLFLOW_ENDS = "mlflow.tracking.fluent.end_run"
_WE_END = "kaggleops.tracking.session.run_ends"
_CHILD_ENDS = "multiprocessing.util._exit_function"
_POOL_ENDS = "multiprocessing.pool._terminate_pool"
_CHILD_IS_WAITED_FOR = "multiprocessing.process.join"  # it may have something to send

_signalled = False
_heard = False
_undisturbed = 0
_to_send = 0  # what a child of multiprocessing has still to do at its end
_ended_by_us = False
_pipe: tuple[int, int] | None = None
"""Where the interpreter writes the number of each signal that comes, as it comes."""
_forking = threading.local()


def by_signal() -> bool:
    """Tell whether this process is ending because it was sent SIGTERM or SIGHUP."""
    return _signalled


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let no SIGTERM or SIGHUP break off what a process does at its end: it ends anyway.

    A pool sends one to workers that it has told to end, and that are sending what they logged.
    """
    global _undisturbed
    _undisturbed += 1
    try:
        yield
    finally:
        _undisturbed -= 1


def at_end_of_child(send: Callable[[], object]) -> None:
    """Have a child of multiprocessing, which ends without exit handlers, `send` at its end.

    No signal that comes as it ends is in time to break that off before it begins.
    """
    global _to_send

    def last() -> None:
        global _to_send
        try:
            send()
        finally:
            _to_send -= 1

    _to_send += 1
    multiprocessing.util.Finalize(None, last, exitpriority=1)


def heed_signals() -> None:
    """Let SIGTERM and SIGHUP end this process so that it can send what it logged.

    Unless somebody else handles them. Only the main thread can.
    """
    global _pipe
    if threading.current_thread() is not threading.main_thread():
        return
    for each in _ENDING:
        if signal.getsignal(each) is signal.SIG_DFL:
            signal.signal(each, _on_signal)
    if _pipe is None:
        _pipe = os.pipe()
        os.set_blocking(_pipe[1], False)
        others = signal.set_wakeup_fd(_pipe[1], warn_on_full_buffer=False)
        if others != -1:  # an event loop, which wakes up by it
            signal.set_wakeup_fd(others)
        name = "kaggleops-signals"
        threading.Thread(target=_repeat, args=_pipe[:1], name=name, daemon=True).start()


def _on_signal(signum: int, frame: FrameType | None) -> None:
    # SystemExit, so that `with mlflow.start_run()` ends the run and the exit handlers send it.
    global _signalled, _heard
    if not _undisturbed and _pipe and _innermost(frame, _MLFLOW_ENDS, _WE_END) == _MLFLOW_ENDS:
        # MLflow forgets a run before it ends it, and nobody else would. So the signal comes again.
        _heard = False
        os.write(_pipe[1], bytes([signum]))
        return
    _heard = True
    if _undisturbed or (_to_send and _innermost(frame, _CHILD_ENDS)):
        return
    _signalled = True
    raise _End(128 + signum)


def _innermost(frame: FrameType | None, *functions: str) -> str | None:
    """Return which of these functions a frame is in."""
    while frame:
        if (name := f"{frame.f_globals.get('__name__')}.{frame.f_code.co_name}") in functions:
            return name
        frame = frame.f_back
    return None


class _End(SystemExit):
    """What a signal raises. If it is gone and this process is not at its end, it was swallowed."""

    def __del__(self) -> None:
        global _heard
        # The interpreter itself takes it at its end, or a process of multiprocessing.
        frame = sys._getframe().f_back
        # Where the run was killed, that is followed up below: a kernel whose cell ended lives on.
        if frame and frame.f_code.co_name != "_bootstrap" and _pipe and not _ended_by_us:
            _heard = False
            os.write(_pipe[1], bytes([int(self.code or 0) - 128]))


def _repeat(came: int) -> None:
    main, numbers = threading.main_thread().ident or 0, b""
    ready = select.poll()  # not `select`: a process with many files open has numbers above 1023
    ready.register(came, select.POLLIN)
    while True:
        if not ready.poll(1000 * AGAIN if numbers or _signalled else None):
            numbers = b""
            # A worker was killed with a pool's lock, and its `terminate` waits for that for ever.
            waits = _innermost(sys._current_frames().get(main), _POOL_ENDS, _CHILD_IS_WAITED_FOR)
            if _signalled and waits == _POOL_ENDS:
                ours = [each for each in _ENDING if signal.getsignal(each) is _on_signal]
                for each in ours[:1]:
                    signal.pthread_kill(main, each)
            continue
        numbers = os.read(came, 100)
        for number in _ENDING:
            pause = AGAIN if _signalled else _PAUSE
            while number in numbers and not _heard and signal.getsignal(number) is _on_signal:
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                if not _heard:
                    signal.pthread_kill(main, number)


def _before_fork() -> None:
    # One that came to the child before it lets go of the pipe would be sent again to this process.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    _forking.blocks = {*_ENDING} - blocked
    signal.pthread_sigmask(signal.SIG_BLOCK, _forking.blocks)


def _after_fork() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, getattr(_forking, "blocks", ()))


def _after_fork_in_child() -> None:
    global _signalled, _heard, _ended_by_us, _pipe, _to_send
    _signalled = _heard = _ended_by_us = False
    _to_send = 0
    if _pipe is not None:
        before = signal.set_wakeup_fd(-1)
        if before not in (-1, _pipe[1]):
            signal.set_wakeup_fd(before)
        for each in _pipe:
            with suppress(OSError):  # one that becomes a daemon has closed all files
                os.close(each)
        _pipe = None
    for number in _ENDING:
        if signal.getsignal(number) is _on_signal:
            signal.signal(number, signal.SIG_DFL)
    _after_fork()


def _signal_all(which: signal.Signals) -> None:
    """Signal this process's group; of a commit's run its own processes in it, this one last.

    The group is that of the script which called `kaggleops run`, and has other things to do.
    """
    launcher, group = os.environ.get(LAUNCHER, ""), os.getpgrp()
    parents: dict[int, int] = {}
    ours, mark = {os.getpid()}, f"{LAUNCHER}={launcher}".encode()
    for folder in Path("/proc").glob("[0-9]*") if launcher.isdecimal() else ():
        with suppress(OSError):  # it has ended
            stat = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if int(stat[2]) == group:
                parents[int(folder.name)] = int(stat[1])
                # What has lost its parent still has this.
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    ours.add(int(folder.name))
    if not parents:
        os.killpg(group, which)
        return
    ours |= {int(launcher)} & parents.keys()
    while more := {each for each, parent in parents.items() if parent in ours} - ours:
        ours |= more
    for each in sorted(ours, key=os.getpid().__eq__):
        with suppress(ProcessLookupError, PermissionError):  # it has ended, or is of `sudo`
            os.kill(each, which)


def end_process_group(still_running: Callable[[], bool], last_words: Callable[[], object]) -> None:
    """End this process and those it belongs together with, from a thread, and return at once.

    They are sent SIGTERM: data loaders, the other ranks, the script that waits for them. Where this
    process is `still_running` what it was to end after `GRACE`, all are killed, after `last_words`.
    """

    def end() -> None:
        global _ended_by_us
        _ended_by_us = True
        _signal_all(signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline:
            time.sleep(0.5)
            if not still_running():
                return
        _log.warning("It did not end within %.0f s: it is killed now.", GRACE)
        last_words()
        _signal_all(signal.SIGKILL)

    threading.Thread(target=end, name="kaggleops-end", daemon=True).start()


heed_signals()
os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child
)
