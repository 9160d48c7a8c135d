"""What the commands print: results to stdout, everything else to stderr."""

import json
import math
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import Progress
from rich.segment import Segment
from rich.text import Text

from kaggleops.printable import printable


class _Plain(Console):
    """Shows text as it is: no markup, no emoji names, nothing that a terminal obeys."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, soft_wrap=True, markup=False, emoji=False, highlight=False)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Render with rich's own colours and cursor movements, and no others."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(printable(text, lines=True), style)


out = _Plain()
err = _Plain(stderr=True)


@contextmanager
def stdout_for_json(as_json: bool) -> Iterator[None]:
    """With `--json`, send what the block prints to stderr: stdout holds nothing but JSON."""
    if not as_json:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


_WORTH_SHOWING = 1.0  # seconds: what takes less would only flicker


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[..., None]]:
    """Show a progress bar if it takes a while; yield `update(done, total, title=…)`."""
    # In a notebook rich would ask for ipywidgets.
    bar = Progress(console=err, transient=True, disable=not err.is_terminal)
    task = bar.add_task(title, total=None)
    shown = threading.Timer(_WORTH_SHOWING, bar.start)
    shown.daemon = True

    def update(done: int, total: int | None, title: str = title) -> None:
        bar.update(task, completed=done, total=total, description=title)

    shown.start()
    try:
        yield update
    finally:
        shown.cancel()
        shown.join()
        bar.stop()


def print_rows(*rows: tuple[str, str]) -> None:
    """Print names with their values, leaving out those without a value."""
    # Not rich's table, which would break an address that people want to copy.
    shown = [row for row in rows if row[1]]
    width = max(len(name) for name, _ in shown)
    out.print()
    for name, value in shown:
        print_named(f"{name:<{width}}", value, to=out)


def print_named(name: str, value: str, *, to: Console = err) -> None:
    """Print a value after its name."""
    to.print(Text(f"{name}  ", style="bold"), Text(printable(value)), sep="")


def print_table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    styles: Mapping[str, str] | None = None,
    *,
    left: bool = False,
) -> None:
    """Print a table, none of its cells cut.

    Args:
        head: the columns' titles.
        rows: their cells.
        styles: rich's styles, by the last word of a cell.
        left: align all to the left, not what stands between the first and the last column.
    """
    # Not rich's own, which takes ten seconds for ten thousand rows.
    lines = [[printable(cell) for cell in cells] for cells in (head, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    last = len(head) - 1
    table = Text("\n")
    for number, cells in enumerate(lines):
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True)):
            space = " " * (width - cell_len(cell))
            before = not left and 0 < place < last
            style = (styles or {}).get(cell.rpartition(" ")[2]) if number else "bold"
            table.append(space if before else "").append(cell, style)
            table.append("\n" if place == last else "  " if before else f"{space}  ")
    out.print(table, end="")


def print_json(**content: Any) -> None:
    """Print a JSON object to stdout, with null for NaN and infinities, which JSON lacks."""
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


def exit_with(problems: Iterable[object]) -> None:
    """Print each problem, and exit with code 1 if there is one."""
    found = list(problems)
    for problem in found:
        print_error(problem)
    if found:
        sys.exit(1)
