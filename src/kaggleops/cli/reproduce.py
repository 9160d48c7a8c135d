"""`kaggleops reproduce`."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kaggleops.bucket.location import tracking_uri
from kaggleops.cli import options
from kaggleops.cli.indexed import ask_index, require_index
from kaggleops.cli.output import err, name_as_typed, out, print_json, print_rows
from kaggleops.cli.submission import run_here, submit
from kaggleops.errors import UsageError
from kaggleops.printable import counted, printable
from kaggleops.tags import ENTRY_POINT, REPOSITORY, UNCOMMITTED

if TYPE_CHECKING:
    from kaggleops.git.commits import Commit
    from kaggleops.launch.launcher import Launch
    from kaggleops.reports.history import History
    from kaggleops.reports.trainings import Run


@click.command("reproduce")
@click.argument("name", metavar="RUN")
@options.place
@options.index
@click.option("--run", "run_it", is_flag=True, help="Run it again here, and compare the two.")
@click.option("--against", metavar="RUN", help="Compare with this run, made earlier.")
@click.option(
    "--tolerance",
    type=options.NumberRange(min=0),
    default=0.0,
    show_default=True,
    help="How far apart two values may be, relative to the larger one.",
)
@click.option("--metric", metavar="NAME", help="Decides which run is `best`. Default: the score.")
@options.direction
@options.backend
@options.backend_config
@options.json
def reproduce_command(
    name: str,
    place: str,
    index: str | None,
    run_it: bool,
    against: str | None,
    tolerance: float,
    metric: str | None,
    lower_is_better: bool | None,
    backend: str | None,
    backend_config: Path | None,
) -> None:
    """Make a run again, and check whether the results agree.

    Without --run or --backend, show what made it. RUN is the id or name of a run, however it ended;
    or a commit, branch, tag or `best` (by the score): their newest finished run. The exit code is 1
    if the results differ.

    \b
    Example:
      kaggleops reproduce best --metric jaccard
    """
    first = _run(place, index, name, metric, lower_is_better)
    if against:
        second = _run(place, index, against, metric, lower_is_better)
        _require_ended(first, second)
        _compare(first, second, tolerance)
        return
    if not (run_it or backend):
        _show(first, place)
        return
    commit, what = _again(first, place)
    if backend:
        submit(commit, what, backend, backend_config)
        out.print(f"Then: kaggleops reproduce {first.id} --against THAT_RUN")
        return
    _require_ended(first)
    made = run_here(commit, what)
    _compare(first, _run(place, index, made.info.run_id), tolerance)


def _run(
    place: str,
    index: str | None,
    name: str,
    metric: str | None = None,
    lower_is_better: bool | None = None,
) -> "Run":
    require_index()
    from kaggleops.git.commits import repository_around
    from kaggleops.reports.selection import Selector

    repository = repository_around(Path.cwd())

    def answer(history: "History") -> "Run":
        return Selector(history, repository, None, metric, lower_is_better).run(name)

    found = ask_index(place, index, answer)
    name_as_typed(found.id, name)
    return found


def _require_ended(*runs: "Run") -> None:
    for run in runs:
        if run.status in ("RUNNING", "SCHEDULED"):
            doing = f"comparing run {run.id} with another"
            raise UsageError(doing, f"it has not ended ({run.status})", "Wait for it.")


def _again(run: "Run", place: str) -> "tuple[Commit, Launch]":
    from kaggleops.git.commits import find_commit
    from kaggleops.launch.launcher import Launch
    from kaggleops.launch.overrides import Overrides

    doing = f"running {run.id} again"
    if not run.sha:
        raise UsageError(doing, "it has no commit", "Only a run of a commit can be run again.")
    if UNCOMMITTED in run.tags:
        problem = "it ran uncommitted changes"
        raise UsageError(doing, problem, "Apply its artifact uncommitted.patch, commit, and run.")
    entry_point = run.tags.get(ENTRY_POINT, "main")
    uri, none = tracking_uri(place), Overrides(())
    return find_commit(Path(), run.sha), Launch(
        uri, none, entry_point, experiment=run.experiment, like=run.params
    )


def _show(run: "Run", place: str) -> None:
    from kaggleops.reports.comparison import environment

    command = f"kaggleops reproduce {run.id} --run --bucket {shlex.quote(place)}"
    command = command if run.sha else ""
    print_json(
        run_id=run.id,
        status=run.status,
        commit=run.sha,
        repository=run.tags.get(REPOSITORY, ""),
        entry_point=run.tags.get(ENTRY_POINT, ""),
        params=run.params,
        data=run.data,
        environment=environment(run),
        command=command,
    )
    print_rows(
        ("Run", f"{run.id}  {run.name}"),
        ("Status", run.status),
        ("Commit", run.sha or "none: it was not run by kaggleops"),
        ("", run.tags.get(REPOSITORY, "")),
        ("Changes", "uncommitted.patch, among its artifacts" if UNCOMMITTED in run.tags else ""),
        *((f"param {key}", value) for key, value in sorted(run.params.items())),
        *((f"data {key}", digest) for key, digest in sorted(run.data.items())),
        *sorted(environment(run).items()),
        ("Run again", command),
    )


def _compare(first: "Run", second: "Run", tolerance: float) -> None:
    from kaggleops.reports.comparison import agreement

    found = agreement(first, second, tolerance)
    others = {name: getattr(found, name) for name in ("params", "data", "environment")}
    print_json(
        agree=found.agree,
        runs=[first.id, second.id],
        status=[first.status, second.status],
        equal=found.equal,
        **{
            name: {key: list(map(str, pair)) for key, pair in each.items()}
            for name, each in {"metrics": found.metrics, **others}.items()
        },
    )
    if first.status != second.status:
        out.print(f"status: {first.status} and {second.status}")
    for key in found.metrics:
        one, other = (run.metrics.get(key, "missing") for run in (first, second))
        out.print(printable(f"metrics: {key} is {one} and {other}"))
    for name, differing in others.items():
        for key, (one, other) in differing.items():
            out.print(printable(f"{name}: {key} is {one or 'missing'} and {other or 'missing'}"))
    both, count = f"{first.id} and {second.id}", found.equal + len(found.metrics)
    if found.agree:
        every = "all " if found.equal > 1 else ""
        out.print(f"{both} agree in {every}{counted(found.equal, 'metric')}.")
        return
    said = f"differ in {len(found.metrics)} of {count} metrics"
    err.print(f"{both} {said if count else 'have no metrics to compare'}.", style="bold red")
    sys.exit(1)
