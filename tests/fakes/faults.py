"""Misbehaviour on demand."""

import random
import threading
from collections.abc import Callable
from typing import Any

from tests.fakes.wire import Request

KINDS = (
    *("reset", "truncate", "lost-response", "corrupt", "partial", "hang", "late"),
    *("page", "redirect", "garbled", "stall", "error-in-200"),
)


class Fault:
    """One kind of misbehaviour, for the requests that it is meant for.

    Attributes:
        hits: how many requests it has struck.
        struck: set once it has struck.
    """

    def __init__(
        self,
        kind: int | str,
        times: int | None,
        where: Callable[[Any], bool],
        retry_after: float | None,
        message: str | None,
        then: Callable[[], object],
        probability: float,
        seed: int,
        status: int = 200,
    ) -> None:
        if isinstance(kind, str) and kind not in KINDS:
            raise ValueError(f"{kind!r} is not one of {KINDS}")
        self.kind = kind
        self.retry_after = retry_after
        self.message = message
        self.then = then
        self.status = status
        self.hits = 0
        self.struck = threading.Event()
        self._times = times
        self._where = where
        self._probability = probability
        self._random = random.Random(seed)
        self._released = threading.Event()

    def strikes(self, request: Request) -> bool:
        """Tell whether it strikes this request, and count it if so."""
        if self._times is not None and self.hits >= self._times:
            return False
        if not self._where(request) or self._random.random() >= self._probability:
            return False
        self.hits += 1
        self.struck.set()
        return True

    def release(self) -> None:
        """Let the hanging requests, and those to come, go on."""
        self._times = self.hits
        self._released.set()

    def hang(self, stopping: threading.Event) -> None:
        """Return when it is released, or the server stops."""
        while not self._released.wait(0.05) and not stopping.is_set():
            pass


class Faults:
    """The faults in force, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        with self._lock:
            self._faults.append(fault)
        return fault

    def strike(self, request: Request) -> Fault | None:
        """Return the one fault that strikes this request, if any."""
        with self._lock:
            return next((fault for fault in self._faults if fault.strikes(request)), None)

    def clear(self) -> None:
        with self._lock:
            for fault in self._faults:
                fault.release()
            self._faults.clear()
