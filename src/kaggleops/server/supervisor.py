"""Keeps a server running: brings the bucket in, and starts what serves, again where that died.

This is the process that people start and see. It imports nothing of MLflow's, so that it takes
little memory. However it ends, even killed, nothing that it started stays.
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
from kaggleops.server.health import Shown
from kaggleops.server.processes import Child, Ended, Event, Events, Said, Told
from kaggleops.server.settings import Settings

_WORKER = "kaggleops.server.worker"
_STARTING = "starting the server"
_FIRST_PAUSE = 1.0  # seconds before a process that died is started again
_LONGEST_PAUSE = 60.0
_STEADY = 60.0  # seconds after which a process is taken to have run well


@dataclass(frozen=True)
class Pulled:
    """What the first pull found."""

    experiment: Shown | None
    """The experiment of the run that was started last."""
    problems: int
    """How much of the bucket cannot be shown as it is."""
    warning: str
    """Why the index is not fresh, if it is not."""


class Supervisor:
    """Serves a bucket, in the order of its methods.

    Args:
        settings: what, and how.
        workers: how many processes serve.
        tell: called with a line about a process that was started again.
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
        """Run a block that SIGTERM, SIGINT and SIGHUP end; nothing of this is left after it."""
        which = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = [signal.signal(each, lambda *_: self._events.put(Told())) for each in which]
        scratch = Path(self._settings.scratch)
        shutil.rmtree(scratch, ignore_errors=True)  # of one that was killed
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
        """Bring the bucket into the index.

        Args:
            progress: called with how many entities were looked at, and how many there are.

        Raises:
            KaggleOpsError: it cannot be.
        """
        pulling = self._start("kaggleops.server.first_pull")
        # What it imports takes seconds, which pass meanwhile.
        self._prepared = self._start(_WORKER)
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
                self._require_success(event, f"bringing {self._settings.bucket} into the index")
                last = found["experiment"]
                shown = Shown(**last) if last else None
                return Pulled(shown, found["problems"], found.get("warning", ""))

    def serve(self, on_ready: Callable[[], object]) -> NoReturn:
        """Serve until told to end, what has been pulled.

        Args:
            on_ready: called when the first process listens.

        Raises:
            KaggleOpsError: no process could be started at all.
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
                # Only now the others: the first one makes the tables that they all need.
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
        worker = self._start(_WORKER)
        worker.tell_to_begin()
        return worker

    def _start(self, module: str) -> Child:
        child = Child(module, self._settings, self._events)
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


class _ToldToEnd(Exception):  # noqa: N818 - it is none
    pass
