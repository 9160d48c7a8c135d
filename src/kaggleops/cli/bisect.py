"""`kaggleops bisect`."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kaggleops.bucket.location import tracking_uri
from kaggleops.cli.indexed import asked, history_of
from kaggleops.cli.options import (
    bucket_of,
    bucket_option,
    direction_option,
    index_option,
    json_option,
)
from kaggleops.cli.output import (
    err,
    out,
    print_json,
    print_named,
    print_rows,
    stdout_for_the_result,
)
from kaggleops.cli.submitting import (
    backend_config_option,
    backend_option,
    plain,
    show_submitted,
    submitted,
)
from kaggleops.errors import UsageError
from kaggleops.printable import printable

if TYPE_CHECKING:
    from kaggleops.backends.remote_run import RemoteRun
    from kaggleops.git.commits import Commit
    from kaggleops.project.launch import Launch
    from kaggleops.reports.searching import Search


@click.command("bisect")
@click.argument("good")
@click.argument("bad")
@click.option("--metric", required=True, metavar="NAME", help="What tells good from bad.")
@direction_option
@click.option("--experiment", metavar="NAME", help="Default: that of BAD's runs.")
@click.option("--run", "run_it", is_flag=True, help="Make the runs here, until it is found.")
@bucket_option
@index_option
@backend_option
@backend_config_option
@json_option
def bisect_command(
    good: str,
    bad: str,
    metric: str,
    lower_is_better: bool | None,
    experiment: str | None,
    run_it: bool,
    bucket: str | None,
    index: str | None,
    backend: str | None,
    backend_config: Path | None,
    as_json: bool,
) -> None:
    """Find the commit after GOOD that made --metric what it is at BAD, with few runs.

    Runs that are there count if they were set as those of GOOD and BAD were; a run that is named
    counts alone. The next ones are proposed; --run makes them and goes on, --backend submits them:
    call this again when they have finished. A commit whose run fails is passed over.
    """
    from kaggleops.git.commits import find_commit, repository_around
    from kaggleops.reports.searching import Ends, search

    place = bucket_of(bucket)
    repository = repository_around(Path.cwd())
    if repository is None:
        raise UsageError("bisecting", "there is no repository here", "Call it in the repository.")
    ends = Ends(good, bad, metric, experiment, lower_is_better)
    if not (run_it or backend):
        found = asked(place, index, lambda history: search(history, repository, ends))
        _show(found, repository, as_json)
        return
    given_up: dict[str, str] = {}
    ran = ""
    while True:
        # What was submitted elsewhere, even a second ago, must not be submitted twice.
        with history_of(place, index, anew=True) as history:
            found = search(history, repository, ends, given_up)
        next_ = found.step.next
        if not next_ or not found.missing:
            _show(found, repository, as_json)
            return
        if next_ == ran:  # once is enough, whatever became of it
            given_up[next_] = f"its run has no {metric}"
            continue
        ran = next_
        commit = find_commit(repository, next_)
        print_named("Next", f"{commit.sha[:10]}  {commit.subject}")
        launches = _launches(found, place)
        if backend:
            sent = [submitted(commit, each, backend, backend_config, as_json) for each in launches]
            _show_submitted(found, sent, as_json)
            return
        with stdout_for_the_result() if as_json else nullcontext():
            trouble = _run(commit, launches)
        if trouble:
            given_up[next_] = trouble
            err.print(printable(f"Passed over {next_[:10]}: {trouble}"), style="yellow")


def _launches(found: "Search", place: str) -> "list[Launch]":
    from kaggleops.project.launch import Launch
    from kaggleops.project.overrides import Overrides

    return [
        Launch(
            tracking_uri=tracking_uri(place),
            overrides=Overrides(()),
            entry_point=found.training.entry_point.name or "main",
            experiment=run.experiment,
            like=run.params,
        )
        for run in found.missing
    ]


def _run(commit: "Commit", launches: "list[Launch]") -> str:
    """Run what a commit lacks here; return why it cannot have it, or ""."""
    from mlflow import MlflowClient

    from kaggleops.project.launch import RunFailedError, launch

    for each in launches:
        try:
            launch(commit, each)
        except RunFailedError as error:
            if MlflowClient(each.tracking_uri).get_run(error.run_id).info.status == "KILLED":
                raise
            return f"its run {error.run_id} failed"
        except UsageError as error:
            return error.problem
    return ""


def _plain(found: "Search") -> dict[str, Any]:
    step = found.step
    return {
        "found": step.found,
        "commit": step.bad if step.found else "",
        "next": step.next,
        "left": list(step.left),
        "good": list(step.good),
        "bad": step.bad,
        "like": [trial.run.id for trial in found.training.trials],
        "pending": [run.id for run in found.pending],
        "skipped": dict(found.skipped),
    }


def _show_submitted(found: "Search", sent: "list[RemoteRun]", as_json: bool) -> None:
    if as_json:
        print_json(**_plain(found), submitted=[plain(run) for run in sent])
        return
    for run in sent:
        show_submitted(run, as_json=False)


def _show(found: "Search", repository: Path, as_json: bool) -> None:
    from kaggleops.git.history import subjects

    step = found.step
    if as_json:
        print_json(**_plain(found))
        return
    said = subjects(repository, step.left)
    like, repetitions = found.training.like, len(found.training.repetitions)
    of = f", {repetitions} folds or seeds" if repetitions > 1 else ""
    rows = [("Counted", f"runs set as {like.id} was{of}")]
    if step.found:
        print_rows(*rows)
        out.print(f"\n{step.bad}  {said.get(step.bad, '')}\ndid it.")
        return
    if step.next:
        rounds = (len(step.left) - 1).bit_length()
        rows += [
            ("Left", f"{len(step.left)} commits, about {rounds} more to run"),
            *_skipped(found.skipped, said),
            ("Next", f"{step.next}  {said.get(step.next, '')}"),
            *(("Pending", f"its run {run.id} is {run.status}") for run in found.pending),
        ]
        hint = "--run makes it here and goes on; -b kaggle submits it"
        rows.append(("", hint if found.missing else "call this again when it has finished"))
    else:
        rows += [
            ("Left", f"{len(step.left)} commits: any of them, as no other can be run"),
            ("", f"{step.bad}  {said.get(step.bad, '')}"),
            *_skipped(found.skipped, said),
        ]
    print_rows(*rows)


def _skipped(skipped: Mapping[str, str], said: Mapping[str, str]) -> list[tuple[str, str]]:
    return [("Passed over", f"{sha}  {said.get(sha, '')}: {why}") for sha, why in skipped.items()]
