"""What a month would cost: so many runs, with a server all day, on demand, or none."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from kaggleops.errors import UsageError
from kaggleops.reports.cost import Charge, Usage, charges
from kaggleops.reports.operations import (
    IDLE_LOOK_SECONDS,
    LISTED_AT_ONCE,
    MONTH,
    WATCHED_LOOK_SECONDS,
    Operations,
    of_run,
)
from kaggleops.reports.prices import CLOUD_STORAGE, COMPUTE_ENGINE, GIB

Server = Literal["all day", "on demand", "none"]
SERVERS: tuple[Server, ...] = ("all day", "on demand", "none")

LOGS_EVERY = 10.0
"""Seconds between two points of a run."""

WATCHED_DAYS = 20
WATCHED_HOURS = 2.0
"""On each of those days somebody looks at the UI for so long; a page a minute."""

_HOUR = 3600.0
_MONTH_HOURS = 730.0
_DISK = 20  # gibibytes, as infra/terraform makes it

# Of a run of three metrics and 40 params, its pack: 157 kB after nine hours of a point each 10 s,
# with values that do not compress (measured).
_PACK_BYTES_AN_HOUR = 157_000 / 9

# infra/terraform keeps the ten newest versions of a run's pack for 30 days, each older one for one
# day; and what is deleted is there, and paid, for seven days more.
_NEWEST = 10
_NEWEST_DAYS = 30 + 7
_OLDER_DAYS = 1 + 7

# `kaggleops ui` over 20 runs, counted: a start 5 A and 23 B, the first page 2 A and 21 B, each
# other page 2 A.
_UI_START = 5
_UI_PAGE = 2


@dataclass(frozen=True)
class Run:
    """What a run is taken to be.

    Args:
        hours: how long it takes.
        artifacts: bytes that it leaves.
    """

    hours: float = 9.0
    artifacts: float = 100 * 2**20


@dataclass(frozen=True)
class Month:
    """What a month costs.

    Args:
        runs: how many there are in it.
        server: how the UI is served.
        bill: what is charged, in US dollars.
    """

    runs: int
    server: Server
    bill: tuple[Charge, ...]

    @property
    def total(self) -> float:
        """US dollars."""
        return sum(charge.cost for charge in self.bill)


def month(runs: int, server: Server, run: Run, region: str) -> Month:
    """Return what a month costs.

    Raises:
        UsageError: the price list has no such region.
    """
    logged = [LOGS_EVERY * each for each in range(1, int(run.hours * _HOUR / LOGS_EVERY))]
    one = of_run(run.hours * _HOUR, logged)
    pack = run.hours * _PACK_BYTES_AN_HOUR
    older = max(0.0, one.class_a - _NEWEST) * pack / 2 * _OLDER_DAYS / 30
    newest = min(one.class_a, _NEWEST) * pack * _NEWEST_DAYS / 30
    used = Usage(
        runs=int(runs * pack),
        artifacts=int(runs * run.artifacts),
        other=int(runs * (older + newest)),
        all_runs=runs,
        looked_at=0,
        recent_runs=runs,
        tracking=one * runs,
        server=_of_server(server, runs, runs * run.hours * _HOUR / MONTH),
        unreadable=0,
    )
    return Month(runs, server, (*charges(used, CLOUD_STORAGE, region), _machine(server, region)))


def _of_server(server: Server, runs: int, live: float) -> Operations:
    """Return what showing the runs asks of the bucket; `live` of them are, at any time."""
    listing = math.ceil(runs / LISTED_AT_ONCE)
    watched = WATCHED_DAYS * WATCHED_HOURS * _HOUR
    if server == "none":
        pages = WATCHED_HOURS * 60
        listings = _UI_START + _UI_PAGE * pages
        return Operations(listings * listing, 2 * runs) * WATCHED_DAYS
    looks = watched / WATCHED_LOOK_SECONDS
    if server == "on demand":
        return Operations(2 * listing * WATCHED_DAYS, looks * (1 + live) + runs)
    looks += (MONTH - watched) / IDLE_LOOK_SECONDS
    return Operations(30 * listing, looks * (1 + live) + runs)


def _machine(server: Server, region: str) -> Charge:
    """Return what its hours and its disk cost: nothing, where the free tier is."""
    if server == "none":
        return Charge("machine", 0, 0, 0, 0.0)
    if region not in COMPUTE_ENGINE.regions:
        raise UsageError(
            f"looking up the prices of a machine in {region}",
            "the price list has none there",
            f"It has {', '.join(sorted(COMPUTE_ENGINE.regions))}.",
        )
    hours = _MONTH_HOURS if server == "all day" else WATCHED_DAYS * WATCHED_HOURS
    disk = max(0, _DISK - COMPUTE_ENGINE.free_disk) * COMPUTE_ENGINE.disk
    return Charge("machine", hours, _MONTH_HOURS, 0, disk)


def traps() -> Iterator[tuple[str, str]]:
    """Yield what makes a bill that nobody expected, and what it costs."""
    prices, bucket = COMPUTE_ENGINE, CLOUD_STORAGE
    address = prices.address * _MONTH_HOURS
    nat = (prices.nat + prices.address) * _MONTH_HOURS
    yield "an external IPv4 address (terraform's `open_to`)", f"${address:.2f} a month"
    yield (
        "Cloud NAT with its address (`nat`)",
        f"${nat:.2f} a month, and ${prices.nat_data:.3f} a GiB",
    )
    yield (
        "a second e2-micro, or one that is a spot machine: not free",
        f"up to ${prices.e2_micro * _MONTH_HOURS:.2f} a month",
    )
    yield (
        f"disk over {prices.free_disk} GiB of all machines together, or of another type",
        f"from ${prices.disk:.2f} a GiB and month",
    )
    yield (
        f"downloads from the bucket: over {bucket.free_egress} GiB a month, and from the first one "
        "where the bucket is not in North America",
        f"${bucket.egress:.2f} a GiB",
    )
    yield (
        f"what the machine sends out: over {prices.free_egress} GiB a month",
        f"${bucket.egress:.2f} a GiB",
    )
    yield (
        f"lists: one operation of class A for {LISTED_AT_ONCE:,} objects, with each page of "
        "`kaggleops ui`, each glob, each `gcloud storage ls -r`",
        f"${bucket.class_a:.3f} for 1,000",
    )
    yield (
        "artifacts: they stay, and each month adds its own",
        f"${bucket.storage_in('us-central1') * 100:.2f} a month for 100 GiB",
    )
    yield (
        "what was overwritten or deleted: a bucket keeps it for seven days as it comes",
        f"${bucket.storage_in('us-central1'):.3f} a GiB and month",
    )


def of_storage(found: Month) -> float:
    """Return the gibibytes that are kept."""
    return found.bill[0].amount / GIB
