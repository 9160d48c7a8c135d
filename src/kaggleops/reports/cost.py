"""What a bucket costs a month, estimated from what is in it."""

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from kaggleops.bucket import ObjectNotFoundError
from kaggleops.mlruns import (
    ARTIFACTS,
    MLRUNS,
    BrokenEntityError,
    Entity,
    EntityId,
    EntityStore,
    Kind,
)
from kaggleops.mlruns.layout import parse_key
from kaggleops.reports.operations import MONTH, Operations, of_idle_server, of_run
from kaggleops.reports.prices import GIB, Prices

_SAMPLE = 1000
_WORKERS = 16


@dataclass(frozen=True)
class Usage:
    """What is in a bucket, and what was asked of it in the last 30 days.

    Args:
        runs: bytes of runs' metadata and of everything else in `mlruns`.
        artifacts: bytes of artifacts.
        other: bytes of anything else in the bucket.
        all_runs: how many runs there are.
        looked_at: of how many of them the content was read; the rest is taken to be alike.
        recent_runs: how many of them were live in the last 30 days.
        tracking: the operations of those.
        server: the operations of a server that nobody looks at.
        unreadable: how many of the runs looked at could not be read.
    """

    runs: int
    artifacts: int
    other: int
    all_runs: int
    looked_at: int
    recent_runs: float
    tracking: Operations
    server: Operations
    unreadable: int

    @property
    def stored(self) -> int:
        """All bytes."""
        return self.runs + self.artifacts + self.other


@dataclass(frozen=True)
class Charge:
    """One line of the bill: `cost` in US dollars for `charged` of the `amount`."""

    name: str
    amount: float
    free: float
    charged: float
    cost: float


def usage(store: EntityStore) -> Usage:
    """Look at a bucket: one listing, and at most 1,000 runs.

    Raises:
        BucketError: it cannot be read.
    """
    size = {MLRUNS: 0, ARTIFACTS: 0, "": 0}
    runs: list[EntityId] = []
    uploads: dict[str, int] = {}
    for entry in store.bucket.list():
        folder = entry.key.partition("/")[0]
        size[folder if folder in size else ""] += entry.size
        entity_id = parse_key(entry.key)
        if entity_id is not None and entity_id.kind is Kind.RUN:
            runs.append(entity_id)
        if folder == ARTIFACTS:
            for part in entry.key.split("/")[2:3]:  # artifacts/<experiment>/<run>/…
                uploads[part] = uploads.get(part, 0) + 1
    # The listing does not say how old a run is; reading each would cost more than it tells.
    sample = random.Random(0).sample(runs, min(len(runs), _SAMPLE))  # noqa: S311
    lives = list(_lives(store, sample))
    recent = [each for each in lives if each is not None and each.end > time.time() - MONTH]
    share = len(runs) / len(sample) if sample else 1.0
    tracking = sum(
        (each.operations + Operations(uploads.get(each.run_id, 0)) for each in recent),
        Operations(),
    )
    seconds = share * sum(each.seconds for each in recent)
    return Usage(
        runs=size[MLRUNS],
        artifacts=size[ARTIFACTS],
        other=size[""],
        all_runs=len(runs),
        looked_at=len(sample),
        recent_runs=share * len(recent),
        tracking=tracking * share,
        server=of_idle_server(live_run_seconds=seconds),
        unreadable=lives.count(None),
    )


def charges(used: Usage, prices: Prices, region: str) -> list[Charge]:
    """Return the lines of a month's bill.

    Raises:
        UsageError: the price list has no such region.
    """
    free = prices.free_in(region)
    asked = used.tracking + used.server
    return [
        _charge("storage", used.stored, free.storage, prices.storage_in(region) / GIB),
        _charge("class A", asked.class_a, free.class_a, prices.class_a / 1000),
        _charge("class B", asked.class_b, free.class_b, prices.class_b / 1000),
    ]


def _charge(name: str, amount: float, free: float, price: float) -> Charge:
    charged = max(0.0, amount - free)
    return Charge(name, amount, free, charged, charged * price)


_LONGEST_LIFE = 366 * 24 * 3600.0


@dataclass(frozen=True)
class _Life:
    run_id: str
    end: float
    seconds: float
    operations: Operations


def _lives(store: EntityStore, runs: list[EntityId]) -> Iterator[_Life | None]:
    def life(entity_id: EntityId) -> _Life | None:
        try:
            stored = store.read(entity_id)
        except (BrokenEntityError, ObjectNotFoundError):
            return None  # it must not hide what the others cost
        return _life(stored.entity) if stored else None

    if runs:
        with ThreadPoolExecutor(min(_WORKERS, len(runs))) as pool:
            yield from pool.map(life, runs)


def _life(entity: Entity) -> _Life:
    start = float(entity.meta.get("start_time") or 0)
    points = sorted(
        {
            _milliseconds(line)
            for path, data in entity.files.items()
            if path.startswith("metrics/")
            for line in data.splitlines()
        }
    )
    last = max([start, *points[-1:], float(entity.notes.heartbeat)])
    end = float(entity.meta.get("end_time") or last)
    # The hours are gone through one by one, and whoever wrote the run wrote its times.
    seconds = min(max(0.0, end - start) / 1000, _LONGEST_LIFE)
    logged = [(at - start) / 1000 for at in points if start <= at <= start + 1000 * seconds]
    return _Life(entity.id.name, end / 1000, seconds, of_run(seconds, logged))


def _milliseconds(line: bytes) -> float:
    try:
        return float(int(line.split(maxsplit=1)[0]))
    except (ValueError, IndexError):
        return 0.0  # not a point
