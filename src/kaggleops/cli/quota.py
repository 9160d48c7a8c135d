"""`kaggleops quota`."""

from dataclasses import asdict

import click
from rich.table import Table

from kaggleops.cli.options import json_option
from kaggleops.cli.output import err, out, print_json
from kaggleops.cli.submitting import backend_option


@click.command("quota")
@backend_option
@json_option
def quota_command(backend: str | None, as_json: bool) -> None:
    """Show how many hours of GPU and TPU are left."""
    from kaggleops.backends.finding import backend_named, names

    with err.status("Asking"):
        chosen = [backend] if backend else names()
        quotas = [quota for name in chosen for quota in backend_named(name).quota()]
    if as_json:
        rows = [asdict(each) | {"left_hours": each.left_hours} for each in quotas]
        print_json(
            quotas=[
                row | {"refreshes": row["refreshes"] and row["refreshes"].isoformat()}
                for row in rows
            ]
        )
        return
    table = Table("Backend", "", "Left", "Of", "Refreshed", box=None, pad_edge=False)
    for each in quotas:
        style = "" if each.left_hours else "red"
        day = f"{each.refreshes:%Y-%m-%d %H:%M} UTC" if each.refreshes else ""
        left, total = f"{each.left_hours:.1f} h", f"{each.total_hours:.0f} h"
        table.add_row(each.backend, each.resource, left, total, day, style=style)
    out.print(table)
