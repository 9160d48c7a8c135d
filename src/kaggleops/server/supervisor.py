"""Keeps a server running: starts the process that serves, and starts it again when it dies.

The server answers with what the index has as soon as there is one, and the rest comes in meanwhile.

This is the process that people start and see. It imports nothing of MLflow, to take little memory.
However it ends, even killed, nothing that it started stays: the standard input of the process that
serves is a pipe that closes when this one is gone, and it ends, too. It talks in lines of JSON on
its standard output.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.platforms.folders import private_folder
from kaggleops.printable import log_line
from kaggleops.redaction import redacted
from kaggleops.server.settings import SECONDS_TO_END, Settings

_FIRST_PAUSE = 1.0  # seconds before a process that died is started again
_LONGEST_PAUSE = 60.0
_STEADY = 60.0  # seconds after which a process has run well

_SOON = 1000
"""So many runs, experiments and models come in faster than anybody opens a link: it is shown when
they are in, and leads to the experiment of the latest run. Of more, the first runs will do."""

Found = dict[str, Any]
"""What the server has found by now.

`experiment`: the id of that of the latest run; `problems`: how many objects cannot be shown;
`warning`: why the index is not up to date, or ""; `done`, `total`: how many runs, experiments and
models were looked at, of how many; `complete`: whether that was all; `access`: who can sign in, and
with which password, or "".
"""


def serve(
    settings: Settings,
    tell: Callable[[str], object],
    progress: Callable[[int, int], object],
    on_ready: Callable[[Found], object],
    on_complete: Callable[[Found], object],
) -> None:
    """Serve until told to end by a signal; KaggleOpsError if nothing can be served.

    Args:
        settings: what to serve, and how.
        tell: called with a line when the process is started again, and cannot read the bucket.
        progress: called with how many entities are in the index, and how many there are to be.
        on_ready: called when the server listens and all is in, or, if there is much to come, some
            of it.
        on_complete: called when all is in, or is not to be had for now, if that is later.
    """
    found: Found = {"experiment": None, "problems": 0, "warning": "", "done": 0, "total": 0}
    found["access"] = ""
    found["complete"] = found["listens"] = was_shown = was_completed = False
    pause = _FIRST_PAUSE
    with suppress(_ToldToEnd), _until_a_signal(Path(settings.scratch)):
        while True:
            begun = time.monotonic()
            with Child("kaggleops.server.worker", replace(settings, again=was_shown)) as child:
                for message in child.messages():
                    found |= message
                    if "total" in message:
                        progress(found["done"], found["total"])
                    enough = found["experiment"] and found["total"] > _SOON
                    if found["listens"] and not was_shown and (found["complete"] or enough):
                        was_shown, was_completed = True, found["complete"]
                        on_ready(found.copy())
                    elif was_shown and found["complete"] and not was_completed:
                        was_completed = True
                        on_complete(found)
                    elif was_completed and message.get("warning"):
                        tell(message["warning"])
            if not was_shown:
                raise child.error or KaggleOpsError("starting the server", child.reason)
            if time.monotonic() - begun > _STEADY:
                pause = _FIRST_PAUSE
            tell(f"The server process died: {child.reason}. Another starts in {pause:g} s.")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


class _ToldToEnd(BaseException):
    pass


@contextmanager
def _until_a_signal(scratch: Path) -> Iterator[None]:
    """Run a block, with an empty folder, in which SIGTERM, SIGINT and SIGHUP raise _ToldToEnd."""
    which = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def end(*_: object) -> NoReturn:
        for each in which:
            signal.signal(each, signal.SIG_IGN)
        raise _ToldToEnd

    before = [signal.getsignal(each) for each in which]
    try:
        for each in which:
            signal.signal(each, end)
        shutil.rmtree(scratch, ignore_errors=True)  # left by one that was killed
        private_folder(scratch)
        yield
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        for each, handler in zip(which, before, strict=True):
            signal.signal(each, handler)


class Child:
    """A process that runs a module of ours while a block runs.

    Args:
        module: its name.
        settings: what it gets to know.
    """

    def __init__(self, module: str, settings: Settings) -> None:
        self.error: KaggleOpsError | None = None
        """What it could not do, if it said so."""
        self.reason = ""
        """How it ended, with the last line that it wrote."""
        self._last_line = ""
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            env=settings.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[settings.socket] if settings.socket >= 0 else [],
            start_new_session=True,  # we end it, in our order, not the terminal's Ctrl-C
            text=True,
            errors="replace",
        )
        self._forwarding = threading.Thread(target=self._forward, daemon=True)

    def __enter__(self) -> "Child":
        self._forwarding.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yield what it says until it has ended."""
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        for line in self._process.stdout:
            message = json.loads(line)
            if "error" in message:
                kind = UsageError if message["usage"] else KaggleOpsError
                self.error = kind(**message["error"])
            else:
                yield message
        code = self._process.wait()
        self._forwarding.join()
        self.reason = f"it ended with {f'code {code}' if code >= 0 else signal.Signals(-code).name}"
        if told := self.error or self._last_line:
            self.reason += f" ({told})"

    def _forward(self) -> None:
        assert self._process.stderr is not None  # noqa: S101 - it is a pipe
        for line in map(redacted, self._process.stderr):  # a library may print the index's URL
            self._last_line = line.strip() or self._last_line
            sys.stderr.write(log_line(line))
            sys.stderr.flush()
