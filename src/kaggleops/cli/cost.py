"""`kaggleops cost`."""

from dataclasses import asdict

import click
from rich.table import Table

from kaggleops.cli.options import NumberRange, bucket_at, bucket_of, bucket_option, json_option
from kaggleops.cli.output import err, out, print_json, print_whole


@click.command("cost")
@bucket_option
@click.option(
    "--region",
    default="us-central1",
    show_default=True,
    help="Where the bucket lies; it cannot tell us with the rights that a run needs.",
)
@click.option(
    "--plan",
    is_flag=True,
    help="Look at no bucket: what a month of 20, 200 and 2,000 runs costs, with a server and "
    "without.",
)
@click.option(
    "--hours",
    type=NumberRange(0, 744, min_open=True),  # a month
    default=9,
    show_default=True,
    help="With --plan: of a run.",
)
@click.option(
    "--artifacts",
    type=NumberRange(0, 2**20),  # a tebibyte
    default=100,
    show_default=True,
    metavar="MIB",
    help="With --plan: what a run leaves.",
)
@json_option
def cost_command(
    bucket: str | None, region: str, plan: bool, hours: float, artifacts: float, as_json: bool
) -> None:
    """Estimate what a bucket costs a month, from what is in it."""
    if plan:
        from kaggleops.cli.cost_plan import print_plan
        from kaggleops.reports.plan import Run

        print_plan(Run(hours, artifacts * 2**20), region, as_json)
    else:
        _print_bucket(bucket, region, as_json)


def _print_bucket(bucket: str | None, region: str, as_json: bool) -> None:
    from kaggleops.mlruns import EntityStore
    from kaggleops.reports.cost import Charge, charges, usage
    from kaggleops.reports.operations import IDLE_LOOK_SECONDS
    from kaggleops.reports.prices import CLOUD_STORAGE as PRICES
    from kaggleops.reports.prices import GIB, MIB

    PRICES.storage_in(region)
    place = bucket_of(bucket)
    with err.status("Looking at the bucket"):
        used = usage(EntityStore(bucket_at(place)))
    bill = charges(used, PRICES, region)
    total = sum(charge.cost for charge in bill)
    unknown = [
        f"what is downloaded: ${PRICES.egress:.2f} a GiB; from North America the first "
        f"{PRICES.free_egress} GiB a month are free",
        "what people ask through the UI, and what other programs do with the bucket",
        "what the bucket keeps of overwritten and deleted objects (soft delete, versions)",
    ]
    if as_json:
        print_json(
            bucket=place,
            region=region,
            currency="USD",
            total=total,
            charges=[asdict(charge) for charge in bill],
            usage=asdict(used),
            not_included=unknown,
            prices={
                "source": PRICES.source,
                "read": PRICES.read,
                "storage_read": PRICES.storage_read(region),
            },
        )
        return

    table = Table("", "a month", "of it free", "US dollars", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"

    def row(charge: Charge, name: str, unit: float = 1, form: str = ",.0f", sign: str = "") -> None:
        free = min(charge.amount, charge.free)
        table.add_row(
            name,
            f"{charge.amount / unit:{form}}{sign}",
            f"{free / unit:{form}}{sign}",
            f"{charge.cost:.4f}",
        )

    storage, class_a, class_b = bill
    row(storage, "Storage", GIB, ",.3f", " GiB")
    row(class_a, "Operations of class A (writes)")
    row(class_b, "Operations of class B (reads)")
    table.add_row("Total", "", "", f"{total:.4f}", style="bold")

    where = f"in {region}" if place.startswith("gs:") else f"if it lay on Cloud Storage in {region}"
    out.print(f"An estimate for {place} {where}\n")
    print_whole(table)
    out.print(
        f"\nStored: runs {used.runs / MIB:,.1f} MiB, artifacts {used.artifacts / MIB:,.1f} MiB, "
        f"other {used.other / MIB:,.1f} MiB.\n"
        f"Operations: runs of the last 30 days ({used.recent_runs:,.0f}): "
        f"{used.tracking.class_a:,.0f} A, {used.tracking.class_b:,.0f} B; a server that nobody "
        f"looks at, which looks every {IDLE_LOOK_SECONDS:.0f} s: {used.server.class_a:,.0f} A, "
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
        f"\nPrices: {PRICES.source}, read on {PRICES.read} (storage in {region}: "
        f"{PRICES.storage_read(region)}). What is free is free once for all buckets of a billing "
        "account.",
    )
