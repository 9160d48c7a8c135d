"""What `kaggleops cost --plan` prints."""

from dataclasses import asdict

from kaggleops.cli.output import out, print_json, print_table
from kaggleops.reports.plan import (
    LOGS_EVERY,
    SERVERS,
    WATCHED_DAYS,
    WATCHED_HOURS,
    Run,
    month,
    of_storage,
    traps,
)
from kaggleops.reports.prices import CLOUD_STORAGE, COMPUTE_ENGINE, MIB

RUNS = (20, 200, 2000)


def print_plan(run: Run, region: str, as_json: bool) -> None:
    """Print what a month would cost.

    Raises:
        UsageError: the price list has no such region.
    """
    priced = [each for each in SERVERS if each == "none" or region in COMPUTE_ENGINE.regions]
    unpriced = [each for each in SERVERS if each not in priced]
    months = {runs: [month(runs, server, run, region) for server in priced] for runs in RUNS}
    dangers = list(traps())
    if as_json:
        print_json(
            region=region,
            currency="USD",
            run=asdict(run),
            months=[
                {**asdict(each), "total": each.total} for row in months.values() for each in row
            ],
            unpriced=unpriced,
            traps=[{"what": what, "price": price} for what, price in dangers],
            prices={each.source: each.read for each in (CLOUD_STORAGE, COMPUTE_ENGINE)},
        )
        return
    out.print(
        f"A month in {region}, in US dollars. A run: {run.hours:g} hours, a point every "
        f"{LOGS_EVERY:.0f} s, {run.artifacts / MIB:,.0f} MiB of artifacts.\n"
        f"Somebody looks at the UI for {WATCHED_HOURS:g} hours on {WATCHED_DAYS} days.",
    )
    rows = []
    for runs, row in months.items():
        storage, class_a, class_b, _ = row[0].bill
        parts = (storage.cost, class_a.cost, class_b.cost)
        rows.append(
            [
                f"{runs:,}",
                *("-" for _ in unpriced),
                *(f"{each.total:.2f}" for each in row),
                f"{of_storage(row[0]):,.1f} GiB {parts[0]:.2f}",
                f"A {class_a.amount:,.0f} {parts[1]:.2f}",
                f"B {class_b.amount:,.0f} {parts[2]:.2f}",
            ]
        )
    head = ["runs", *(f"server {each}" for each in SERVERS), "storage", "writes", "reads"]
    print_table(head, rows)
    shown = "without a server" if unpriced else "of the server that is on all day"
    out.print(f"\nThe last three columns: {shown}.")
    if unpriced:
        known = ", ".join(sorted(COMPUTE_ENGINE.regions))
        out.print(
            f"-: the price list has no machine in {region}, where none is free; it has {known}. "
            f"See {COMPUTE_ENGINE.source.split(',')[0]}.",
        )
    out.print()
    out.print("What costs more than that:")
    for what, price in dangers:
        out.print(f"  - {what}: {price}")
    out.print(
        f"\nPrices: {CLOUD_STORAGE.source}, read on {CLOUD_STORAGE.read}; {COMPUTE_ENGINE.source}, "
        f"{COMPUTE_ENGINE.read}. What is free is free once for a billing account.",
    )
