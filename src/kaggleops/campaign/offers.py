"""What the platforms can give now: asked seldom, and a platform that fails or refuses ends nothing.

One that refused a job although it offered a session (somebody else uses the account, a GPU was sold
meanwhile) is left alone for a while: each attempt would be a run that is refused.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from kaggleops.errors import UsageError, explained

if TYPE_CHECKING:
    from kaggleops.backends.interface import Host, Offer

EVERY = timedelta(minutes=1)
"""How seldom a platform is asked, as long as no job there ends."""
SET_UP = timedelta(minutes=10)
"""How seldom one that is not set up on this machine, or refused a job, is."""


class Offers:
    """What the platforms offer, each as it was when it was asked last.

    Args:
        clock: returns the time, with a time zone.
    """

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        # until when an answer stands, beside how many jobs it was given, and the offers
        self._known: dict[str, tuple[datetime, int, list[Offer]]] = {}

    def of(self, host: "Host[Any]", tracking_uri: str, config: Any, running: int) -> "list[Offer]":
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
        from kaggleops.backends.interface import Offer

        until = self._clock() + SET_UP
        problem = f"{backend} refused a job: {why}; it is asked again at {until:%H:%M} UTC"
        self._known[backend] = until, 0, [Offer(backend, 0, problem=problem)]


def _asked(
    host: "Host[Any]", tracking_uri: str, config: Any, running: int, now: datetime
) -> "tuple[datetime, list[Offer]]":
    from kaggleops.backends.interface import Offer

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
