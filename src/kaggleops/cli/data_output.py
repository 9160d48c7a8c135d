"""What the `kaggleops data` commands show."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from kaggleops.cli.output import err


@contextmanager
def bytes_going(title: str) -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """Show bytes that come or go; yield what to call with their total, and with each more."""
    columns = (TextColumn(title), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield (
            lambda total: bar.update(task, total=total),
            lambda more: bar.update(task, advance=more),
        )


def counted(files: int) -> str:
    """Return how many files there are, in words."""
    return "1 file" if files == 1 else f"{files:,} files"


def sized(size: int) -> str:
    """Return a number of bytes as people write it; "?" where it is not known."""
    if size < 0:
        return "?"
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= one:
            return f"{size / one:.1f} {unit}"
    return f"{size} bytes"
