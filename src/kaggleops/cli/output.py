"""What the commands print: results to stdout, everything else to stderr."""

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import click
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from kaggleops.printable import printable


class _Plain(Console):
    """Shows every text as what it is: no markup, no emoji's names, nothing that a terminal obeys.

    Args:
        stderr: whether it writes there.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, soft_wrap=True, markup=False, emoji=False, highlight=False)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Return what rich makes of something; its own colours and movements stay."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(printable(text, lines=True), style)


out = _Plain()
err = _Plain(stderr=True)

_ANY_WIDTH = 100_000  # columns


@contextmanager
def stdout_for_the_result() -> Iterator[None]:
    """Let what is run here write to stderr, so that stdout is nothing but JSON."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def print_rows(*rows: tuple[str, str]) -> None:
    """Print names with their values; what has no value is left out."""
    # No table of rich's: it would break an address that people want to copy.
    shown = [row for row in rows if row[1]]
    width = max(len(name) for name, _ in shown)
    out.print()
    for name, value in shown:
        print_named(f"{name:<{width}}", value, to=out)


def print_named(name: str, value: str, *, to: Console = err) -> None:
    """Print a value after its name."""
    to.print(Text(f"{name}  ", style="bold"), Text(printable(value)), sep="")


def print_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], styles: Mapping[str, str] | None = None
) -> None:
    """Print a table, its columns after the first to the right; nothing is cut: people copy it.

    Args:
        head: the columns' titles.
        rows: their cells.
        styles: rich's styles, by the last word of a cell.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, title in enumerate(head):
        middle = 0 < number < len(head) - 1
        side: Literal["left", "right"] = "right" if middle else "left"
        table.add_column(printable(title), no_wrap=True, justify=side)
    for row in rows:
        shown = [printable(cell) for cell in row]
        cells = [Text(cell, style=(styles or {}).get(cell.split(" ")[-1], "")) for cell in shown]
        table.add_row(*cells)
    out.print()
    print_whole(table)


def print_whole(table: Table) -> None:
    """Print a table, however narrow the terminal: rich would leave out whole columns there."""
    wide = out.options.update(max_width=_ANY_WIDTH)
    table.width = Measurement.get(out, wide, table).maximum
    out.print(table)


def print_json(**content: Any) -> None:
    """Print an object to stdout; NaN and the infinities, which JSON does not have, as null."""
    click.echo(json.dumps(_finite(content), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_error(message: object) -> None:
    """Print one line of error."""
    err.print(Text("error:", style="bold red"), printable(str(message)))
