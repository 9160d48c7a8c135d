"""`kaggleops cost`: what a bucket costs a month, estimated from what is in it.

How many operations a run asks for is a model: it steps through the schedule that a live run follows
(tracking/live.py). benchmarks/bench_operations.py shows it beside the true count.
"""

import math
import random
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click
from rich.table import Table

from kaggleops.bucket.location import is_remote
from kaggleops.cli.options import bucket_at, bucket_of, bucket_option, json_option
from kaggleops.cli.output import err, out, print_json, print_whole
from kaggleops.errors import UsageError
from kaggleops.tracking.live import IDLE_LOOK, beat_interval, flush_interval

if TYPE_CHECKING:
    from kaggleops.mlruns import Entity, EntityId, EntityStore

MIB, GIB = 2**20, 2**30
MONTH = 30 * 24 * 3600.0

# -- prices of Cloud Storage, class Standard, one region, in US dollars --------------------------

SOURCE = "https://cloud.google.com/storage/pricing"
READ = "2026-09-20"
"""A dated transcript of that page has all but the storage outside of the free regions, which comes
from older copies of it (2022 and later), in which the $0.020 is the same."""

FREE_REGIONS = ("us-central1", "us-east1", "us-west1")
STORAGE = {
    **dict.fromkeys(FREE_REGIONS, 0.020),
    **dict.fromkeys(
        ("us-east5", "us-south1", "asia-east1", "europe-north1", "europe-west1"), 0.020
    ),
    **dict.fromkeys(
        ("us-east4", "us-west2", "us-west3", "us-west4", "northamerica-northeast1",
         "northamerica-northeast2", "europe-central2", "europe-north2", "europe-west2",
         "europe-west3"),
        0.023,
    ),
    "northamerica-south1": 0.026,
}  # fmt: skip
"""A gibibyte for a month, by region."""

CLASS_A, CLASS_B = 0.005 / 1000, 0.0004 / 1000
"""An operation that writes or lists, and one that reads."""

FREE_STORAGE, FREE_A, FREE_B = 5 * GIB, 5_000, 50_000
"""What a month has for nothing, once for all buckets of a billing account."""

_EGRESS, _FREE_EGRESS = 0.12, 100  # a gibibyte, and how many are free from North America


@dataclass(frozen=True)
class Charge:
    """One line of the bill: `cost` in US dollars for `charged` of the `amount`."""

    name: str
    amount: float
    free: float
    charged: float
    cost: float


def charges(stored: float, asked: "Operations", region: str) -> list[Charge]:
    """Return the lines of a month's bill.

    Args:
        stored: bytes.
        asked: the operations.
        region: where the bucket lies.

    Raises:
        UsageError: the price list has no such region.
    """
    if region not in STORAGE:
        hint = f"It has {', '.join(sorted(STORAGE))}; see {SOURCE} for others."
        problem = "the price list has no such region"
        raise UsageError(f"looking up the prices of {region}", problem, hint)
    lines = (
        ("storage", stored, FREE_STORAGE, STORAGE[region] / GIB),
        ("class A", asked.class_a, FREE_A, CLASS_A),
        ("class B", asked.class_b, FREE_B, CLASS_B),
    )
    bill = []
    for name, amount, allowed, price in lines:
        free = allowed if region in FREE_REGIONS else 0
        charged = max(0.0, amount - free)
        bill.append(Charge(name, amount, free, charged, charged * price))
    return bill


# -- operations ----------------------------------------------------------------------------------

_TOGETHER = 10.0
"""Seconds; what is logged so soon after a flush goes with it in this model."""


@dataclass(frozen=True)
class Operations:
    """Operations of class A (writes, listings) and B (reads)."""

    class_a: float = 0
    class_b: float = 0

    def __add__(self, other: "Operations") -> "Operations":
        return Operations(self.class_a + other.class_a, self.class_b + other.class_b)

    def __mul__(self, times: float) -> "Operations":
        return Operations(self.class_a * times, self.class_b * times)


