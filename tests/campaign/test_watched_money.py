"""Days of the watcher itself over a quota and a price, where the simulation has placement alone."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import RunStatus, RunTag

from kaggleops.backends.config import Config
from kaggleops.backends.interface import Offer, RefusedError
from kaggleops.backends.ready_notebook import parameters_of
from kaggleops.bucket.location import bucket_uri
from kaggleops.campaign import money
from kaggleops.campaign.watch import Watcher
from kaggleops.server.settings import default_index
from kaggleops.tags import DECISION
from kaggleops.tracking.session import Session
from kaggleops.tracking.store import BucketTrackingStore

from .platform import Somewhere
from .test_watch import Stepped
from .world import World

_BUDGET = 4.0
_NEEDED = 2.0  # hours of each job


@dataclass(frozen=True)
class MeteredConfig(Config):
    """What one session may take."""

    hours: float | None = None
    dollars: float = 0.0


class Metered(Somewhere):
    """A platform with a quota or a price, on a clock of its own."""

    config_type = MeteredConfig  # type: ignore[assignment]

    def __init__(self, folder: Path, clock: Stepped, chance: random.Random, offer: Offer) -> None:
        super().__init__(folder, offer.backend, offer.sessions)
        self._clock, self._chance, self._offer = clock, chance, offer
        self.begun: dict[str, tuple[datetime, MeteredConfig]] = {}
        self.used = (offer.total_hours or 0.0) - (offer.hours or 0.0)
        self.billed = 0.0
        self.refuses = 0.0

    def send(self, tags: Mapping[str, str], notebook: str, config: Any) -> None:
        if self._chance.random() < self.refuses:
            raise RefusedError("sending", "somebody else uses it")
        run_id = parameters_of(notebook)["run_id"]
        assert run_id not in self.begun, "it was sent twice"
        assert len(self.begun) < self.sessions
        super().send(tags, notebook, config)
        self.begun[run_id] = self._clock.now(), config

    def offers(self, tracking_uri: str, config: Any, running: int) -> list[Offer]:
        left = None if self._offer.hours is None else (self._offer.total_hours or 0.0) - self.used
        sessions = max(0, self.sessions - running)
        return [replace(self._offer, sessions=sessions, hours=left)]

    def for_session(
        self, config: Any, offer: Offer, hours: float | None, dollars: float
    ) -> MeteredConfig:
        return MeteredConfig(hours=hours, dollars=dollars)  # type: ignore[return-value]

    def pass_time(self, hours: float) -> list[tuple[str, float]]:
        """Let so many hours have passed; return the jobs that are done, and what each cost."""
        self.used += hours * len(self.begun) if self._offer.hours is not None else 0.0
        self.billed += hours * len(self.begun) * self._offer.price
        done = []
        for run_id, (since, config) in list(self.begun.items()):
            took = (self._clock.now() - since) / timedelta(hours=1)
            assert config.hours is None or took <= config.hours + 1e-6
            if self._offer.price:
                assert took * self._offer.price <= config.dollars + 1e-6
            if took >= _NEEDED - 1e-6:
                del self.begun[run_id]
                self.end(run_id, "FINISHED")
                done.append((run_id, took * self._offer.price))
        if self._offer.refreshes and self._clock.now() >= self._offer.refreshes:
            again = self._offer.refreshes + timedelta(days=7)
            self._offer, self.used = replace(self._offer, refreshes=again), 0.0
        return done


def finish(uri: str, run_id: str, when: datetime, cost: float) -> None:
    machine = Session(bucket_uri(uri))
    store = BucketTrackingStore(machine)
    if cost:
        store.set_tag(run_id, RunTag("cost_usd", f"{cost:.4f}"))
    store.update_run_info(run_id, RunStatus.FINISHED, int(when.timestamp() * 1000), None)
    machine.flush()
    machine.close()


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_days_of_a_watcher_that_dies(world: World, tmp_path: Path, seed: int) -> None:
    clock, chance = Stepped(), random.Random(seed)
    soon = clock.now() + timedelta(hours=40)
    free = Offer("free", 2, hours=0.5, total_hours=12.0, refreshes=soon, session_hours=4.0)
    paid = Offer("paid", 4, 0.5, session_hours=3.0, ending_hours=0.2)
    platforms = {
        offer.backend: Metered(tmp_path / "platforms", clock, chance, offer)
        for offer in (free, paid)
    }
    platforms["paid"].refuses = 0.3
    world.begin(
        "alpha=range(1,8)",
        backends=["free", "paid"],
        configs={"free": {}, "paid": {}},
        budget=_BUDGET,
    )

    def begin() -> Watcher:
        place = str(world.folder)
        return Watcher(
            place,
            index=default_index(place),
            bucket=world.bucket,
            clock=clock,
            backends=platforms.__getitem__,
        )

    watcher, jobs = begin(), []
    for _ in range(400):
        turn = watcher.turn()
        if not turn.sweeps:
            break
        jobs = [job for state in turn.sweeps for job in state.jobs]
        for _ in range(1):  # what a turn has changed is told by the next one
            clock.passed += 61.0
            turn = watcher.turn()
        if turn.sweeps:
            jobs = [job for state in turn.sweeps for job in state.jobs]
        spent = money.spent(jobs, clock.now())
        assert spent >= sum(each.billed for each in platforms.values()) - 0.01
        assert spent + money.committed(jobs, clock.now()) <= _BUDGET + 0.01
        busy = any(each.begun for each in platforms.values())
        hours = chance.choice((0.5, 0.75, 1.0)) if busy else 12.0
        clock.passed += 3600 * hours
        for platform in platforms.values():
            for run_id, cost in platform.pass_time(hours + 61 / 3600):
                finish(world.uri, run_id, clock.now(), cost)
        assert platforms["free"].used <= 12.0
        assert platforms["paid"].billed <= _BUDGET
        if chance.random() < 0.2:
            watcher.close()
            watcher = begin()
    watcher.close()
    assert len(jobs) == 7
    assert {name: len(each.jobs) for name, each in platforms.items()}["paid"] > 0
    decisions = [
        BucketTrackingStore(world.uri).get_run(job.run_id).data.tags[DECISION] for job in jobs
    ]
    assert all(each.startswith(("free: ", "paid: ")) for each in decisions)
    assert sum(len(each.jobs) for each in platforms.values()) == 7
