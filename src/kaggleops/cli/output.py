"""What the commands print: results to stdout, everything else to stderr."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.text import Text

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)


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
        out.print(Text(f"{name:<{width}}  ", style="bold"), Text(value), sep="")


def print_json(**content: Any) -> None:
    """Print an object to stdout."""
    click.echo(json.dumps(content, indent=2))


def print_error(message: object) -> None:
    """Print one line of error."""
    err.print("[bold red]error:[/]", Text(str(message)))
