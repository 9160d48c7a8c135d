"""`kaggleops submit` and `kaggleops submissions`: what runs predict, at competitions of Kaggle."""

import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kaggleops.bucket.location import tracking_uri
from kaggleops.cli import options
from kaggleops.cli.indexed import run_named
from kaggleops.cli.output import (
    err,
    out,
    print_json,
    print_named,
    print_rows,
    print_table,
    stdout_for_json,
)
from kaggleops.errors import UsageError
from kaggleops.tags import ACCELERATOR, BLEND, COMMIT, RUN_NAME, UNCOMMITTED

if TYPE_CHECKING:
    import mlflow
    from mlflow.entities import Run

    from kaggleops.backends.kaggle.code_submission import CodeSubmission
    from kaggleops.backends.kaggle.submissions import Submission, Submitter

competition_option = click.option(
    "--competition", metavar="NAME", default="", help="Default: the declared data's."
)


@click.command("submit")
@click.argument("run")
@options.place
@click.option("--file", metavar="FILE", help="Default: the run's artifact submission.csv.")
@click.option("--message", default="", help="Default: the run's name and its commit.")
@competition_option
@click.option("--code", is_flag=True, help="Submit a notebook that predicts, without internet.")
@click.option("--script", metavar="FILE", default="", help="What predicts there. (--code)")
@click.option("--version", metavar="COMMIT", default="", help="Its code. Default: the run's.")
@click.option("--wheel", "wheels", metavar="NAME", multiple=True, help="A package for it; again.")
@click.option("--dry-run", is_flag=True, help="Show what --code would do, and do nothing.")
@click.option("--scores", is_flag=True, help="Submit nothing; record the current score.")
@click.option("--no-wait", is_flag=True, help="Do not wait for the score.")
@options.json
def submit_command(
    run: str,
    place: str,
    file: str | None,
    message: str,
    competition: str,
    code: bool,
    script: str,
    version: str,
    wheels: tuple[str, ...],
    dry_run: bool,
    scores: bool,
    no_wait: bool,
) -> None:
    """Submit a run's predictions, or its models, to its competition.

    The file is checked against sample_submission.csv first. The score is recorded on the run and
    on the runs whose models it used, so `kaggleops leaderboard` shows it beside their own. Given
    again after it was interrupted, --code goes on where it was, and submits nothing twice.

    \b
    Example:
      kaggleops submit RUN --competition tweet-sentiment-extraction
      kaggleops submit RUN --code --dry-run
    """
    from kaggleops.backends.kaggle.submissions import Submitter

    given = {"--script": script, "--version": version, "--wheel": wheels, "--dry-run": dry_run}
    named = next((name for name, value in given.items() if value), "")
    if named and not code:
        raise UsageError("submitting", f"{named} needs --code")
    for name, value in {"--file": file, "--scores": scores}.items():
        if code and value:
            raise UsageError("submitting", f"--code and {name} exclude each other")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # of one small file
    steps: dict[str, str] = {}

    def say(name: str, text: str) -> None:
        steps[name] = text
        if not dry_run:
            print_named(f"{name:<10}", text)

    with stdout_for_json():
        submitter = Submitter(tracking_uri(place), run_named(place, run), competition)
        how = ""
        if scores:
            done = submitter.submitted()
        elif code:
            made = _code_submission(submitter, tracking_uri(place), script, version, wheels, say)
            if not dry_run:
                done, how = made.submit(message), " with the hidden test set"
        else:
            done, checked = submitter.submit(Path(file) if file else None, message)
            if not checked:
                err.print("The competition has no sample_submission.csv to compare with.")
        if dry_run:
            made.plan()
        elif not (no_wait or scores):
            with err.status(f"Waiting for the score of submission {done.ref}"):
                done = submitter.wait(done, how=how)
    if not dry_run:
        _show(done)
    else:
        print_json(steps={name.lower(): text for name, text in steps.items()})
        print_rows(*steps.items())


def _code_submission(
    submitter: "Submitter", uri: str, script: str, version: str, wheels: tuple[str, ...], say: Any
) -> "CodeSubmission":
    import mlflow

    from kaggleops.backends.kaggle.backend import KaggleBackend
    from kaggleops.backends.kaggle.code_submission import CodeSubmission
    from kaggleops.backends.kaggle.offline_folder import BlendFolder, OfflineFolder
    from kaggleops.backends.kaggle.submissions import runs_behind
    from kaggleops.git.commits import find_commit, repository_around

    client, used = mlflow.MlflowClient(uri), [submitter.run]

    def folder_of(run: "Run") -> OfflineFolder:
        doing = f"submitting run {run.info.run_id}"
        sha = version or run.data.tags.get(COMMIT)
        if not version and UNCOMMITTED in run.data.tags:
            hint = "Apply its artifact uncommitted.patch, commit it, and name that with --version."
            raise UsageError(doing, "it ran uncommitted changes", hint)
        if not sha:
            hint = "Name the code that predicts with --version."
            raise UsageError(doing, "it has no commit", hint)
        behind = runs_behind(client, run)
        used.extend([run, *behind])
        models = [each.info.run_id for each in behind or [run]]
        return OfflineFolder(uri, run, models, find_commit(Path(), sha), script, wheels)

    weights = _weights(submitter.run)
    folder: OfflineFolder | BlendFolder = (
        BlendFolder([(folder_of(client.get_run(each)), weights[each]) for each in weights])
        if weights
        else folder_of(submitter.run)
    )
    config = KaggleBackend().config_of(
        repository_around(Path()) or Path(), None, {"machine_shape": _shape(used)}
    )
    return CodeSubmission(submitter, folder, config, say)


