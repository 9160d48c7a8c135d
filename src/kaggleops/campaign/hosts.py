"""The platforms that a watcher hands jobs to: what they offer now, and which are left alone.

A platform is asked seldom, and one that fails rests for a while, longer each time. One that refused
a job although it offered a session (somebody else uses the account, a GPU was sold meanwhile) is
left alone: each attempt would be a run that is refused. What each offered last is kept for the
page: while no job waits, nobody asks.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from kaggleops.backends.base import Backend
from kaggleops.backends.interface import Host, Offer
from kaggleops.backends.lookup import backend_named
from kaggleops.campaign.state import SweepState
from kaggleops.campaign.turn import Clock, Turn
from kaggleops.errors import KaggleOpsError, UsageError, explained

_SHORTEST_REST, _LONGEST_REST = 10.0, 300.0  # seconds
EVERY = timedelta(minutes=1)
"""How seldom a platform is asked, as long as no job there ends."""
SET_UP = timedelta(minutes=10)
"""How seldom one that is not set up on this machine, or refused a job, is."""


class Offers:
    """What the platforms offer, as it was when each was asked last; `clock` has a time zone."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        # until when an answer stands, beside how many jobs it was given, and the offers
        self._known: dict[str, tuple[datetime, int, list[Offer]]] = {}

    def of(self, host: Host[Any], tracking_uri: str, config: Any, running: int) -> list[Offer]:
        """Return the offers of a backend beside the jobs of the bucket that run there.

        One that cannot be asked has a single one, with its problem.
        """
        now, key = self._clock(), f"{host.name} {tracking_uri} {config!r}"
        refusal = self._known.get(host.name)
        if refusal and now < refusal[0]:
            return refusal[2]
        known = self._known.get(key)
        if known is None or now >= known[0] or running < known[1]:
            until, offers = _asked(host, tracking_uri, config, running, now)
            known = self._known[key] = until, running, offers
        # Those that began since then are at work.
        begun = max(0, running - known[1])
        return [replace(each, sessions=max(0, each.sessions - begun)) for each in known[2]]

    def refused(self, backend: str, why: str) -> None:
        """Note that a backend did not take a job; `why` in one line."""
        until = self._clock() + SET_UP
        problem = f"{backend} refused a job: {why}; it is asked again at {until:%H:%M} UTC"
        self._known[backend] = until, 0, [Offer(backend, 0, problem=problem)]


def _asked(
    host: Host[Any], tracking_uri: str, config: Any, running: int, now: datetime
) -> tuple[datetime, list[Offer]]:
    try:
        until = now + min(EVERY, timedelta(seconds=host.ask_every))
        return until, host.offers(tracking_uri, config, running)
    except Exception as raised:
        error = explained(raised)
        if error is None:
            raise
        problem = f"{host.name}: {' '.join(error.problem.split())}"
        until = now + (SET_UP if isinstance(error, UsageError) else EVERY)
        return until, [Offer(host.name, 0, problem=problem)]


class Hosts:
    """The backends of all sweeps of a bucket, by their names; `backends` finds one by its name."""

    def __init__(
        self, uri: str, clock: Clock, backends: Callable[[str], Backend[Any]] | None
    ) -> None:
        self._uri = uri
        self._clock = clock
        self.backend = cache(backends or backend_named)
        """Finds a backend; raises UsageError if there is none of this name."""
        self.offers = Offers(clock.now)
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

    def config(self, state: SweepState, name: str) -> Any:
        """Return how a sweep sets a backend; raises UsageError where it makes no sense."""
        given = state.sweep.configs.get(name, {})
        return self.backend(name).read_config(given, f"the sweep's configuration of {name}")

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
            found += self.offers.of(backend, self._uri, config, self.running[name])
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
