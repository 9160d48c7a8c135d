"""How a process that trains is ended from outside: by a signal, or because its run was killed."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_log = logging.getLogger("kaggleops")

GRACE = 60.0
"""Seconds that a process has to end by itself once its run was killed."""

_signalled = False
_undisturbed = 0


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


def _on_signal(signum: int, frame: FrameType | None) -> None:
    # SystemExit, so that `with mlflow.start_run()` ends the run and the exit handlers send it.
    global _signalled
    if _undisturbed:
        return
    _signalled = True
    sys.exit(128 + signum)


def end_process_group(still_running: Callable[[], bool], last_words: Callable[[], object]) -> None:
    """End this process and those it belongs together with, from a thread, and return at once.

    They are sent SIGTERM: data loaders, the other ranks, the script that waits for them. What does
    not heed it is killed after `GRACE`.

    Args:
        still_running: tells then whether the process goes on with what it was to end.
        last_words: what to do before it is killed.
    """

    def end() -> None:
        os.killpg(os.getpgrp(), signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline:
            time.sleep(0.5)
            if not still_running():
                return
        _log.warning("It did not end within %.0f s: it is killed now.", GRACE)
        last_words()
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=end, name="kaggleops-end", daemon=True).start()


for _each in (signal.SIGTERM, signal.SIGHUP):  # the latter where a terminal or a session closes
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(_each) is signal.SIG_DFL
    ):
        signal.signal(_each, _on_signal)
