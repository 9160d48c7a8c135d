"""`kaggleops sweep`."""

import secrets
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kaggleops.bucket.location import tracking_uri
from kaggleops.cli import options
from kaggleops.cli.indexed import ask_index, require_index
from kaggleops.cli.output import (
    err,
    out,
    print_json,
    print_named,
    print_rows,
    print_table,
    stdout_for_json,
)
from kaggleops.cli.run import check_uncommitted
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.printable import counted
from kaggleops.tags import SCORE

if TYPE_CHECKING:
    from kaggleops.campaign.placement import Decision
    from kaggleops.campaign.sweep import Direction, Point, Sweep
    from kaggleops.reports.history import History
    from kaggleops.reports.score import Score

_SHOWN = 20  # points


@click.command("sweep")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUES]...")
@click.option(
    "-b",
    "--backend",
    "backends",
    metavar="NAMES",
    multiple=True,
    help="local, kaggle, colab, runpod, skypilot, docker, several with commas, or auto: all that "
    "are set up. Default: local.",
)
@click.option(
    "--sampler",
    default="grid",
    show_default=True,
    metavar="NAME",
    help="grid, random, or one that learns: tpe, gp.",
)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many points are tried. Default: all of a grid.",
)
@click.option(
    "--metric",
    "metrics",
    metavar="NAME",
    multiple=True,
    help="What is optimized; several for the best compromises. Default, for a search: the "
    "score that most runs of the experiment have.",
)
@click.option(
    "--direction",
    "directions",
    multiple=True,
    type=click.Choice(["maximize", "minimize"]),
    help="Of each --metric. Default: guessed from the metric's name.",
)
@click.option(
    "--pruner",
    default="",
    metavar="NAME",
    help="End hopeless trials: median, asha or patient; with arguments: 'median(startup=5)'.",
)
@click.option(
    "--folds",
    metavar="KEY",
    help="The axis whose values are folds of one training; '' for none. Default: fold, if "
    "it is swept.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the sampler.")
@click.option(
    "--budget",
    metavar="DOLLARS",
    type=options.NumberRange(min=0, min_open=True),
    help="The most that all jobs together may cost. Default: nothing is spent.",
)
@click.option(
    "--at-once",
    type=click.IntRange(min=1),
    metavar="N",
    help="The most jobs at the same time. Default: as many as there is room for.",
)
@click.option(
    "--gpu", metavar="NAMES", help="Accelerators that a job may use: T4,P100, gpu or none."
)
@click.option(
    "--memory",
    type=options.NumberRange(min=0, min_open=True),
    metavar="GB",
    help="Memory that the accelerator needs, or the machine without one.",
)
@click.option("--name", metavar="NAME", help="Name of the sweep's run.")
@click.option("--experiment", metavar="NAME", help="Default: the task's or the project's name.")
@options.entry_point
@options.version
@options.bucket
@options.repository
@options.backend_config
@options.secrets
@click.option("--dry-run", is_flag=True, help="Check everything, show the points, begin nothing.")
@click.option("--detach", is_flag=True, help="Leave it to a `kaggleops watch` that runs elsewhere.")
@options.json
def sweep_command(
    overrides: Sequence[str],
    backends: Sequence[str],
    metrics: Sequence[str],
    directions: "Sequence[Direction]",
    folds: str | None,
    gpu: str | None,
    memory: float | None,
    name: str | None,
    version: str | None,
    bucket: str | None,
    repository: Path,
    backend_config: Path | None,
    dry_run: bool,
    detach: bool,
    entry_point: str,
    experiment: str | None,
    allow_secrets: bool,
    **tried: Any,
) -> None:
    """Run a commit many times: a grid, a search, or its folds.

    KEY=VALUES is Hydra's sweep syntax, for any MLproject: a=1,2,3, range(1,5), choice(a,b),
    interval(0,1), tag(log,interval(1e-5,1e-3)), model=glob(*). KEY=VALUE is set for all. Interrupt
    it whenever you like: the jobs go on, and `kaggleops watch` goes on with the sweep.

    \b
    Examples:
      kaggleops sweep fold=0,1,2,3,4 model=tiny,minilm
      kaggleops sweep -b auto --sampler tpe --trials 40 --metric jaccard --pruner median \\
          fold=0,1,2 'trainer.learning_rate=tag(log,interval(1e-5,1e-3))'
      kaggleops sweep --dry-run experiment=search --sampler random --trials 12
    """
    from kaggleops.git.commits import find_commit

    place = options.bucket_for_runs(bucket, repository)
    commit = find_commit(repository, version)
    print_named("Commit", f"{commit.sha[:10]}  {commit.subject}")
    check_uncommitted(commit, version)
    print_named("Bucket", place)
    options.remember(place, commit.repository)
    # Only now: importing MLflow takes seconds, and people wait to see their mistakes.
    from kaggleops.campaign import request
    from kaggleops.campaign.search import LEARNERS, Search
    from kaggleops.campaign.sweep import Sweep
    from kaggleops.git.project_files import declared_score
    from kaggleops.launch.launcher import Launch
    from kaggleops.reports.score import declared
    from kaggleops.reports.statistics import higher_is_better

    uri = tracking_uri(place)
    what = Launch(uri, entry_point=entry_point, experiment=experiment, allow_secrets=allow_secrets)
    named, automatic = request.backend_names(backends)
    asked = Sweep(
        [],
        metrics=metrics,
        backends=[request.AUTO] if automatic else named,
        needs=({"gpu": gpu} if gpu else {}) | ({"memory_gb": memory} if memory else {}),
        **tried,
    )
    sweep, home = request.sweep_of(commit, what, asked, overrides, folds)
    if not metrics and (sweep.sampler in LEARNERS or sweep.pruner):
        score = declared({SCORE: declared_score(commit.repository, commit.sha)})
        score = score or _usual_score(place, home)
        directions = directions or ("minimize" if score.lower else "maximize",)
        sweep = replace(sweep, metrics=[score.name])
    if not directions:
        directions = [
            "maximize" if higher_is_better(each) else "minimize" for each in sweep.metrics
        ]
    sweep = replace(sweep, directions=directions)
    search = Search(sweep)
    where = (uri, named, commit, sweep.at_once, backend_config)
    sites, problems = request.sites_of(*where, automatic=automatic)
    sweep = replace(sweep, trials=search.total, configs=request.configs_of(sites))
    for problem in problems:
        err.print(f"        left out: {problem.doing}: {problem.problem}", style="yellow")
    jobs = search.total * max(1, len(sweep.folds))
    decisions = request.first_jobs(sweep, sites, jobs)
    print_named("Sweep", _described(sweep, search.total, jobs))
    if dry_run:
        _show(sweep, search.ask([], _SHOWN), search.total, jobs, decisions)
        return
    from kaggleops.campaign.children import begin

    if not detach:
        require_index()
    # It says what is swept, and is no other sweep's.
    keys = [item.partition("=")[0].rpartition(".")[2].lstrip("+") for item in sweep.axes]
    title = name or f"{'-'.join(keys)[:40]}-{secrets.token_hex(2)}"
    sweep_id = begin(commit, what, sweep, title)
    print_named("Begun", f"{sweep_id}  {title}")
    told = {"sweep": sweep_id, "name": title, "experiment": home, "trials": search.total}
    _watch(place, told | {"jobs": jobs}, detach)


