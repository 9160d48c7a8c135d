"""`kaggleops quota`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from kaggleops.cli.options import json_option
from kaggleops.cli.output import err, out, print_json, print_whole
from kaggleops.cli.submitting import backend_option, read_backend_config
from kaggleops.errors import KaggleOpsError

if TYPE_CHECKING:
    from kaggleops.backends.jobs import Machines, Price, Quota, Units


@click.command("quota")
@backend_option
@json_option
def quota_command(backend: str | None, as_json: bool) -> None:
    """Show the hours or compute units left on each platform.

    And what the others cost. A backend that is not named and cannot be asked (no credentials) is
    skipped with a message.

    \b
    Example:
      kaggleops quota -b kaggle
    """
    from kaggleops.backends.finding import backend_named, names

    quotas: list[Quota] = []
    prices: list[Price] = []
    machines: list[Machines] = []
    units: list[Units] = []
    problems: list[KaggleOpsError] = []
    with err.status("Asking"):
        for name in [backend] if backend else names():
            try:
                asked = backend_named(name)
                quotas += asked.quota()
                prices += asked.prices()
                machines += filter(None, [asked.machines()])
                units += filter(None, [asked.units(read_backend_config(asked, None, Path(), {}))])
            except KaggleOpsError as error:
                if backend:
                    raise
                problems.append(error)
    if problems and not (quotas or prices or units):
        raise problems[0]
    if as_json:
        rows = [_as_row(each) for each in quotas]
        print_json(
            quotas=rows,
            prices=[asdict(each) for each in prices],
            machines=[asdict(each) for each in machines],
            units=[asdict(each) for each in units],
            problems=[str(each) for each in problems],
        )
        return
    if quotas:
        print_whole(_quota_table(quotas))
    if prices:
        print_whole(_price_table(prices))
    lines = [f"{each.backend}: {each}" for each in units]
    for line in lines + [f"{each.backend}: {each}" for each in machines]:
        out.print(line)
    if backend and not (quotas or prices or units):
        out.print(f"{backend}: nothing is counted here.")
    for problem in problems:
        err.print(f"passed over: {problem}", style="yellow")


def _as_row(quota: "Quota") -> dict[str, Any]:
    refreshes = quota.refreshes.isoformat() if quota.refreshes else None
    return asdict(quota) | {"left_hours": quota.left_hours, "refreshes": refreshes}


def _quota_table(quotas: "list[Quota]") -> Table:
    table = Table("Backend", "", "Left", "Of", "Refreshed", box=None, pad_edge=False)
    for each in quotas:
        style = "" if each.left_hours else "red"
        day = f"{each.refreshes:%Y-%m-%d %H:%M} UTC" if each.refreshes else ""
        left, total = f"{each.left_hours:.1f} h", f"{each.total_hours:.0f} h"
        table.add_row(each.backend, each.resource, left, total, day, style=style)
    return table


def _price_table(prices: "list[Price]") -> Table:
    table = Table("Backend", "", "An hour", "Free", box=None, pad_edge=False)
    for each in prices:
        style = "" if each.free else "dim"
        price = f"${each.per_hour:.2f}"
        table.add_row(each.backend, each.resource, price, each.free or "none", style=style)
    return table
