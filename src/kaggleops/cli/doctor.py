"""`kaggleops doctor`."""

import sys
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.text import Text

from kaggleops.cli.options import bucket_option, json_option
from kaggleops.cli.output import err, out, print_json

if TYPE_CHECKING:
    from kaggleops.reports.doctor import Finding

_MARKS = {"ok": "✓", "warning": "!", "error": "✗", "skipped": "-"}
_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red", "skipped": "dim"}


@click.command("doctor")
@bucket_option
@json_option
def doctor_command(bucket: str | None, as_json: bool) -> None:
    """Check that everything a run needs is set up.

    One line each, with what to do. The exit code is 1 if something is wrong.

    \b
    Example:
      kaggleops doctor --bucket gs://my-bucket
    """
    from kaggleops.reports.doctor import asked, examine
    from kaggleops.reports.doctor_platforms import examine_platforms
    from kaggleops.server.doctor import examine_server

    looks = chain(
        examine(bucket, Path()),
        examine_platforms(Path()),
        asked("server", lambda: examine_server(Path())),
    )
    found: list[Finding] = []
    with err.status("Looking"):
        for finding in looks:
            if finding.verdict == "error" and finding.said in [each.said for each in found]:
                continue  # one cause, as settings that nobody can read
            found.append(finding)
            if not as_json:
                style = _STYLES[finding.verdict]
                line = f"{_MARKS[finding.verdict]} {finding.about:<11} {finding.said}"
                out.print(Text(line, style=style))
                if finding.hint and finding.verdict != "ok":
                    out.print(Text(f"  {'':<11} {finding.hint}"))
    if as_json:
        print_json(findings=[asdict(each) for each in found])
    if any(each.verdict == "error" for each in found):
        sys.exit(1)
