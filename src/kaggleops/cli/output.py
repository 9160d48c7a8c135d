"""What the commands print: results to stdout, everything else to stderr."""

import json
import logging
import math
import os
import re
import shlex
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import click
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.progress import Progress
from rich.segment import Segment
from rich.text import Text

from kaggleops.printable import printable


class _Plain(Console):
    """Shows text as it is: no markup, no emoji names, nothing that a terminal obeys."""

    through: "_Plain | None" = None
    """Another one that redraws something at the same terminal, which this one would move."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, soft_wrap=True, markup=False, emoji=False, highlight=False)

    def print(self, *objects: Any, **how: Any) -> None:
        """Print text; not to stdout where that is for JSON."""
        if self.through:
            self.through.print(*objects, **how)
        elif self.stderr or not wants_json():
            super().print(*objects, **how)

    def status(self, *args: Any, **how: Any) -> Any:
        """Show what is being done while that goes on; not beside what is redrawn."""
        return nullcontext() if self.through else super().status(*args, **how)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Render with rich's own colours and cursor movements, and no others."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            shown = printable(as_typed(text), lines=True)
            yield segment if control else Segment(shown, style)


_NAMED, _JSON = "kaggleops.named", "kaggleops.json"


def want_json(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Let a command print JSON in place of text (a callback)."""
    if wanted:
        context.meta[_JSON] = context.command


def wants_json() -> bool:
    """Tell whether the command that runs prints JSON; one that it invokes prints text."""
    context = click.get_current_context(silent=True)
    return context is not None and context.meta.get(_JSON) is context.command


def name_as_typed(run_id: str, word: str) -> None:
    """Let this command's messages call a run as whoever typed it did."""
    if word != run_id and (context := click.get_current_context(silent=True)):
        context.meta.setdefault(_NAMED, {})[run_id] = shlex.quote(word)


def as_named(text: str) -> str:
    """Return a text with the runs that this command was given called as they were typed."""
    context = click.get_current_context(silent=True)
    for run_id, word in (context.meta.get(_NAMED, {}) if context else {}).items():
        escaped = word.replace("\\", r"\\")
        # Behind a hyphen it is part of a name: that of its notebook, its pod, its container.
        text = re.sub(rf"(?<![\w/-]){run_id}(?![\w/])", escaped, text)
    return text


def as_typed(text: str) -> str:
    """Return a text whose commands of ours can be typed here as they stand.

    `make run` and people call us by a path (`.venv/bin/kaggleops`) where no environment is active:
    then `kaggleops` alone would not be found.
    """
    if "kaggleops " not in text:
        return text
    context = click.get_current_context(silent=True)
    # Not all that follows our name is a command: a commit's subject may speak of us, too. Only a
    # thread knows no commands, and it prints no subjects.
    known = getattr(context.find_root().command, "commands", None) if context else None
    return _COMMAND.sub(
        lambda found: _program() if known is None or found[1] in known else found[0], text
    )


_COMMAND = re.compile(r"(?<![\w/.:-])kaggleops(?= ([a-z]+)\b)")


@cache
def _program() -> str:
    called = Path(sys.argv[0])
    known = shutil.which(called.name)
    if called.name != "kaggleops" or (known and called.exists() and called.samefile(known)):
        return "kaggleops"
    path = os.path.relpath(called)
    return shlex.quote(str(called.absolute()) if path.startswith("..") else path)


out = _Plain()
err = _Plain(stderr=True)


class LogLines(logging.Handler):
    """Shows what is logged in whole lines: an address in it can be copied."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print it among the rest of what goes to stderr."""
        style = "yellow" if record.levelno >= logging.WARNING else ""
        err.print(Text(f"{record.levelname:<8} {self.format(record)}", style=style))


@contextmanager
def redrawn() -> Iterator[Live | None]:
    """Yield what is redrawn below all that is printed; None where stdout cannot be redrawn."""
    if not out.is_interactive:
        yield None
        return
    # What another console writes to this terminal would move it, and leave a line of it behind.
    err.through = out if err.is_terminal else None
    try:
        with Live(console=out, auto_refresh=False, redirect_stderr=err.is_terminal) as live:
            yield live
    finally:
        err.through = None


