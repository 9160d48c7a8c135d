"""Keeps a server running: updates the index, starts the processes that serve, and restarts them.

This is the process that people start and see. It imports nothing of MLflow, to take little memory.
However it ends, even killed, nothing that it started stays.
"""

import queue
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from kaggleops.errors import KaggleOpsError
from kaggleops.platforms.folders import private_folder
from kaggleops.server.links import Shown
from kaggleops.server.processes import Child, Ended, Event, Events, Said, Told
from kaggleops.server.settings import Settings

_STARTING = "starting the server"
_FIRST_PAUSE = 1.0  # seconds before a process that died is started again
_LONGEST_PAUSE = 60.0
_STEADY = 60.0  # seconds after which a process has run well


@dataclass(frozen=True)
class Pulled:
    """What the first pull found.

    Args:
        experiment: that of the latest run.
        problems: how many objects cannot be shown.
        warning: why the index is not up to date, or "".
    """

    experiment: Shown | None
    problems: int
    warning: str


class Supervisor:
    """Serves a bucket: call its methods in their order.

    Args:
        settings: what to serve, and how.
        workers: how many processes serve.
        tell: called with a line when a process is started again.
    """

    def __init__(self, settings: Settings, workers: int, tell: Callable[[str], object]) -> None:
        self._settings = settings
        self._workers = workers
        self._tell = tell
        self._events: Events = queue.SimpleQueue()
        self._children: set[Child] = set()
        self._prepared: Child | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run a block that SIGTERM, SIGINT and SIGHUP end, and clean up after it."""
        which = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = [signal.signal(each, lambda *_: self._events.put(Told())) for each in which]
        scratch = Path(self._settings.scratch)
        shutil.rmtree(scratch, ignore_errors=True)  # left by one that was killed
        private_folder(scratch)
        try:
            yield
        except _ToldToEnd:
            pass
        finally:
            for child in self._children:
                child.tell_to_end()
            for child in self._children:
                child.end()
            shutil.rmtree(scratch, ignore_errors=True)
            for each, handler in zip(which, before, strict=True):
                signal.signal(each, handler)

    def pull(self, progress: Callable[[int, int], object]) -> Pulled:
        """Update the index, reporting entities done and in total; KaggleOpsError if it fails."""
        pulling = self._start("pull")
        # It needs seconds for its imports meanwhile.
        self._prepared = self._start("serve")
        found: dict[str, Any] = {}
        while True:
            event = self._next()
            if isinstance(event, Said):
                found |= event.message
                if "total" in event.message:
                    progress(event.message["done"], event.message["total"])
            elif isinstance(event, Ended) and event.child is not pulling:
                raise event.error or KaggleOpsError(_STARTING, event.reason)
            elif isinstance(event, Ended):
                self._require_success(event, f"indexing {self._settings.bucket}")
                last = found["experiment"]
                shown = Shown(**last) if last else None
                return Pulled(shown, found["problems"], found.get("warning", ""))

    def serve(self, on_ready: Callable[[], object]) -> NoReturn:
        """Serve until told to end; KaggleOpsError if no process could be started at all.

        Args:
            on_ready: called when the first process listens.
        """
        assert self._prepared is not None  # noqa: S101 - by `pull`
        self._prepared.tell_to_begin()
        pauses = {self._prepared: _FIRST_PAUSE}
        due: list[tuple[float, float]] = []
        was_ready = False
        while True:
            event = self._next(min(due)[0] if due else None)
            if isinstance(event, Said) and "ready" in event.message and not was_ready:
                was_ready = True
                # Only now the others: the first one makes the tables that all need.
                pauses |= {self._start_serving(): _FIRST_PAUSE for _ in range(self._workers - 1)}
                on_ready()
            elif isinstance(event, Ended):
                if not was_ready:
                    self._require_success(event, _STARTING)
                pause = pauses.pop(event.child)
                if event.lived > _STEADY:
                    pause = _FIRST_PAUSE
                self._tell(f"A server process died: {event.reason}. Another starts in {pause:g} s.")
                due.append((time.monotonic() + pause, min(2 * pause, _LONGEST_PAUSE)))
            for each in [each for each in due if each[0] <= time.monotonic()]:
                due.remove(each)
                pauses[self._start_serving()] = each[1]

    def _start_serving(self) -> Child:
        worker = self._start("serve")
        worker.tell_to_begin()
        return worker

    def _start(self, task: str) -> Child:
        child = Child("kaggleops.server.worker", self._settings, self._events, [task])
        self._children.add(child)
        return child

    def _next(self, until: float | None = None) -> Event | None:
        """Return the next event; None if there is none until then (monotonic seconds)."""
        timeout = None if until is None else max(0.0, until - time.monotonic())
        try:
            event = self._events.get(timeout=timeout)
        except queue.Empty:
            return None
        if isinstance(event, Told):
            raise _ToldToEnd
        if isinstance(event, Ended):
            self._children.discard(event.child)
        return event

    def _require_success(self, ended: Ended, doing: str) -> None:
        if ended.error is not None:
            raise ended.error
        if ended.code:
            raise KaggleOpsError(doing, ended.reason)


class _ToldToEnd(Exception):  # noqa: N818 - not an error
    pass
