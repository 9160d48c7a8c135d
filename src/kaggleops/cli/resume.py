"""`kaggleops resume`."""

from contextlib import nullcontext
from pathlib import Path

import click

from kaggleops.bucket.location import tracking_uri
from kaggleops.cli.options import bucket_of, bucket_option, json_option
from kaggleops.cli.output import stdout_for_the_result
from kaggleops.cli.submitting import (
    announce,
    backend_config_option,
    backend_option,
    money,
    money_options,
    read_backend_config,
    show_submitted,
)


@click.command("resume")
@click.argument("run")
@bucket_option
@backend_option
@backend_config_option
@money_options
@json_option
def resume_command(
    run: str,
    bucket: str | None,
    backend: str | None,
    backend_config: Path | None,
    budget: float | None,
    keep: bool,
    as_json: bool,
) -> None:
    """Continue a run that failed, was cancelled or lost its machine.

    Same commit, same run, where it was or with another --backend. A run that already waits for a
    machine is not submitted twice.

    \b
    Example:
      kaggleops resume RUN -b runpod
    """
    from kaggleops.backends.finding import backend_named, submitted_run
    from kaggleops.backends.resuming import resume

    uri = tracking_uri(bucket_of(bucket))
    chosen = backend_named(backend) if backend else submitted_run(uri, run).backend
    config = read_backend_config(chosen, backend_config, Path(), money(budget, keep))
    announce(chosen, config)
    with stdout_for_the_result() if as_json else nullcontext():
        resumed = resume(chosen, uri, run, config)
    show_submitted(resumed, as_json)
