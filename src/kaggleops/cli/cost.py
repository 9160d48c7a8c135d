"""`kaggleops cost`: what a bucket costs a month, estimated from what is in it.

The number of operations is a model: it steps through the schedule that a live run follows
(tracking/live.py). benchmarks/bench_operations.py compares it with a true count.
"""

import math
import random
import time
from collections import Counter, deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from kaggleops.cli.options import bucket_at, bucket_of, bucket_option, json_option
from kaggleops.cli.output import err, out, print_json, print_table
from kaggleops.errors import UsageError
from kaggleops.tracking.live import IDLE_LOOK, beat_interval, flush_interval

if TYPE_CHECKING:
    from kaggleops.mlruns import Entity, EntityId, EntityStore

MIB, GIB = 2**20, 2**30
MONTH = 30 * 24 * 3600.0  # seconds

# -- prices of Cloud Storage, class Standard, one region, in US dollars --------------------------

SOURCE = "https://cloud.google.com/storage/pricing"
READ = "2026-09-20"
"""When the prices were read from a transcript of that page; it lacks the storage outside the free
regions, which comes from older copies (2022 and later) that agree on the $0.020."""

FREE_REGIONS = ("us-central1", "us-east1", "us-west1")
_REGIONS_AT = {
    0.020: "us-central1 us-east1 us-west1 us-east5 us-south1 asia-east1 europe-north1 europe-west1",
    0.023: "us-east4 us-west2 us-west3 us-west4 northamerica-northeast1 northamerica-northeast2 "
    "europe-central2 europe-north2 europe-west2 europe-west3",
    0.026: "northamerica-south1",
}
STORAGE = {region: price for price, regions in _REGIONS_AT.items() for region in regions.split()}
"""A GiB for a month, by region."""

CLASS_A, CLASS_B = 0.005 / 1000, 0.0004 / 1000
"""An operation that writes or lists, and one that reads."""

FREE_STORAGE, FREE_A, FREE_B = 5 * GIB, 5_000, 50_000
"""Free each month in the free regions, once for all buckets of a billing account."""

_NOT_INCLUDED = (
    "downloads: $0.12 a GiB; from North America the first 100 GiB a month are free",
    "what people do in the UI, and what other programs do with the bucket",
    "overwritten and deleted objects that the bucket keeps (soft delete, versions)",
)

# -- the model -----------------------------------------------------------------------------------

_TOGETHER = 10.0  # seconds: what is logged so soon after a flush goes with it in this model


@dataclass(frozen=True)
class Operations:
    """Operations of class A (writes, listings) and B (reads)."""

    class_a: float = 0
    class_b: float = 0

    def __add__(self, other: "Operations") -> "Operations":
        return Operations(self.class_a + other.class_a, self.class_b + other.class_b)

    def __mul__(self, times: float) -> "Operations":
        return Operations(self.class_a * times, self.class_b * times)


@dataclass(frozen=True)
class Charge:
    """One line of the bill: `cost` in US dollars for `charged` of the `amount`."""

    name: str
    amount: float
    free: float
    charged: float
    cost: float


def charges(stored: float, asked: Operations, region: str) -> list[Charge]:
    """Return the lines of a month's bill for so many bytes and operations.

    Raises:
        UsageError: the price of the region is not known.
    """
    if region not in STORAGE:
        hint = f"Known: {', '.join(sorted(STORAGE))}. For others see {SOURCE}."
        raise UsageError(f"looking up the prices of {region}", "unknown region", hint)
    bill = []
    for name, amount, allowed, price in (
        ("storage", stored, FREE_STORAGE, STORAGE[region] / GIB),
        ("class A", asked.class_a, FREE_A, CLASS_A),
        ("class B", asked.class_b, FREE_B, CLASS_B),
    ):
        free = allowed if region in FREE_REGIONS else 0
        charged = max(0.0, amount - free)
        bill.append(Charge(name, amount, free, charged, charged * price))
    return bill