def of_run(seconds: float, logged: Iterable[float]) -> Operations:
    """Return what a run's own process asks of the bucket.

    Args:
        seconds: how long it takes.
        logged: when something is logged, in seconds since its start.
    """
    from kaggleops.mlruns import Kind
    from kaggleops.mlruns.change_log import seconds_open

    # Announced, created, its final status, closed; its experiment looked at.
    writes, looks = 4, 2
    waiting = deque(sorted(logged))
    written = seen = 0.0
    while True:
        flush = max(waiting[0], written + flush_interval(written)) if waiting else math.inf
        write = min(flush, written + beat_interval(written))
        look = seen + flush_interval(seen)  # at a flush that sends nothing
        now = write if write <= look + _TOGETHER else look
        if now >= seconds:
            break
        seen = now
        if now < write:
            looks += 1
            continue
        writes += 1
        written = now
        while waiting and waiting[0] <= now:
            waiting.popleft()
    renewals = int(seconds // (seconds_open(Kind.RUN) / 2))
    # Before each write of the run the change log is looked at.
    return Operations(writes + renewals, looks + writes)


def of_idle_server(live_run_seconds: float = 0.0) -> Operations:
    """Return what a month of a server that nobody looks at asks: the change log, each live run.

    Args:
        live_run_seconds: how long runs were live meanwhile, all together.
    """
    daily_listings = MONTH / (24 * 3600)
    return Operations(daily_listings, (MONTH + live_run_seconds) / IDLE_LOOK)


# -- what is in a bucket -------------------------------------------------------------------------

_SAMPLE = 1000
_WORKERS = 16
_LONGEST_LIFE = 366 * 24 * 3600.0


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


@dataclass(frozen=True)
class _Life:
    run_id: str
    end: float
    seconds: float
    operations: Operations


def usage(store: "EntityStore") -> Usage:
    """Look at a bucket: one listing, and at most 1,000 runs.

    Raises:
        BucketError: it cannot be read.
    """
    from kaggleops.layout import parse_key
    from kaggleops.mlruns import ARTIFACTS, MLRUNS, Kind

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
    return Usage(
        runs=size[MLRUNS],
        artifacts=size[ARTIFACTS],
        other=size[""],
        all_runs=len(runs),
        looked_at=len(sample),
        recent_runs=share * len(recent),
        tracking=tracking * share,
        server=of_idle_server(share * sum(each.seconds for each in recent)),
        unreadable=lives.count(None),
    )


def _lives(store: "EntityStore", runs: "list[EntityId]") -> Iterator[_Life | None]:
    from kaggleops.bucket import ObjectNotFoundError
    from kaggleops.mlruns import BrokenEntityError

    def life(entity_id: "EntityId") -> _Life | None:
        try:
            stored = store.read(entity_id)
        except (BrokenEntityError, ObjectNotFoundError):
            return None  # it must not hide what the others cost
        return _life(stored.entity) if stored else None

    if runs:
        with ThreadPoolExecutor(min(_WORKERS, len(runs))) as pool:
            yield from pool.map(life, runs)


def _life(entity: "Entity") -> _Life:
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


# -- the command ---------------------------------------------------------------------------------


@click.command("cost")
@bucket_option
@click.option(
    "--region",
    default="us-central1",
    show_default=True,
    help="Where the bucket lies; it cannot tell us with the rights that a run needs.",
)
@json_option
def cost_command(bucket: str | None, region: str, as_json: bool) -> None:
    """Estimate the bucket's cost a month from what is in it.

    \b
    Example:
      kaggleops cost --bucket gs://my-bucket
    """
    from kaggleops.mlruns import EntityStore

    charges(0, Operations(), region)  # what is wrong with the region is said first
    place = bucket_of(bucket)
    with err.status("Looking at the bucket"):
        used = usage(EntityStore(bucket_at(place)))
    stored = used.runs + used.artifacts + used.other
    bill = charges(stored, used.tracking + used.server, region)
    total = sum(charge.cost for charge in bill)
    unknown = [
        f"what is downloaded: ${_EGRESS:.2f} a GiB; from North America the first "
        f"{_FREE_EGRESS} GiB a month are free",
        "what people ask through the UI, and what other programs do with the bucket",
        "what the bucket keeps of overwritten and deleted objects (soft delete, versions)",
    ]
    storage_read = READ if region in FREE_REGIONS else "2022 or later"
    if as_json:
        print_json(
            bucket=place,
            region=region,
            currency="USD",
            total=total,
            charges=[asdict(charge) for charge in bill],
            usage=asdict(used),
            not_included=unknown,
            prices={"source": SOURCE, "read": READ, "storage_read": storage_read},
        )
        return
    where = f"in {region}" if is_remote(place) else f"if it lay on Cloud Storage in {region}"
    out.print(f"An estimate for {place} {where}\n")
    print_whole(_table(bill, total))
    out.print(
        f"\nStored: runs {used.runs / MIB:,.1f} MiB, artifacts {used.artifacts / MIB:,.1f} MiB, "
        f"other {used.other / MIB:,.1f} MiB.\n"
        f"Operations: runs of the last 30 days ({used.recent_runs:,.0f}): "
        f"{used.tracking.class_a:,.0f} A, {used.tracking.class_b:,.0f} B; a server that nobody "
        f"looks at, which looks every {IDLE_LOOK:.0f} s: {used.server.class_a:,.0f} A, "
        f"{used.server.class_b:,.0f} B.",
    )
    if used.looked_at < used.all_runs:
        out.print(f"Read: {used.looked_at:,} of {used.all_runs:,} runs, taken as a sample.")
    if used.unreadable:
        err.print(f"Not in it, as they cannot be read: {used.unreadable} runs.", style="yellow")
    out.print("\nNot in it, because the bucket does not tell:")
    for each in unknown:
        out.print(f"  - {each}")
    out.print(
        f"\nPrices: {SOURCE}, read on {READ} (storage in {region}: {storage_read}). "
        "What is free is free once for all buckets of a billing account.",
    )


def _table(bill: list[Charge], total: float) -> Table:
    table = Table("", "a month", "of it free", "US dollars", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    titles = ("Storage", "Operations of class A (writes)", "Operations of class B (reads)")
    for title, charge in zip(titles, bill, strict=True):
        amounts = (charge.amount, min(charge.amount, charge.free))
        is_storage = charge.name == "storage"
        cells = [f"{each / GIB:,.3f} GiB" if is_storage else f"{each:,.0f}" for each in amounts]
        table.add_row(title, *cells, f"{charge.cost:.4f}")
    table.add_row("Total", "", "", f"{total:.4f}", style="bold")
    return table
