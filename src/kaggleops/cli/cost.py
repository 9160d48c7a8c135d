"""`kaggleops cost`: what a bucket costs a month, estimated from what is in it.

The number of operations is a model: it steps through the schedule that a live run follows
(tracking/live.py). benchmarks/bench_operations.py compares it with a true count.
"""

import math
import random
import time
import tomllib
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from kaggleops.cli import options
from kaggleops.cli.output import err, out, print_json, print_table
from kaggleops.errors import UsageError
from kaggleops.tracking.live import IDLE_LOOK, beat_interval, flush_interval, output_interval

if TYPE_CHECKING:
    from kaggleops.mlruns import Entity, EntityId, EntityStore

MIB, GIB = 2**20, 2**30
_MILLION = 10**6
MONTH = 30 * 24 * 3600.0  # seconds

# -- prices --------------------------------------------------------------------------------------


class Prices(NamedTuple):
    """A service's list, as prices.toml describes it: US dollars for a gigabyte, for a million."""

    service: str
    source: str = ""
    read: str = ""
    storage: float = 0
    class_a: float = 0
    class_b: float = 0
    free: Sequence[float] = (0, 0, 0)
    downloads: str = ""
    fixed: float = 0
    gigabyte: int = GIB
    rounded_up: bool = False


def prices_at(host: str = "", region: str | None = None) -> Prices:
    """Return the price list of the service that answers at a host; of Cloud Storage for "".

    Raises UsageError if the price of that region is not known.
    """
    lists = tomllib.loads(Path(__file__).with_name("prices.toml").read_text())["list"]
    regions: list[str] = []
    for each in lists:
        end, there = each.pop("host"), each.pop("regions", [])
        if (host.endswith(end) if end else not host) and (not region or region in there):
            return Prices(**each)
        regions += there
    if region:
        doing = f"looking up the prices of {region}"
        if host:
            raise UsageError(doing, f"{host} has no prices by region here", "Leave out --region.")
        hint = f"Known: {', '.join(sorted(regions))}. For others see {lists[0]['source']}."
        raise UsageError(doing, "unknown region", hint)
    return Prices(host)


