"""Keeps a server running: brings the bucket in, starts the processes that serve, and restarts them.

The server answers with what the index has as soon as there is one, and the rest comes in meanwhile.

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
from kaggleops.server.processes import Child, Ended, Event, Events, Said, Told
from kaggleops.server.settings import Settings

_STARTING = "starting the server"
_FIRST_PAUSE = 1.0  # seconds before a process that died is started again
_LONGEST_PAUSE = 60.0
_STEADY = 60.0  # seconds after which a process has run well


_SOON = 1000
"""So many runs, experiments and models come in faster than anybody opens a link: it is shown when
they are in, and leads to the experiment of the latest run. Of more, the first runs will do."""


@dataclass(frozen=True)
class Pulled:
    """What the first pull has found by now.

    Args:
        experiment: the id of that of the latest run.
        problems: how many objects cannot be shown.
        warning: why the index is not up to date, or "".
        done: how many runs, experiments and models were looked at.
        total: … of how many.
        ended: whether that was all.
    """

    experiment: str | None
    problems: int
    warning: str
    done: int
    total: int
    ended: bool


class Supervisor:
    """Serves a bucket.

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

    def serve(
        self,
        progress: Callable[[int, int], object],
        on_ready: Callable[[Pulled], object],
        on_pulled: Callable[[Pulled], object],
    ) -> NoReturn:
        """Serve until told to end; KaggleOpsError if nothing can be served.

        Args:
            progress: called with how many entities are in the index, and how many there are to be.
            on_ready: called when the first process listens and all is in, or, if there is much to
                come, some of it.
            on_pulled: called when all is in, or is not to be had for now, if that is later.
        """
        pulling = self._start("pull")
        # It needs seconds for its imports meanwhile.
        prepared = self._start("serve")
        pauses = {prepared: _FIRST_PAUSE}
        due: list[tuple[float, float]] = []
        found: dict[str, Any] = {}
        has_begun = listens = was_shown = has_ended = False
        while True:
            event = self._next(min(due)[0] if due else None)
            if isinstance(event, Said) and event.child is pulling:
                found |= event.message
                if "opened" in event.message:
                    has_begun = True
                    prepared.tell_to_begin()
                elif "total" in event.message:
                    progress(found["done"], found["total"])
            elif isinstance(event, Said) and not listens:
                listens = True
                # Only now the others: the first one makes the tables that all need.
                pauses |= {self._start_serving(): _FIRST_PAUSE for _ in range(self._workers - 1)}
            elif isinstance(event, Ended) and event.child is pulling:
                if event.error or not has_begun:
                    self._require_success(event, f"indexing {self._settings.bucket}")
                elif event.code:
                    found["warning"] = f"Updating the index broke off: {event.reason}. It goes on."
                has_ended = True
                if was_shown:
                    on_pulled(_pulled(found, ended=True))
            elif isinstance(event, Ended):
                if not listens:
                    self._require_success(event, _STARTING)
                pause = pauses.pop(event.child)
                if event.lived > _STEADY:
                    pause = _FIRST_PAUSE
                self._tell(f"A server process died: {event.reason}. Another starts in {pause:g} s.")
                due.append((time.monotonic() + pause, min(2 * pause, _LONGEST_PAUSE)))
            enough = found.get("experiment") and found.get("total", 0) > _SOON
            if listens and not was_shown and (has_ended or enough):
                was_shown = True
                on_ready(_pulled(found, ended=has_ended))
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


def _pulled(found: dict[str, Any], *, ended: bool) -> Pulled:
    return Pulled(
        found.get("experiment"),
        found.get("problems", 0),
        found.get("warning", ""),
        found.get("done", 0),
        found.get("total", 0),
        ended,
    )


class _ToldToEnd(Exception):  # noqa: N818 - not an error
    pass