@contextmanager
def stdout_for_json() -> Iterator[None]:
    """With `--json`, send what the block prints to stderr: stdout holds nothing but JSON."""
    if not wants_json():
        yield
        return
    meta = click.get_current_context().meta
    command = meta.pop(_JSON)
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        meta[_JSON] = command
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


_WORTH_SHOWING = 1.0  # seconds: what takes less would only flicker


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[..., None]]:
    """Show a progress bar if it takes a while; yield `update(done, total, title=…)`."""
    # In a notebook rich would ask for ipywidgets.
    hidden = bool(err.through) or not err.is_terminal
    bar = Progress(console=err, transient=True, disable=hidden)
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


def terminal_width() -> int | None:
    """Return how many cells a line has; None where nobody looks, or says how many."""
    return out.width if out.is_terminal or "COLUMNS" in os.environ else None


def print_rows(*rows: tuple[str, str]) -> None:
    """Print names with their values, leaving out those without a value."""
    # Not rich's table, which would break an address that people want to copy.
    shown = [row for row in rows if row[1]]
    width = max((len(name) for name, _ in shown), default=0)
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
    """Print a table, none of its cells cut; see `table`."""
    if not wants_json():
        out.print(table(head, rows, styles, left=left), end="")


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    styles: Mapping[str, str] | None = None,
    *,
    left: bool = False,
    below: Sequence[Sequence[tuple[str, str]]] = (),
    least: Sequence[int] = (),
    width: int | None = None,
) -> Text:
    """Return a table.

    Args:
        head: the columns' titles.
        rows: their cells.
        styles: rich's styles, by the last word of a cell.
        left: align all to the left, not what stands between the first and the last column.
        below: the lines below each row, each with rich's style.
        least: for each column how narrow it may become; 0 for one that is never cut.
        width: how many cells of a terminal a line may take; columns are cut and the last ones left
            out for it. None for as many as it takes.
    """
    # Not rich's own, which takes ten seconds for ten thousand rows.
    lines = [[printable(cell) for cell in cells] for cells in (head, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    if width is not None:
        widths = _fitted(widths, least, width)
    last = len(widths) - 1
    text = Text("\n")
    for number, cells in enumerate(lines):
        for place, (whole, room) in enumerate(zip(cells, widths, strict=False)):
            cell = _cut(whole, room)
            space = " " * (room - cell_len(cell))
            before = not left and 0 < place < last
            style = (styles or {}).get(whole.rpartition(" ")[2]) if number else "bold"
            text.append(space if before else "").append(cell, style)
            # Nothing stands behind the last cell: a terminal of that width would wrap it.
            text.append("\n" if place == last else "  " if before else f"{space}  ")
        for said, style in below[number - 1] if number and below else ():
            line = printable(as_typed(said))
            text.append(f"  {line if width is None else _cut(line, width - 2)}\n", style)
    return text


def _fitted(widths: Sequence[int], least: Sequence[int], width: int) -> list[int]:
    """Return how wide each column is, from the first, so that all together fit."""
    fitted = list(widths)
    while sum(fitted) + 2 * (len(fitted) - 1) > width:
        spare = [
            each - floor if 0 < floor < each else 0
            for each, floor in zip(fitted, least, strict=False)
        ]
        if any(spare):
            fitted[max(range(len(spare)), key=lambda at: (spare[at], fitted[at]))] -= 1
        elif len(fitted) > 1:
            fitted.pop()
        else:
            break
    return fitted


def _cut(text: str, room: int) -> str:
    """Return a text that takes no more cells of a terminal than there is room for."""
    if cell_len(text) <= room:
        return text
    return f"{set_cell_size(text, room - 1).rstrip()}…" if room > 1 else "…"[:room]


def print_json(**content: Any) -> None:
    """Print a JSON object, if the command is to print JSON in place of what it prints to stdout.

    It has null for NaN and infinities, which JSON lacks.
    """
    if wants_json():
        click.echo(json.dumps(_finite(content), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_error(message: object) -> None:
    """Print one line of error."""
    err.print(Text("error:", style="bold red"), printable(as_named(str(message))))


def exit_with(problems: Iterable[object]) -> None:
    """Print each problem, and exit with code 1 if there is one."""
    found = list(problems)
    for problem in found:
        print_error(problem)
    if found:
        sys.exit(1)
