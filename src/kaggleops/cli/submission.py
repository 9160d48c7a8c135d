"""Running a commit here or on a backend, as `run`, `reproduce` and `resume` do."""

import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kaggleops.cli.output import (
    err,
    print_json,
    print_named,
    print_rows,
    stdout_for_json,
    wants_json,
)
from kaggleops.errors import KaggleOpsError
from kaggleops.printable import log_line
from kaggleops.session_end import TO_BE_CONTINUED
from kaggleops.tags import COMMIT, PRICE, RUN_NAME

if TYPE_CHECKING:
    from mlflow.entities import Run

    from kaggleops.backends.base import Backend, RemoteRun
    from kaggleops.git.commits import Commit
    from kaggleops.launch.launcher import Launch

_ASK_EVERY = 10.0  # seconds at most between two questions to a platform
_INTERRUPTED = 130


def announce(backend: "Backend[Any]", config: Any) -> None:
    """Print what a job will cost; KaggleOpsError if that is over its budget."""
    if said := backend.announce(config):
        print_named(backend.name.capitalize(), said)
    if there := backend.machines():
        err.print(f"{'':{len(backend.name)}}  {there}")


def run_here(commit: "Commit", what: "Launch", *, uncommitted: bool = False) -> "Run":
    """Run a commit on this machine, and say on its page what it came to; as `launch`."""
    from kaggleops.launch.launcher import launch
    from kaggleops.reports.outcome import tell_outcome

    with stdout_for_json():
        run = launch(commit, what, uncommitted=uncommitted)
    tell_outcome(what.tracking_uri, run)
    return run


def submit(
    commit: "Commit",
    what: "Launch",
    backend_name: str,
    config_file: Path | None,
    given: Mapping[str, Any] | None = None,
) -> "RemoteRun":
    """Submit a commit to a backend, and print where it is; `given` as `Backend.config_of`.

    Raises UsageError if there is no such backend or option, else what `Backend.submit` does.
    """
    from kaggleops.backends.lookup import backend_named

    backend = backend_named(backend_name)
    config = backend.config_of(commit.repository, config_file, given)
    announce(backend, config)
    with stdout_for_json():
        run = backend.submit(commit, what, config)
    show_submitted(run)
    return run


def wait_for_a_machine(run: "RemoteRun") -> None:
    """Return when a run's job has begun, or ended; say meanwhile what it waits for."""
    from kaggleops.backends.interface import is_ended
    from kaggleops.launch.legs import legs_of
    from kaggleops.reports.listing import duration

    found = run.run
    ended = [leg.ended for leg in legs_of(found.data.tags) if leg.ended]
    since = ended[-1] if ended else found.info.start_time / 1000
    pause = 1.0
    with err.status("") if err.is_terminal else nullcontext() as status:
        while True:
            try:
                state = None if is_ended(run.run.info.status) else run.state()
            except KaggleOpsError:
                return  # its log will say so
            if state is None or state.status != "SCHEDULED":
                return
            line = f"{run.backend.waiting} ({duration(time.time() - since)})"
            if status:
                status.update(line)
            elif pause == 1:
                err.print(line)
            time.sleep(pause)
            pause = min(2 * pause, _ASK_EVERY)


def follow(run: "RemoteRun") -> int:
    """Show a run's output until it has ended, and return the exit code for how that was.

    Ctrl-C leaves it running. With `--json`, stdout is kept for what was submitted.
    """
    try:
        wait_for_a_machine(run)
        for line in run.logs(follow=True):
            click.echo(log_line(line), err=wants_json())
        status = run.get_status()
    except KeyboardInterrupt:
        err.print(f"The job goes on. See it:  kaggleops logs -f {run.run_id}")
        err.print(f"Cancel it:                kaggleops cancel {run.run_id}")
        return _INTERRUPTED
    if why := run.failure:
        err.print(f"{run.run_id} failed: {why}", style="red")
    else:
        err.print(f"{run.run_id} {status}")
    if status == "SCHEDULED":  # its session is over, and it is not
        return TO_BE_CONTINUED
    return 0 if status == "FINISHED" else 1


def show_submitted(run: "RemoteRun") -> None:
    """Print a run that was submitted."""
    backend, tags = run.backend, run.tags
    if wants_json():  # only then is the platform asked: it has taken the job, whatever it says
        print_json(
            run_id=run.run_id,
            status=run.get_status(),
            backend=backend.name,
            commit=tags.get(COMMIT),
            page=run.page,
            price_per_hour=float(tags[PRICE]) if tags.get(PRICE) else None,
            steps=backend.steps(tags),
        )
        return
    print_rows(
        ("Run", f"{run.run_id}  {tags.get(RUN_NAME, '')}"),
        (backend.name.capitalize(), run.page or run.get_status()),
        *(("", step) for step in backend.steps(tags)),
        ("Follow it", "" if backend.steps(tags) else f"kaggleops logs -f {run.run_id}"),
        ("Cancel it", f"kaggleops cancel {run.run_id}"),
    )