def of_run(seconds: float, logged: Iterable[float]) -> Operations:
    """Return what the process of a run of so many seconds does, logging at these seconds of it."""
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
        seen = write if write <= look + _TOGETHER else look
        if seen >= seconds:
            break
        if seen < write:
            looks += 1
            continue
        writes += 1
        written = seen
        while waiting and waiting[0] <= written:
            waiting.popleft()
    renewals = int(seconds // (seconds_open(Kind.RUN) / 2))
    # Before each write of the run the change log is looked at.
    return Operations(writes + renewals, looks + writes)


def of_idle_server(live_run_seconds: float = 0.0) -> Operations:
    """Return a month of a server without visitors: it polls the change log and each live run.

    Args:
        live_run_seconds: how long runs were live in that month, all together.
    """
    daily_listings = MONTH / (24 * 3600)
    return Operations(daily_listings, (MONTH + live_run_seconds) / IDLE_LOOK)


# -- what is in a bucket -------------------------------------------------------------------------

_SAMPLE = 1000
_WORKERS = 16
_LONGEST_LIFE = 366 * 24 * 3600.0


@dataclass(frozen=True)
class Usage:
    """What a bucket holds, in bytes, and what was done with it in the last 30 days."""

    runs: int  # with everything else in `mlruns`
    artifacts: int
    other: int
    all_runs: int
    looked_at: int  # of these were read; the rest is assumed to be alike
    recent_runs: float
    tracking: Operations  # of those
    server: Operations  # without visitors
    unreadable: int


def usage(store: "EntityStore") -> Usage:
    """Return what is in a bucket, by one listing and reading at most 1,000 runs."""
    from kaggleops.bucket import ObjectNotFoundError
    from kaggleops.layout import parse_key
    from kaggleops.mlruns import ARTIFACTS, MLRUNS, BrokenEntityError, Kind

    size: Counter[str] = Counter()
    uploads: Counter[str] = Counter()
    runs: list[EntityId] = []
    for entry in store.bucket.list():
        folder, *rest = entry.key.split("/")
        size[folder if folder in (MLRUNS, ARTIFACTS) else ""] += entry.size
        entity_id = parse_key(entry.key)
        if entity_id is not None and entity_id.kind is Kind.RUN:
            runs.append(entity_id)
        if folder == ARTIFACTS:
            uploads.update(rest[1:2])  # artifacts/<experiment>/<run>/…

    def life(entity_id: "EntityId") -> tuple[float, float, Operations] | None:
        try:
            stored = store.read(entity_id)
        except (BrokenEntityError, ObjectNotFoundError):
            return None  # one broken run must not hide what the others cost
        if stored is None:
            return None
        end, seconds, operations = _life(stored.entity)
        return end, seconds, operations + Operations(uploads[entity_id.name])

    # The listing does not say how old a run is; reading each would cost more than it tells.
    sample = random.Random(0).sample(runs, min(len(runs), _SAMPLE))  # noqa: S311
    with ThreadPoolExecutor(_WORKERS) as pool:
        lives = list(pool.map(life, sample))
    recent = [each for each in lives if each and each[0] > time.time() - MONTH]
    share = len(runs) / len(sample) if sample else 1.0
    return Usage(
        runs=size[MLRUNS],
        artifacts=size[ARTIFACTS],
        other=size[""],
        all_runs=len(runs),
        looked_at=len(sample),
        recent_runs=share * len(recent),
        tracking=sum((each[2] for each in recent), Operations()) * share,
        server=of_idle_server(share * sum(each[1] for each in recent)),
        unreadable=lives.count(None),
    )


def _life(entity: "Entity") -> tuple[float, float, Operations]:
    """Return when a run ended (seconds since the epoch), how long it took, and what it did."""
    start = float(entity.meta.get("start_time") or 0)
    logs = [data for path, data in entity.files.items() if path.startswith("metrics/")]
    stamps = (line.partition(b" ")[0] for data in logs for line in data.splitlines())
    points = sorted({float(stamp) for stamp in stamps if stamp.isdigit() and len(stamp) < 16})
    last = max([start, *points[-1:], float(entity.notes.heartbeat)])
    end = float(entity.meta.get("end_time") or last)
    # Whoever wrote the run wrote its times, and the model goes through them step by step.
    seconds = min(max(0.0, end - start) / 1000, _LONGEST_LIFE)
    logged = [(at - start) / 1000 for at in points if start <= at <= start + 1000 * seconds]
    return end / 1000, seconds, of_run(seconds, logged)


# -- the command ---------------------------------------------------------------------------------


@click.command("cost")
@bucket_option
@click.option(
    "--region",
    default="us-central1",
    show_default=True,
    help="The bucket's region, which a run's credentials may not read.",
)
@json_option
def cost_command(bucket: str | None, region: str, as_json: bool) -> None:
    """Estimate the bucket's monthly cost from what is in it.

    \b
    Example:
      kaggleops cost --bucket gs://my-bucket
    """
    from kaggleops.mlruns import EntityStore

    charges(0, Operations(), region)  # an unknown region is an error before anything is read
    place = bucket_of(bucket)
    with err.status("Reading the bucket"):
        used = usage(EntityStore(bucket_at(place)))
    bill = charges(used.runs + used.artifacts + used.other, used.tracking + used.server, region)
    total = sum(charge.cost for charge in bill)
    storage_read = READ if region in FREE_REGIONS else "2022 or later"
    if as_json:
        print_json(
            bucket=place,
            region=region,
            currency="USD",
            total=total,
            charges=[asdict(charge) for charge in bill],
            usage=asdict(used),
            not_included=_NOT_INCLUDED,
            prices={"source": SOURCE, "read": READ, "storage_read": storage_read},
        )
        return
    out.print(f"Estimate for {place} on Cloud Storage in {region}")
    rows = []
    for charge in bill:
        shown = (charge.amount, min(charge.amount, charge.free))
        stored = charge.name == "storage"
        cells = [f"{each / GIB:,.3f} GiB" if stored else f"{each:,.0f}" for each in shown]
        rows.append([charge.name, *cells, f"{charge.cost:.4f}"])
    print_table(["", "a month", "free", "US dollars"], [*rows, ["Total", "", "", f"{total:.4f}"]])
    out.print(
        f"\nStored: runs {used.runs / MIB:,.1f} MiB, artifacts {used.artifacts / MIB:,.1f} MiB, "
        f"other {used.other / MIB:,.1f} MiB.\n"
        f"Operations: {used.recent_runs:,.0f} runs in the last 30 days: "
        f"{used.tracking.class_a:,.0f} A, {used.tracking.class_b:,.0f} B; a server without "
        f"visitors: {used.server.class_a:,.0f} A, {used.server.class_b:,.0f} B."
    )
    if used.looked_at < used.all_runs:
        out.print(f"Estimated from a sample of {used.looked_at:,} of {used.all_runs:,} runs.")
    if used.unreadable:
        err.print(f"Left out: {used.unreadable} runs that cannot be read.", style="yellow")
    out.print("\nNot included:", *(f"  - {each}" for each in _NOT_INCLUDED), sep="\n")
    out.print(
        f"\nPrices: {SOURCE}, read on {READ} (storage in {region}: {storage_read}). The free "
        "amounts are shared by all buckets of a billing account."
    )
