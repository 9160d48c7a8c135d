"""The platforms that a watcher hands jobs to: what they offer now, and which are left alone.

One that fails rests for a while, longer each time. What each offered last is kept for the page:
while no job waits, nobody asks.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from kaggleops.backends.base import Backend
from kaggleops.backends.interface import Offer
from kaggleops.backends.lookup import backend_named
from kaggleops.campaign.offers import Offers
from kaggleops.campaign.state import SweepState
from kaggleops.campaign.turn import Clock, Turn
from kaggleops.errors import KaggleOpsError

_SHORTEST_REST, _LONGEST_REST = 10.0, 300.0  # seconds


class Hosts:
    """The backends of all sweeps of a bucket, by their names.

    Args:
        uri: the bucket's tracking URI.
        clock: the time.
        backends: finds a backend by its name.
    """

    def __init__(
        self, uri: str, clock: Clock, backends: Callable[[str], Backend[Any]] | None
    ) -> None:
        self._uri = uri
        self._clock = clock
        self._named = backends or backend_named
        self._backends: dict[str, Backend[Any]] = {}
        self._configs: dict[tuple[str, str], Any] = {}
        self._offers = Offers(clock.now)
        # what each said last, and when
        self._said: dict[str, tuple[datetime, dict[object, Offer]]] = {}
        # those that failed: until when they are left alone, and for how long
        self._resting: dict[str, tuple[float, float]] = {}
        self._began = clock.now()  # the turn
        self.running: Counter[str] = Counter()
        """How many jobs each has, of a sweep or not."""

    def begin_turn(self, running: Mapping[str, int]) -> None:
        """Take what runs on each backend from what was read."""
        self._began, self.running = self._clock.now(), Counter(running)

    def backend(self, name: str) -> Backend[Any]:
        """Return a backend; raises UsageError if there is none of this name."""
        if name not in self._backends:
            self._backends[name] = self._named(name)
        return self._backends[name]

    def config(self, state: SweepState, name: str) -> Any:
        """Return how a sweep sets a backend; raises UsageError where it makes no sense."""
        given = state.sweep.configs.get(name, {})
        known = name, repr(given)
        if known not in self._configs:
            config = self.backend(name).read_config(given, f"the sweep's configuration of {name}")
            self._configs[known] = config
        return self._configs[known]

    def offered(self, state: SweepState) -> list[Offer]:
        """Return what the backends of a sweep offer, of those that do not rest."""
        found: list[Offer] = []
        for name in state.sweep.configs or state.sweep.backends:
            if self.rests(name):
                continue
            try:
                backend, config = self.backend(name), self.config(state, name)
            except KaggleOpsError as error:
                found.append(Offer(name, 0, problem=error.problem))
                continue
            found += self._offers.of(backend, self._uri, config, self.running[name])
        for each in found:
            when, known = self._said.get(each.backend, (self._began, {}))
            # Sweeps may ask differently; that a session was taken meanwhile is no other offer.
            kind = each.accelerator, each.price, bool(each.problem)
            known = {**(known if when >= self._began else {}), kind: each}
            self._said[each.backend] = self._clock.now(), known
        return found

    def offered_last(self) -> tuple[list[Offer], dict[str, datetime]]:
        """Return what each offered last; and when, of those that were not asked in this turn."""
        offers = [each for _, known in self._said.values() for each in known.values()]
        times = {name: when for name, (when, _) in self._said.items() if when < self._began}
        return offers, times

    def refused(self, name: str, why: str) -> None:
        """Note that a backend did not take a job; `why` in one line."""
        self._offers.refused(name, why)

    def rests(self, name: str) -> bool:
        """Tell whether a backend has just failed, and is left alone."""
        until, _ = self._resting.get(name, (0.0, 0.0))
        return self._clock.steady() < until

    def rest(self, name: str, turn: Turn, error: KaggleOpsError) -> None:
        """Leave a backend alone for a while, since it failed."""
        _, before = self._resting.get(name, (0.0, 0.0))
        pause = min(_LONGEST_REST, 2 * before or _SHORTEST_REST)
        self._resting[name] = (self._clock.steady() + pause, pause)
        turn.problems.append(f"{name} is left alone for {pause:.0f} s: {error.problem}")

    def answered(self, name: str) -> None:
        """Note that a backend works."""
        self._resting.pop(name, None)
