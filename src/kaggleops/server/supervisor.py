"""Keeps a server running: starts the process that serves, and starts it again when it dies.

The server answers with what the index has as soon as there is one, and the rest comes in meanwhile.

This is the process that people start and see. It imports nothing of MLflow, to take little memory.
However it ends, even killed, nothing that it started stays.
"""

import queue
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from kaggleops.errors import KaggleOpsError
from kaggleops.platforms.folders import private_folder
from kaggleops.server.processes import Child, Ended, Events
from kaggleops.server.settings import Settings

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
models were looked at, of how many; `complete`: whether that was all.
"""


class Supervisor:
    """Serves a bucket, in a process that is started again when it dies.

    Args:
        settings: what to serve, and how.
        tell: called with a line when the process is started again, and cannot read the bucket.
    """

    def __init__(self, settings: Settings, tell: Callable[[str], object]) -> None:
        self._settings = settings
        self._tell = tell
        self._events: Events = queue.SimpleQueue()
        self._child: Child | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run a block that SIGTERM, SIGINT and SIGHUP end, and clean up after it."""
        which = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = [signal.signal(each, lambda *_: self._events.put(None)) for each in which]
        scratch = Path(self._settings.scratch)
        shutil.rmtree(scratch, ignore_errors=True)  # left by one that was killed
        private_folder(scratch)
        try:
            yield
        except _ToldToEnd:
            pass
        finally:
            if self._child is not None:
                self._child.end()
            shutil.rmtree(scratch, ignore_errors=True)
            for each, handler in zip(which, before, strict=True):
                signal.signal(each, handler)

    def serve(
        self,
        progress: Callable[[int, int], object],
        on_ready: Callable[[Found], object],
        on_complete: Callable[[Found], object],
    ) -> NoReturn:
        """Serve until told to end; KaggleOpsError if nothing can be served.

        Args:
            progress: called with how many entities are in the index, and how many there are to be.
            on_ready: called when the server listens and all is in, or, if there is much to come,
                some of it.
            on_complete: called when all is in, or is not to be had for now, if that is later.
        """
        found: Found = {"experiment": None, "problems": 0, "warning": "", "done": 0, "total": 0}
        found["complete"] = found["listens"] = was_shown = was_completed = False
        pause = _FIRST_PAUSE
        while True:
            settings = replace(self._settings, again=was_shown)
            self._child = Child("kaggleops.server.worker", settings, self._events)
            while not isinstance(event := self._events.get(), Ended):
                if event is None:
                    raise _ToldToEnd
                found |= event.message
                if "total" in event.message:
                    progress(found["done"], found["total"])
                enough = found["experiment"] and found["total"] > _SOON
                if found["listens"] and not was_shown and (found["complete"] or enough):
                    was_shown, was_completed = True, found["complete"]
                    on_ready(found.copy())
                elif was_shown and found["complete"] and not was_completed:
                    was_completed = True
                    on_complete(found)
                elif was_completed and event.message.get("warning"):
                    self._tell(event.message["warning"])
            if not was_shown:
                raise event.error or KaggleOpsError("starting the server", event.reason)
            if event.lived > _STEADY:
                pause = _FIRST_PAUSE
            self._tell(f"The server process died: {event.reason}. Another starts in {pause:g} s.")
            if self._is_told_to_end(pause):
                raise _ToldToEnd
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _is_told_to_end(self, seconds: float) -> bool:
        """Wait so long; return whether this process was told to end meanwhile."""
        with suppress(queue.Empty):
            return self._events.get(timeout=seconds) is None
        return False


class _ToldToEnd(Exception):  # noqa: N818 - not an error
    pass
