"""What others see of sweeps: what each waits for, what its parents say, notices, and the page."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kaggleops.bucket import ABSENT, Bucket, ConflictError, Version
from kaggleops.campaign import children
from kaggleops.campaign.hosts import Hosts
from kaggleops.campaign.notices import News, Notices
from kaggleops.campaign.search import without
from kaggleops.campaign.state import SweepState
from kaggleops.campaign.turn import Context, Turn
from kaggleops.campaign.view import EVERY, page, recent_sweeps, view_of
from kaggleops.layout import PAGE_KEY
from kaggleops.reports.history import History
from kaggleops.tags import NOTICED, PAUSED, TOLD

_LONGEST_LINE = 1000
_TOLD_EVERY = 600.0  # seconds between two writes of what a sweep waits for
_SUMMARIZED_EVERY = 300.0  # seconds between two writes of what a parent says, before its end
_PAGE_EVERY = 300.0  # seconds between two writes of the page


class Publisher:
    """Brings up to date what others see, each no oftener than it is worth. Not thread-safe."""

    def __init__(self, context: Context, hosts: Hosts) -> None:
        self._uri, self._bucket = context.uri, context.bucket
        self._lease, self._clock = context.lease, context.clock
        self._hosts = hosts
        self._told_at: dict[str, float] = {}
        self._summarized: dict[str, Any] = {}
        self._notices: Notices | None = None
        self._news: dict[str, News] = {}
        self._page = PageObject(context.bucket)
        self._shown: set[str] = set()
        self._shown_at = float("-inf")

    def tell(self, state: SweepState, said: str, turn: Turn) -> None:
        """Keep what a sweep waits for on its parent; not with each minute's figures."""
        turn.waiting[state.id] = said
        before = state.tags.get(TOLD, "")
        now = self._clock.steady()
        age = now - self._told_at.get(state.id, float("-inf"))
        if said == before or (said and before and age < _TOLD_EVERY):
            return
        self._told_at[state.id] = now
        self._lease.require()
        children.set_tags(self._uri, state.id, {TOLD: said[:_LONGEST_LINE]})

    def summarize(self, state: SweepState, turn: Turn) -> None:
        """Let the parents say what their children came to; not for each job anew."""
        known, at = self._summarized.get(state.id, (None, float("-inf")))
        now = self._clock.steady()
        soon = now - at < _SUMMARIZED_EVERY and state.status != "KILLED"
        if known == state.trials or (soon and state.id not in turn.over):
            return
        self._lease.require()
        turn.acted |= bool(children.summarize(self._uri, state, self._bucket))
        self._summarized[state.id] = state.trials, now

    def publish(self, turn: Turn, history: History) -> None:
        """Bring up to date what others see: notices, the page; and end what is over."""
        with turn.isolated():  # an address that is none keeps no sweep from its end
            self._notify(turn)
        ended = {}
        for state in turn.sweeps:
            if status := turn.over.get(state.id):
                self._lease.require()
                self.tell(state, "", turn)
                children.end(self._uri, state.id, status)
                ended[state.id] = replace(state, status=status)
                why = without(state.sweep, state.trials)
                turn.done.append(f"sweep {state.name} is over: {status}{why and f'; {why}'}")
        # What is shown of them goes on no more.
        turn.sweeps = [ended.get(state.id, state) for state in turn.sweeps]
        self._show(turn, history, news=bool(ended))

    def _notify(self, turn: Turn) -> None:
        if self._notices is None:
            self._notices = Notices.from_environment()
        if not self._notices:
            return
        for state in turn.sweeps:
            rest = {}
            if waits_for := turn.waiting.get(state.id):
                kind = "budget" if state.id in turn.over_budget else "waiting"
                rest["paused" if state.tags.get(PAUSED) == waits_for else kind] = waits_for
            if status := turn.over.get(state.id):
                rest["over"] = f"it is over: {status.lower()}"
            told = state.tags.get(NOTICED, "")
            news = News(state.id, state.name, state.sweep, state.trials, rest, told)
            self._news[state.id] = news
        changed = self._notices.tell(list(self._news.values()), self._clock.now())
        for sweep_id, tag in changed.items():
            self._lease.require()
            children.set_tags(self._uri, sweep_id, {NOTICED: tag})
        there = {state.id for state in turn.sweeps}
        for sweep_id in [each for each in self._news if each not in there and each in changed]:
            del self._news[sweep_id]  # its end was told

    def _show(self, turn: Turn, history: History, *, news: bool) -> None:
        """Write the page, now and then; at once, if a sweep has begun or ended."""
        now, open_ones = self._clock.steady(), {state.id for state in turn.sweeps}
        if now - self._shown_at < _PAGE_EVERY and not news and open_ones == self._shown:
            return
        states = recent_sweeps(history, turn.sweeps)
        offers, told = self._hosts.offered_last()
        view = view_of(history, states, offers, self._clock.now(), self._bucket.uri, told)
        self._lease.require()
        self._page.update(view)
        self._shown_at, self._shown = now, open_ones


class PageObject:
    """The page in a bucket, for whoever keeps it."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._version: Version = ABSENT
        self._shown: Mapping[str, Any] = {}  # that was written last

    def update(self, view: Mapping[str, Any]) -> bool:
        """Write the page if it shows something new, or would look old; return whether it did.

        Raises BucketError.
        """
        written = self._shown.get("now", 0)
        old = view["live"] and view["now"] - written >= 1000 * EVERY
        if {**view, "now": written} == self._shown and not old:
            return False
        content = page(view)
        try:
            self._version = self._bucket.write(PAGE_KEY, content, expected=self._version)
        except ConflictError:
            # Another watcher's, or of an earlier process: this one is as true, and newer.
            there = self._bucket.stat(PAGE_KEY)
            version = there.version if there else ABSENT
            self._version = self._bucket.write(PAGE_KEY, content, expected=version)
        self._shown = view
        return True
