"""`kaggleops leaderboard`."""

import math
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kaggleops.cli.indexed import asked, require_index
from kaggleops.cli.options import (
    bucket_of,
    bucket_option,
    direction_option,
    in_a_folder,
    index_option,
    json_option,
)
from kaggleops.cli.output import out, print_json, print_table
from kaggleops.errors import UsageError
from kaggleops.printable import printable

if TYPE_CHECKING:
    from kaggleops.reports.history import History, Scored
    from kaggleops.reports.leaderboard import Entry

PUBLIC = "public_score"

_LISTED = 8  # names, where what is asked for is not there

_SECONDS = {"h": 3600, "d": 86_400, "w": 7 * 86_400}


@click.command("leaderboard")
@bucket_option
@index_option
@click.option("--experiment", metavar="NAME", help="Default: the one that was used last.")
@click.option("--metric", metavar="NAME", help="Default: the score that most runs have.")
@direction_option
@click.option("--since", metavar="AGE", help="Only runs of the last 12h, 7d or 2w.")
@click.option("--branch", metavar="NAME", help="Only runs of this branch.")
@click.option("--backend", metavar="NAME", help="Only runs on kaggle, colab, local …")
@click.option(
    "--plot",
    metavar="FILE",
    type=click.Path(path_type=Path),
    callback=in_a_folder,
    help="Draw each commit's own score (CV) against Kaggle's (LB) as a PNG.",
)
@json_option
def leaderboard_command(
    bucket: str | None,
    index: str | None,
    experiment: str | None,
    metric: str | None,
    lower_is_better: bool | None,
    since: str | None,
    branch: str | None,
    backend: str | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Rank the commits of an experiment, the best first.

    A commit that is worse than the one before it, beyond chance, is marked as a regression, whether
    or not --since, --branch and --backend show that one. The last line says how well Kaggle's
    scores agree with the ranking (Spearman's correlation).

    \b
    Example:
      kaggleops leaderboard --metric jaccard
    """
    require_index()
    from kaggleops.git.commits import repository_around
    from kaggleops.git.history import nearest_before, subjects
    from kaggleops.reports.leaderboard import leaderboard, main_metric
    from kaggleops.reports.selection import Selector

    place = bucket_of(bucket)
    repository = repository_around(Path.cwd())
    since_ms = _since_ms(since)

    def answer(history: "History") -> "tuple[dict[str, int], str, list[Scored], list[Scored]]":
        number = (
            Selector(history, None, experiment).experiment_id
            if experiment
            else history.last_experiment()
        )
        counted = history.metric_names(number) if number else {}
        ranked_by = metric or main_metric(counted)
        runs = history.scored(number, ranked_by) if number else []
        return counted, ranked_by, runs, _chosen(runs, since_ms, branch=branch, backend=backend)

    counted, metric, runs, shown = asked(place, index, answer)
    shas = {run.sha for run in runs}
    before = nearest_before(repository, shas) if repository else {}
    entries = leaderboard(runs, metric, before, shown, lower_is_better=lower_is_better)
    said = subjects(repository, [entry.sha for entry in entries]) if repository else {}
    correlations = _correlations(entries)
    if plot:
        _draw(entries, metric, plot)
    if as_json:
        print_json(
            metric=metric,
            rank_correlation={name: each for name, (each, _) in correlations.items()},
            commits=[_plain(entry) for entry in entries],
        )
    elif entries:
        _show(entries, metric, said)
        for name, (correlation, count) in correlations.items():
            text = f"Rank correlation of {metric} and {name}: {correlation:+.2f}"
            out.print(f"{text} over {count} commits.")
    elif runs:
        asked_for = {"--since": since, "--branch": branch, "--backend": backend}
        filters = " ".join(f"{option} {value}" for option, value in asked_for.items() if value)
        text = f"{filters} leaves none of the {len(runs)} finished runs with a commit and {metric}."
        out.print(text)
    else:
        listed = ", ".join(sorted(counted)[:_LISTED]) or "none"
        out.print(printable(f"No finished run has a commit and {metric}. Metrics: {listed}."))


def _since_ms(age: str | None) -> int:
    if age is None:
        return 0
    match = re.fullmatch(r"(\d+)([hdw])", age)
    if match is None:
        raise UsageError("reading --since", f"{age!r} is no age", "Write 12h, 7d or 2w.")
    return int((time.time() - int(match[1]) * _SECONDS[match[2]]) * 1000)


def _chosen(runs: Sequence["Scored"], since_ms: int, **wanted: str | None) -> list["Scored"]:
    """Return the runs that began since then and have what is wanted.

    Raises:
        UsageError: no run has it; with what there is.
    """
    for name, value in wanted.items():
        there = sorted({getattr(run, name) for run in runs} - {""})
        if value and runs and value not in there:
            listed = ", ".join(there[:_LISTED]) + (" …" if len(there) > _LISTED else "")
            hint = f"There are: {listed}." if there else f"None says its {name}."
            raise UsageError(f"showing the {name} {value!r}", "no run on the board has it", hint)
    return [
        run
        for run in runs
        if run.started_ms >= since_ms
        and all(not value or getattr(run, name) == value for name, value in wanted.items())
    ]


def _correlations(entries: Sequence["Entry"]) -> dict[str, tuple[float, int]]:
    """Return how far each of Kaggle's scores orders the commits as ours does, and over how many."""
    from kaggleops.reports.history import SUBMITTED
    from kaggleops.reports.leaderboard import submitted_pairs
    from kaggleops.reports.statistics import rank_correlation

    pairs = {name: submitted_pairs(entries, name) for name in SUBMITTED}
    found = {name: (rank_correlation(some), len(some)) for name, some in pairs.items()}
    return {name: (each, count) for name, (each, count) in found.items() if each is not None}


def _draw(entries: Sequence["Entry"], metric: str, file: Path) -> None:
    from kaggleops.reports.charts import scatter

    name = "private_score" if any("private_score" in e.submitted for e in entries) else PUBLIC
    points = {
        entry.sha[:10]: (entry.score.mean, entry.submitted[name])
        for entry in entries
        if name in entry.submitted and math.isfinite(entry.score.mean)
    }
    if not points:
        hint = "`kaggleops submit RUN` records Kaggle's score."
        raise UsageError(f"drawing {file}", "no commit on the board was submitted", hint)
    file.write_bytes(scatter(points, "CV against LB", metric, name))


def _plain(entry: "Entry") -> dict[str, object]:
    change = entry.change
    return {
        "commit": entry.sha,
        "score": entry.score.mean,
        "spread": entry.score.spread,
        "runs": list(entry.runs),
        "backend": entry.backend,
        **entry.submitted,
        "parent": entry.parent,
        "change": change and change.mean,
        "interval": [change.low, change.high] if change and change.low is not None else None,
        "regression": entry.regression,
    }


def _show(entries: list["Entry"], metric: str, said: dict[str, str]) -> None:
    from kaggleops.reports.comparison_text import difference, summary
    from kaggleops.reports.history import SUBMITTED

    submitted = [name for name in SUBMITTED if any(name in entry.submitted for entry in entries)]
    rows = []

    def on_kaggle(entry: "Entry", name: str) -> str:
        return f"{entry.submitted[name]:.5f}" if name in entry.submitted else ""

    for place, entry in enumerate(entries, 1):
        against = f"{difference(entry.change)} on {entry.parent[:10]}" if entry.parent else ""
        rows.append([
            str(place),
            entry.sha[:10],
            summary(entry.score),
            f"{against} REGRESSION" if entry.regression else against,
            *(on_kaggle(entry, name) for name in submitted),
            entry.backend,
            said.get(entry.sha, ""),
        ])  # fmt: skip
    head = ["#", "commit", metric, "against the one before", *submitted, "backend", "message"]
    print_table(head, rows, {"REGRESSION": "bold red"})