def _weights(run: "Run") -> dict[str, float]:
    """Return the weights of a blend's members by their runs' ids; of another run none."""
    try:
        told = json.loads(run.data.tags.get(BLEND, "{}"))
        return {str(name): float(weight) for name, weight in told.items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        doing = f"submitting run {run.info.run_id}"
        raise UsageError(doing, f"its tag {BLEND} holds no weights") from error


def _shape(runs: "list[Run]") -> str:
    """Return the machine at Kaggle that is most like the one that runs had."""
    had = {run.data.tags.get(ACCELERATOR, "") for run in runs} - {"", "none"}
    if any("TPU" in each for each in had):
        return "TpuV5E8"
    if "4x NVIDIA L4" in had:
        return "NvidiaL4"
    return "NvidiaTeslaT4" if had else ""


def _show(done: "Submission") -> None:
    print_json(**_plain(done), page=done.page)
    print_rows(
        ("Submission", f"{done.ref} to {done.competition}, {done.status.lower()}"),
        ("Public score", "" if done.public_score is None else f"{done.public_score:g}"),
        ("Private score", "" if done.private_score is None else f"{done.private_score:g}"),
        ("Page", done.page),
    )


def _plain(done: "Submission") -> dict[str, Any]:
    return {
        "ref": done.ref,
        "competition": done.competition,
        "status": done.status,
        "public_score": done.public_score,
        "private_score": done.private_score,
        "submitted": done.submitted.isoformat() if done.submitted else None,
    }


@click.command("submissions")
@options.place
@competition_option
@options.json
def submissions_command(place: str, competition: str) -> None:
    """List what was submitted, own scores beside Kaggle's.

    Below it: how far both rank the runs alike, and how many submissions are left today.

    \b
    Example:
      kaggleops submissions --competition tweet-sentiment-extraction
    """
    import mlflow

    from kaggleops.backends.kaggle.submissions import Submissions
    from kaggleops.reports.statistics import rank_correlation, rank_interval

    client = mlflow.MlflowClient(tracking_uri(place))
    at = Submissions(competition)
    listed, left = list(at), at.left_today()
    ids = {each.run for each in listed if each.run}
    with ThreadPoolExecutor(8) as pool:
        known = dict(zip(ids, pool.map(lambda run_id: _own(client, run_id), ids), strict=True))
    own = [(each, known.get(each.run, _NOTHING)) for each in listed]
    counts = Counter(each["metric"] for each in known.values() if each["metric"])
    metric = max(counts, key=lambda name: counts[name], default="")
    pairs: dict[str, tuple[float, float]] = {}  # the newest of each run
    for each, of in own:
        if of["metric"] == metric and each.public_score is not None:
            pairs.setdefault(each.run, (of["own_score"], each.public_score))
    found = rank_correlation(list(pairs.values()))
    interval = None if found is None else rank_interval(found, len(pairs))
    rows = [{**_plain(each), "run_id": each.run or None, **of} for each, of in own]
    counted = {"rank_correlation": found, "interval": interval, "runs": len(pairs)}
    print_json(competition=at.competition, left_today=left, **counted, submissions=rows)
    if listed:
        _print_submissions(own)
    else:
        out.print(f"Nothing was submitted to {at.competition} yet.")
    if found is not None:
        within = "; an interval takes four"
        if interval:
            low, high = interval
            within = f" (95 % interval {low:+.2f} to {high:+.2f}, Fisher's z)"
        said = f"Rank correlation of {metric} and public score: {found:+.2f}{within}"
        out.print(f"{said}, over {len(pairs)} runs.")
    if left:
        out.print(f"Today {left}.")


_NOTHING: dict[str, Any] = {"run_name": None, "metric": None, "own_score": None}


def _own(client: "mlflow.MlflowClient", run_id: str) -> dict[str, Any]:
    """Return a run's name, and its score; that of the runs whose models it used if it has none."""
    from mlflow.exceptions import MlflowException

    from kaggleops.backends.kaggle.submissions import runs_behind
    from kaggleops.reports.score import score_of
    from kaggleops.reports.statistics import mean

    try:
        run = client.get_run(run_id)
    except MlflowException:  # of another bucket, or deleted for good
        return _NOTHING
    named = {**_NOTHING, "run_name": run.data.tags.get(RUN_NAME) or None}
    for runs in ([run], runs_behind(client, run)):
        known = [score_of(each.data.tags, each.data.metrics) for each in runs]
        scores = [each for each in known if each is not None]
        if scores and len({score.name for score, _ in scores}) == 1:
            value = mean([value for _, value in scores])
            return named | {"metric": scores[0][0].name, "own_score": value}
    return named


def _print_submissions(own: "list[tuple[Submission, dict[str, Any]]]") -> None:
    def score(value: float | None) -> str:
        return "" if value is None else f"{value:.5f}"

    rows = [
        {
            "submitted": f"{each.submitted:%Y-%m-%d %H:%M}" if each.submitted else "",
            "ref": str(each.ref),
            "run": f"{each.run[:8]} {of['run_name'] or ''}".strip(),
            "own score": f"{score(of['own_score'])} {of['metric'] or ''}".strip(),
            "public": score(each.public_score) or each.status.lower(),
            "private": score(each.private_score),
            "error": each.error,
        }
        for each, of in own
    ]
    optional = [name for name in ("private", "error") if not any(row[name] for row in rows)]
    head = [name for name in rows[0] if name not in optional]
    print_table(head, [[row[name] for name in head] for row in rows], left=True)
