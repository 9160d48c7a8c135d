"""What the platforms can give now: asked seldom, and a platform that fails or refuses ends nothing.

One that refused a job although it offered a session (somebody else uses the account, a GPU was sold
meanwhile) is left alone for a while: each attempt would be a run that is refused.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from kaggleops.errors import UsageError, explained

if TYPE_CHECKING:
    from kaggleops.backends.interface import Host, Offer

EVERY = timedelta(minutes=1)
"""How seldom a platform is asked, as long as no job there ends."""
SET_UP = timedelta(minutes=10)
"""How seldom one that is not set up on this machine, or refused a job, is."""


@dataclass(frozen=True)
class _Answer:
    offers: "list[Offer]"
    running: int
    until: datetime


class Offers:
    """What the platforms offer, each as it was when it was asked last.

    Args:
        clock: returns the time, with a time zone.
    """

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._known: dict[str, _Answer] = {}
        self._refusals: dict[str, _Answer] = {}

    def of(self, host: "Host[Any]", tracking_uri: str, config: Any, running: int) -> "list[Offer]":
        """Return the offers of a backend beside the jobs of the bucket that run there.

        One that cannot be asked has a single one, with its problem.
        """
        now, key = self._clock(), f"{host.name} {tracking_uri} {config!r}"
        refusal = self._refusals.get(host.name)
        if refusal and now < refusal.until:
            return refusal.offers
        known = self._known.get(key)
        if known is None or now >= known.until or running < known.running:
            known = self._known[key] = _asked(host, tracking_uri, config, running, now)
        # Those that began since then are at work.
        begun = max(0, running - known.running)
        return [replace(each, sessions=max(0, each.sessions - begun)) for each in known.offers]

    def refused(self, backend: str, why: str) -> None:
        """Note that a backend did not take a job; `why` in one line."""
        from kaggleops.backends.interface import Offer

        until = self._clock() + SET_UP
        problem = f"{backend} refused a job: {why}; it is asked again at {until:%H:%M} UTC"
        self._refusals[backend] = _Answer([Offer(backend, 0, problem=problem)], 0, until)


def _asked(
    host: "Host[Any]", tracking_uri: str, config: Any, running: int, now: datetime
) -> _Answer:
    from kaggleops.backends.interface import Offer

    try:
        until = now + min(EVERY, timedelta(seconds=host.ask_every))
        return _Answer(host.offers(tracking_uri, config, running), running, until)
    except Exception as raised:
        error = explained(raised)
        if error is None:
            raise
        problem = f"{host.name}: {' '.join(error.problem.split())}"
        until = now + (SET_UP if isinstance(error, UsageError) else EVERY)
        return _Answer([Offer(host.name, 0, problem=problem)], running, until)
