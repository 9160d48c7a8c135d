"""What the entry points share at the command line: arguments, lines of output, errors, exit codes.

Exit codes: 0 done, 1 it failed, 2 it was called wrongly. An error that a user can understand is one
line on standard error; a stack trace means a mistake of ours.
"""

import io
import logging
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from competitions import ranks
from kaggleops.errors import KaggleOpsError, UsageError, first_line
from kaggleops.printable import printable
from kaggleops.session_end import TO_BE_CONTINUED


class Stopped(Exception):  # noqa: N818 - no error: exit code 42
    """The work ends before its session does, and is to be continued; its message says how."""


def say(line: str) -> None:
    """Print one line at once; of several processes that train together, the first alone does."""
    if ranks.is_first():
        click.echo(printable(line, lines=True))


def warn(line: str) -> None:
    """Print one line of warning on standard error; of several processes, the first alone does."""
    if ranks.is_first():
        click.echo(f"warning: {printable(line, lines=True)}", err=True)


def split_overrides(text: str) -> list[str]:
    """The Hydra overrides in one shell-quoted text, the form in which `mlflow run` passes them."""
    try:
        return shlex.split(text)
    except ValueError as error:
        hint = "Quote each override as for a shell: \"trainer.epochs=3 'data.dir=my folder'\""
        raise UsageError("reading --overrides", str(error), hint) from None


def split_runs(text: str, hint: str) -> list[str]:
    """What --runs names, separated by commas; raises `UsageError` with `hint` where it is none."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError("reading --runs", "no run is given", hint)
    return names


@contextmanager
def writing_explained(path: Path) -> Iterator[None]:
    """Turn what the system says of a `path` that cannot be written into one `UsageError`."""
    try:
        yield
    except OSError as error:
        problem = f"{error.strerror}: {error.filename}"
        raise UsageError(f"making {path}", problem, "Name another place with --output") from None


@contextmanager
def store_explained(doing: str, hint: str = "") -> Iterator[None]:
    """Turn whatever a store of runs or of models raises into one `KaggleOpsError`."""
    try:
        yield
    except KaggleOpsError:
        raise
    except Exception as error:  # noqa: BLE001 - each kind of store has exceptions of its own
        raise KaggleOpsError(doing, first_line(error), hint) from None


def run_command(command: click.Command) -> None:
    """Run one entry point and leave the process with its exit code."""
    _set_environment()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    try:
        command.main(standalone_mode=False)
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}", err=True)
        sys.exit(2)
    except KaggleOpsError as error:
        if not ranks.leave_word(f"error: {error}"):
            click.echo(f"error: {error}", err=True)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except Stopped as stopped:
        say(str(stopped))
        sys.exit(TO_BE_CONTINUED if ranks.is_first() else 0)
    except Exception:
        if not ranks.leave_word(traceback.format_exc()):
            raise
        sys.exit(1)
    except (KeyboardInterrupt, click.Abort):
        click.echo("stopped", err=True)
        sys.exit(130)


def _set_environment() -> None:
    """Set what libraries read when they are imported, so that none chatters between our lines."""
    # Torch's threads wait for each other asleep instead of spinning. Where anything else runs, that
    # is the difference between 333 rows a second and 16 (`tiny`, beside another training, 2 cores).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("HF_HUB_VERBOSITY", "TRANSFORMERS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Git and other children are forked after the tokenizer has run, which it would warn about.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # It logs stack traces of what it then raises.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