def _watch(place: str, told: Mapping[str, Any], detach: bool) -> None:
    """Keep a sweep going until it is over, unless others do; print what it has come to.

    Exits with code 1 if it was interrupted or did not finish.
    """
    from mlflow import MlflowClient

    from kaggleops.cli.watch import watch_in_foreground
    from kaggleops.reports.charts import headline
    from kaggleops.reports.trainings import point_of
    from kaggleops.tags import BEST

    interrupted = False
    if not detach:
        try:
            with stdout_for_json():
                watch_in_foreground(place, only=told["sweep"])
        except KeyboardInterrupt:
            interrupted = True
    client = MlflowClient(tracking_uri(place))
    run = client.get_run(told["sweep"])
    best = run.data.tags.get(BEST, "")
    point = point_of(client.get_run(best).data.tags) if best else {}
    settings = ", ".join(f"{key}={value}" for key, value in point.items())
    print_json(**told, status=run.info.status, metrics=run.data.metrics, best=best)
    if detach or interrupted:
        said = "Run it with" if detach else "The jobs go on. Continue the sweep with"
        print_named(f"{said}:", f"kaggleops watch --bucket {place}")
    else:
        print_rows(
            ("Sweep", f"{told['name']}, {run.info.status.lower()}"),
            *((name, f"{value:.4f}") for name, value in headline(run.data.metrics)),
            ("Best", best and f"{best}  {settings}"),
            ("Show it", f"kaggleops ui --bucket {place}"),
        )
    if interrupted or not (detach or run.info.status == "FINISHED"):
        sys.exit(1)


def _usual_score(place: str, experiment: str) -> "Score":
    """Return the score that an experiment's leaderboard ranks by; UsageError if none is known."""
    from kaggleops.reports.selection import Selector

    doing = "choosing what is optimized"

    def score(history: "History") -> "Score":
        return history.score(str(Selector(history, None, experiment).experiment_id), doing)

    try:
        return ask_index(place, None, score)
    except KaggleOpsError as error:  # a new experiment, or a new bucket
        problem = f"no --metric is given, and {experiment} has none yet ({error.problem})"
        raise UsageError(doing, problem, "Add --metric NAME.") from None


def _described(sweep: "Sweep", trials: int, jobs: int) -> str:
    folds = f" of {len(sweep.folds)} folds, {jobs} jobs" if sweep.folds else ""
    how = {"grid": "the grid", "random": "at random"}.get(sweep.sampler, f"by {sweep.sampler}")
    goals = zip(sweep.metrics, sweep.directions, strict=True)
    goal = " and ".join(
        f"{metric} {'as high' if direction == 'maximize' else 'as low'} as possible"
        for metric, direction in goals
    )
    pruner = f"pruned by {sweep.pruner}" if sweep.pruner else ""
    return ", ".join(filter(None, (f"{counted(trials, 'trial')}{folds}, {how}", goal, pruner)))


def _show(
    sweep: "Sweep",
    points: "Sequence[Point]",
    trials: int,
    jobs: int,
    decisions: "Sequence[Decision]",
) -> None:
    """Print what a sweep would do."""
    from kaggleops.campaign.placement import waits

    going = Counter(each.offer.backend for each in decisions if each.offer)
    print_json(
        trials=trials,
        jobs=jobs,
        points=[dict(each) for each in points],
        begin_now=[{"backend": name, "jobs": count} for name, count in going.items()],
        waiting=waits(decisions),
        sweep=asdict(sweep),
    )
    if points and (keys := list(points[0])):
        rows = [[str(at), *(point[key] for key in keys)] for at, point in enumerate(points)]
        print_table(["trial", *keys], rows, left=True)
    if trials > len(points):
        out.print(f"… and {trials - len(points)} more.")
    if sweep.folds:
        out.print(f"Each with {sweep.fold_axis} = {', '.join(sweep.folds)}.")
    out.print()
    for backend, count in going.items():
        print_named(backend.capitalize(), f"{counted(count, 'job')} now", to=out)
    if said := waits(decisions):
        print_named("Waits", said, to=out)
    out.print("Nothing was begun.")