_NOT_INCLUDED = (
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


def charges(stored: float, asked: Operations, prices: Prices) -> list[Charge]:
    """Return the lines of a month's bill for so many bytes and operations."""
    bill = [Charge("subscription", 1, 0, 1, prices.fixed)] if prices.fixed else []
    for name, amount, unit, free, price in (
        ("storage", stored, prices.gigabyte, prices.free[0], prices.storage),
        ("class A", asked.class_a, _MILLION, prices.free[1], prices.class_a),
        ("class B", asked.class_b, _MILLION, prices.free[2], prices.class_b),
    ):
        charged = max(0.0, amount - free * unit) / unit
        charged = math.ceil(charged) if prices.rounded_up else charged
        bill.append(Charge(name, amount, free * unit, charged * unit, charged * price))
    return bill


def of_run(seconds: float, logged: Iterable[float]) -> Operations:
    """Return what the process of a run of so many seconds does, logging at these seconds of it.

    Raises UsageError if KAGGLEOPS_FLUSH_SECONDS is no number.
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


def of_output(seconds: float) -> Operations:
    """Return what keeps the output of a run of so many seconds, if it prints all the time."""
    writes, at = 1, output_interval(0)  # one at its end
    while at < seconds:
        writes += 1
        at += output_interval(at)
    return Operations(writes)


def of_idle_server(live_run_seconds: float = 0.0) -> Operations:
    """Return a month of a server without visitors: it polls the change log and each live run.

    `live_run_seconds` is how long runs were live in that month, all together.
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
    """Return what is in a bucket, by one listing and reading at most 1,000 runs.

    Raises BucketError if the bucket cannot be read.
    """
    from kaggleops.layout import OUTPUT, parse_key
    from kaggleops.mlruns import ARTIFACTS, MLRUNS, Kind

    size: Counter[str] = Counter()
    uploads: Counter[str] = Counter()
    runs: list[EntityId] = []
    with_output: set[str] = set()
    for entry in store.bucket.list():
        folder, *rest = entry.key.split("/")
        size[folder if folder in (MLRUNS, ARTIFACTS) else ""] += entry.size
        entity_id = parse_key(entry.key)
        if entity_id is not None and entity_id.kind is Kind.RUN:
            runs.append(entity_id)
        if folder == ARTIFACTS:
            uploads.update(rest[1:2])  # artifacts/<experiment>/<run>/…
            with_output.update(rest[1:2] if rest[2:] == [ARTIFACTS, OUTPUT] else ())

    def life(entity_id: "EntityId") -> tuple[float, float, Operations] | None:
        """Return when a run ended (since the epoch), how long it took, and what was done for it."""
        if (entity := store.readable(entity_id)) is None:
            return None  # one broken run must not hide what the others cost
        end, seconds, logged = _times(entity)
        asked = of_run(seconds, logged) + Operations(uploads[entity_id.name])
        if entity_id.name in with_output:
            asked += of_output(seconds) + Operations(-1)
        return end, seconds, asked

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


def _times(entity: "Entity") -> tuple[float, float, list[float]]:
    """Return when a run ended (since the epoch), how long it took, and when it logged, in it."""
    start = float(entity.meta.get("start_time") or 0)
    logs = [data for path, data in entity.files.items() if path.startswith("metrics/")]
    stamps = (line.partition(b" ")[0] for data in logs for line in data.splitlines())
    points = sorted({float(stamp) for stamp in stamps if stamp.isdigit() and len(stamp) < 16})
    last = max([start, *points[-1:], float(entity.notes.heartbeat)])
    end = float(entity.meta.get("end_time") or last)
    # Whoever wrote the run wrote its times, and the model goes through them step by step.
    seconds = min(max(0.0, end - start) / 1000, _LONGEST_LIFE)
    logged = [(at - start) / 1000 for at in points if start <= at <= start + 1000 * seconds]
    return end / 1000, seconds, logged


# -- the command ---------------------------------------------------------------------------------


@click.command("cost")
@options.place
@click.option(
    "--region",
    help="Of a bucket on Cloud Storage; a run's credentials may not read it. Default: us-central1.",
)
@options.json
def cost_command(place: str, region: str | None) -> None:
    """Estimate the bucket's monthly cost from what is in it.

    A folder: what it would cost on Cloud Storage.

    \b
    Example:
      kaggleops cost --bucket gs://my-bucket
    """
    from kaggleops.mlruns import EntityStore

    bucket = options.bucket_at(place)
    # An unknown region is an error before anything is read.
    prices = prices_at(getattr(bucket, "service", ""), region)
    with err.status("Reading the bucket"):
        used = usage(EntityStore(bucket))
    bill = charges(used.runs + used.artifacts + used.other, used.tracking + used.server, prices)
    total = sum(charge.cost for charge in bill) if prices.source else None
    not_included = (*([f"downloads: {prices.downloads}"] * bool(prices.downloads)), *_NOT_INCLUDED)
    print_json(
        bucket=bucket.uri,
        service=prices.service,
        region=region,
        currency="USD",
        total=total,
        charges=[asdict(charge) | ({} if prices.source else {"cost": None}) for charge in bill],
        usage=asdict(used),
        not_included=not_included,
        prices={"source": prices.source, "read": prices.read},
    )
    where = f" in {region}" if region else ""
    out.print(f"Estimate for {bucket.uri} on {prices.service}{where}")
    rows = []
    for charge in bill:
        shown = (charge.amount, min(charge.amount, charge.free))
        stored = charge.name == "storage"
        cells = [f"{each / GIB:,.3f} GiB" if stored else f"{each:,.0f}" for each in shown]
        rows.append([charge.name, *cells, "?" if total is None else f"{charge.cost:.4f}"])
    summed = "?" if total is None else f"{total:.4f}"
    print_table(["", "a month", "free", "US dollars"], [*rows, ["Total", "", "", summed]])
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
    out.print("\nNot included:", *(f"  - {each}" for each in not_included), sep="\n")
    if total is None:
        out.print(f"\nThe prices of {prices.service} are not known here: see its own list.")
        return
    out.print(
        f"\nPrices: {prices.source}, read on {prices.read}. The free amounts are shared by all "
        "buckets of an account."
    )
