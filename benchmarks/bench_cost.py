"""What a month of runs costs: with a server all day or while somebody looks, and by service.

Nothing is measured here: it is the model of `kaggleops cost`, which bench_operations.py compares
with the true count, for runs that there are not yet. docs/cost.md shows the first table,
docs/buckets.md the second.
"""

import argparse
import math

from common import print_caption, print_table

from kaggleops.cli.cost import (
    GIB,
    MIB,
    MONTH,
    Charge,
    Operations,
    Prices,
    charges,
    of_idle_server,
    of_output,
    of_run,
    prices_at,
)
from kaggleops.tracking.live import WATCHED_LOOK

RUNS = (20, 200, 2000)
SERVERS = ("all day", "while you look")
HOSTS = (
    *("", "r2.cloudflarestorage.com", "amazonaws.com", "digitaloceanspaces.com"),
    "wasabisys.com",
)
HOUR = 3600.0
LOGS_EVERY = 10.0  # seconds between two points of a run
WATCHED_DAYS, WATCHED_HOURS = 20, 2.0
LISTED_AT_ONCE = 1000  # objects

# Of a run of three metrics and 40 params, its pack: 157 kB after nine hours of a point each 10 s,
# with values that do not compress (measured).
PACK_BYTES_AN_HOUR = 157_000 / 9
# infra/terraform keeps the ten newest versions of a run's pack for 30 days, each older one for one
# day; and what is deleted is there, and paid, for seven days more.
NEWEST, NEWEST_DAYS, OLDER_DAYS = 10, 30 + 7, 1 + 7


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hours", type=float, default=9, help="of a run")
    parser.add_argument("--artifacts", type=float, default=100, help="MiB that a run leaves")
    parser.add_argument("--region", default="us-central1")
    options = parser.parse_args()
    here = prices_at(region=options.region)
    rows = []
    for runs in RUNS:
        bills = [month(runs, server, here, options) for server in SERVERS]
        storage, class_a, class_b = bills[0]
        rows.append(
            [
                f"{runs:,}",
                *(f"{sum(charge.cost for charge in bill):.2f}" for bill in bills),
                f"{storage.amount / GIB:,.1f} GiB {storage.cost:.2f}",
                f"A {class_a.amount:,.0f} {class_a.cost:.2f}",
                f"B {class_b.amount:,.0f} {class_b.cost:.2f}",
            ]
        )
    heads = ["runs", *(f"server {each}" for each in SERVERS), "storage", "writes", "reads"]
    print_table(f"A month in {options.region}, in US dollars", heads, rows)
    print_caption(
        f"A run: {options.hours:g} hours, a point every {LOGS_EVERY:.0f} s, "
        f"{options.artifacts:,.0f} MiB of artifacts. Somebody looks at the UI for "
        f"{WATCHED_HOURS:g} hours on {WATCHED_DAYS} days. The last three columns: of the server "
        f"that is on all day. Prices: {here.source}, read on {here.read}."
    )
    rows = []
    for prices in map(prices_at, HOSTS):
        bill = month(RUNS[1], SERVERS[0], prices, options)
        *fixed, storage, class_a, class_b = (f"{charge.cost:.2f}" for charge in bill)
        total = f"{sum(charge.cost for charge in bill):.2f}"
        fee = fixed[0] if fixed else ""
        rows.append([prices.service, total, fee, storage, class_a, class_b])
    heads = ["service", "in all", "subscription", "storage", "writes", "reads"]
    print_table(f"{RUNS[1]} such runs a month by service, in US dollars", heads, rows)
    print_caption("With a server that is on all day. Old versions: on Cloud Storage alone.")


def month(runs: int, server: str, prices: Prices, options: argparse.Namespace) -> list[Charge]:
    seconds = options.hours * HOUR
    one = of_run(seconds, [LOGS_EVERY * each for each in range(1, int(seconds / LOGS_EVERY))])
    pack = options.hours * PACK_BYTES_AN_HOUR
    kept = pack
    if prices.service == prices_at().service:
        kept += max(0.0, one.class_a - NEWEST) * pack / 2 * OLDER_DAYS / 30
        kept += min(one.class_a, NEWEST) * pack * NEWEST_DAYS / 30
    stored = runs * (kept + options.artifacts * MIB)
    live = runs * seconds / MONTH  # at any time
    asked = (one + of_output(seconds)) * runs
    return charges(stored, asked + of_server(server, runs, live), prices)


def of_server(server: str, runs: int, live: float) -> Operations:
    listing = math.ceil(runs / LISTED_AT_ONCE)
    watched = WATCHED_DAYS * WATCHED_HOURS * HOUR
    looks = Operations(0, watched / WATCHED_LOOK * (1 + live) + runs)  # each run is read once
    if server == "while you look":
        return looks + Operations(listing * WATCHED_DAYS)
    idle = of_idle_server(live * MONTH) * (1 - watched / MONTH)
    return looks + Operations(30 * listing, idle.class_b)


if __name__ == "__main__":
    main()
