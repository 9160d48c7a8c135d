"""`kaggleops bisect`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kaggleops.bucket.location import tracking_uri
from kaggleops.cli.indexed import history_of
from kaggleops.cli.options import bucket_of, bucket_option, index_option, json_option
from kaggleops.cli.output import err, out, print_json, print_rows
from kaggleops.cli.submitting import backend_config_option, backend_option, submit
from kaggleops.errors import UsageError

if TYPE_CHECKING:
    from kaggleops.reports.bisecting import Step
    from kaggleops.reports.history import Run


@click.command("bisect")
@click.argument("good")
@click.argument("bad")
@click.option("--metric", required=True, metavar="NAME", help="What tells good from bad.")
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
    experiment: str | None,
    run_it: bool,
    bucket: str | None,
    index: str | None,
    backend: str | None,
    backend_config: Path | None,
    as_json: bool,
) -> None:
    """Find the commit after GOOD that made --metric what it is at BAD, with few runs.

    Runs that are there count. The next one is proposed; --run makes it and goes on, --backend
    submits it: call this again when it has finished.
    """
    from kaggleops.project.git import find_commit
    from kaggleops.project.git_history import repository_around
    from kaggleops.project.launch import Launch, launch
    from kaggleops.project.overrides import Overrides

    place = bucket_of(bucket)
    repository = repository_around(Path.cwd())
    if repository is None:
        raise UsageError("bisecting", "there is no repository here", "Call it in the repository.")
    while True:
        step, like = _step(place, index, repository, good, bad, metric, experiment)
        if not step.next or not (run_it or backend):
            break
        commit = find_commit(repository, step.next)
        err.print(f"[bold]Next[/]  {commit.sha[:10]}  {commit.subject}", highlight=False)
        what = Launch(
            tracking_uri=tracking_uri(place),
            overrides=Overrides(()),
            entry_point=like.tags.get("mlflow.project.entryPoint", "main"),
            experiment=like.experiment,
            like=like.params,
        )
        if backend:
            submit(commit, what, backend, backend_config, as_json)
            return
        launch(commit, what)
    _show(step, repository, as_json)


def _step(
    place: str,
    index: str | None,
    repository: Path,
    good: str,
    bad: str,
    metric: str,
    experiment: str | None,
) -> "tuple[Step, Run]":
    from kaggleops.reports.bisecting import bisect
    from kaggleops.reports.leaderboard import leaderboard
    from kaggleops.reports.selecting import Selector

    with history_of(place, index, anew=True) as history:
        selector = Selector(history, repository, experiment)
        ends = [selector.find(good), selector.find(bad)]
        like = ends[1].runs[0]
        scored = history.scored(like.experiment_id, metric)
    scores = {entry.sha: entry.score.mean for entry in leaderboard(scored, metric, {})}
    for end in ends:
        if end.sha not in scores:
            problem = f"no finished run of {end.title} has the metric {metric!r}"
            raise UsageError("bisecting", problem, "Run it first, or name another --metric.")
    return bisect(repository, ends[0].sha, ends[1].sha, scores), like


def _show(step: "Step", repository: Path, as_json: bool) -> None:
    from kaggleops.project.git_history import subjects

    said = subjects(repository, [step.bad, *filter(None, [step.next])])
    if as_json:
        print_json(
            found=not step.next,
            commit="" if step.next else step.bad,
            next=step.next,
            left=list(step.left),
            good=list(step.good),
            bad=step.bad,
        )
    elif step.next:
        rounds = (len(step.left) - 1).bit_length()
        print_rows(
            ("Left", f"{len(step.left)} commits, about {rounds} runs more"),
            ("Next", f"{step.next}  {said.get(step.next, '')}"),
            ("", "--run makes it here and goes on; -b kaggle submits it"),
        )
    else:
        out.print(f"{step.bad}  {said.get(step.bad, '')}\ndid it.", highlight=False)
