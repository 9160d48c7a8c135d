"""The `kaggleops` command: one click group, thin.

Exit codes: 0 done, 1 it failed, 2 it was called wrongly. Errors are one line on stderr; results go
to stdout, as a table or, with `--json`, as JSON.
"""

import errno
import logging
import os
import sys
import traceback
from contextlib import suppress
from types import TracebackType
from typing import Any

import click

from kaggleops import __version__
from kaggleops.cli.blend import blend_command
from kaggleops.cli.compare import compare_command
from kaggleops.cli.cost import cost_command
from kaggleops.cli.data import data_command
from kaggleops.cli.init import init_command
from kaggleops.cli.jobs import (
    cancel_command,
    cleanup_command,
    download_command,
    logs_command,
    reap_command,
    resume_command,
)
from kaggleops.cli.leaderboard import leaderboard_command
from kaggleops.cli.output import LogLines, print_error
from kaggleops.cli.platforms import credentials_command, doctor_command, quota_command
from kaggleops.cli.reproduce import reproduce_command
from kaggleops.cli.run import run_command
from kaggleops.cli.serve import open_command, serve_command, ui_command
from kaggleops.cli.status import status_command
from kaggleops.cli.submit import submissions_command, submit_command
from kaggleops.cli.sweep import sweep_command
from kaggleops.cli.transfer import (
    bundle_command,
    export_command,
    forget_command,
    import_command,
    push_command,
)
from kaggleops.cli.watch import watch_command
from kaggleops.errors import KaggleOpsError, UsageError, explained
from kaggleops.platforms.folders import provide_home
from kaggleops.redaction import redacted

GROUPS = {
    "Run": (
        run_command,
        sweep_command,
        watch_command,
        status_command,
        logs_command,
        cancel_command,
        resume_command,
        download_command,
        submit_command,
        submissions_command,
        quota_command,
        cleanup_command,
        reap_command,
    ),
    "Look": (ui_command, open_command, serve_command),
    "Compare": (leaderboard_command, compare_command, blend_command, reproduce_command),
    "Data": (data_command,),
    "Bucket": (
        push_command,
        import_command,
        export_command,
        bundle_command,
        cost_command,
        forget_command,
    ),
    "Set up": (init_command, doctor_command, credentials_command),
}
"""The commands, in the order of the help."""


def show_trace(kind: type[BaseException], error: BaseException, at: TracebackType | None) -> None:
    """Show the trace of our own mistake, without secrets: people paste it into an issue."""
    sys.stderr.write(redacted("".join(traceback.format_exception(kind, error, at))))


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _Group(click.Group):
    """Makes one line and an exit code of the errors that a user can understand."""

    def main(self, *args: Any, **how: Any) -> Any:
        """Run a command; where there is no room for what it prints or keeps, say so."""
        try:
            try:
                return super().main(*args, **how)
            finally:
                if sys.stdout:
                    sys.stdout.flush()  # else Python finds out when all is over
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            doing = f"writing {error.filename or 'the output'}"
            with suppress(OSError):  # stderr may be full, too
                print_error(KaggleOpsError(doing, os.strerror(error.errno)))
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python would try once more
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as raised:
            error = explained(raised)
            if error is None:
                raise
            print_error(error)
            sys.exit(2 if isinstance(error, UsageError) else 1)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands in groups, with whole lines."""
        for title, commands in GROUPS.items():
            with formatter.section(title):
                lines = [(each.name or "", each.get_short_help_str(70)) for each in commands]
                formatter.write_dl(lines)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """MLflow whose tracking server is a bucket."""
    provide_home()
    sys.excepthook = show_trace
    logging.getLogger("kaggleops").addHandler(LogLines())


for _commands in GROUPS.values():
    for _command in _commands:
        main.add_command(_command)
