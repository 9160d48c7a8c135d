"""`kaggleops leaderboard`."""

import math
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kaggleops.cli.indexed import ask_index, require_index
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
from kaggleops.tags import BACKEND, BRANCH

if TYPE_CHECKING:
    from kaggleops.reports.history import History, Scored
    from kaggleops.reports.leaderboard import Entry

_LISTED = 8  # names in a message
_SECONDS = {"h": 3600, "d": 86_400, "w": 7 * 86_400}


@click.command("leaderboard")
@bucket_option
@index_option
@click.option("--experiment", metavar="NAME", help="Default: the most recently used one.")
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
    """Rank an experiment's commits, the best first.

    A commit that is significantly worse than the nearest scored commit before it is marked as a
    regression, even if --since, --branch or --backend hide that one. The last line says how well
    Kaggle's scores agree with the ranking (Spearman's correlation).

    \b
    Example:
      kaggleops leaderboard --metric jaccard
    """
    require_index()
    from kaggleops.git.commits import repository_around
    from kaggleops.git.history import nearest_before, subjects
    from kaggleops.reports.leaderboard import SUBMITTED, leaderboard, main_metric, read_runs
    from kaggleops.reports.selection import Selector
    from kaggleops.reports.statistics import rank_correlation

    place = bucket_of(bucket)
    repository = repository_around(Path.cwd())
    since_ms = _since_ms(since)
    wanted = {BRANCH: branch, BACKEND: backend}

    def answer(history: "History") -> "tuple[dict[str, int], str, list[Scored], list[Scored]]":
        number = Selector(history, None, experiment).experiment_id or history.last_experiment()
        counted = history.metric_names(number) if number else {}
        ranked_by = metric or main_metric(counted)
        runs = read_runs(history, number, ranked_by) if number else []
        return counted, ranked_by, runs, _chosen(runs, since_ms, wanted)

    counted, metric, runs, shown = ask_index(place, index, answer)
    before = nearest_before(repository, {run.sha for run in runs}) if repository else {}
    entries = leaderboard(runs, metric, before, shown, lower_is_better=lower_is_better)
    pairs = {name: _pairs(entries, name) for name in SUBMITTED}
    correlations = {name: rank_correlation(list(each.values())) for name, each in pairs.items()}
    if plot:
        _draw(pairs, metric, plot)
    if as_json:
        known = {name: each for name, each in correlations.items() if each is not None}
        print_json(metric=metric, rank_correlation=known, commits=[_plain(e) for e in entries])
    elif entries:
        said = subjects(repository, [entry.sha for entry in entries]) if repository else {}
        _show(entries, metric, said)
        for name, each in correlations.items():
            if each is not None:
                text = f"Rank correlation of {metric} and {name}: {each:+.2f}"
                out.print(f"{text} over {len(pairs[name])} commits.")
    elif runs:
        filters = {"--since": since, "--branch": branch, "--backend": backend}
        named = " ".join(f"{option} {value}" for option, value in filters.items() if value)
        out.print(f"{named} excludes all {len(runs)} finished runs with a commit and {metric}.")
    else:
        listed = ", ".join(sorted(counted)[:_LISTED]) or "none"
        out.print(printable(f"No finished run has a commit and {metric}. Metrics: {listed}."))


def _since_ms(age: str | None) -> int:
    if age is None:
        return 0
    match = re.fullmatch(r"(\d+)([hdw])", age)
    if match is None:
        raise UsageError("reading --since", f"{age!r} is not an age", "Write 12h, 7d or 2w.")
    return int((time.time() - int(match[1]) * _SECONDS[match[2]]) * 1000)


def _chosen(
    runs: Sequence["Scored"], since_ms: int, wanted: dict[str, str | None]
) -> list["Scored"]:
    """Return the runs since then that have these tags; a value that no run has is an error."""
    for tag, value in wanted.items():
        known = sorted({run.tags.get(tag, "") for run in runs} - {""})
        if value and runs and value not in known:
            listed = ", ".join(known[:_LISTED]) + (" …" if len(known) > _LISTED else "")
            name = "branch" if tag == BRANCH else tag
            hint = f"Known: {listed}." if known else f"No run has a {name}."
            raise UsageError(f"filtering by {name} {value!r}", "no run on the board has it", hint)
    return [
        run
        for run in runs
        if run.started_ms >= since_ms
        and all(not value or run.tags.get(tag) == value for tag, value in wanted.items())
    ]


def _pairs(entries: Sequence["Entry"], name: str) -> dict[str, tuple[float, float]]:
    """Return each submitted commit's own score with one of Kaggle's, by its short hash."""
    return {
        entry.sha[:10]: (entry.score.mean, float(entry.cells[name]))
        for entry in entries
        if name in entry.cells and math.isfinite(entry.score.mean)
    }


def _draw(pairs: dict[str, dict[str, tuple[float, float]]], metric: str, file: Path) -> None:
    from kaggleops.reports.charts import scatter

    # The private score, which is named last, is the one that counts.
    name = next((each for each in reversed(pairs) if pairs[each]), None)
    if name is None:
        hint = "`kaggleops submit RUN` records Kaggle's score."
        raise UsageError(f"drawing {file}", "no commit on the board was submitted", hint)
    file.write_bytes(scatter(pairs[name], "CV against LB", metric, name))


def _plain(entry: "Entry") -> dict[str, object]:
    change = entry.change
    return {
        "commit": entry.sha,
        "score": entry.score.mean,
        "spread": entry.score.spread,
        "runs": list(entry.runs),
        **entry.cells,
        "parent": entry.parent,
        "change": change and change.mean,
        "interval": [change.low, change.high] if change and change.low is not None else None,
        "regression": entry.regression,
    }


def _show(entries: list["Entry"], metric: str, said: dict[str, str]) -> None:
    from kaggleops.reports.comparison_text import difference, summary
    from kaggleops.reports.leaderboard import COLUMNS

    names = [each.name for each in COLUMNS if any(entry.cells.get(each.name) for entry in entries)]
    rows = []
    for place, entry in enumerate(entries, 1):
        change = f"{difference(entry.change)} vs {entry.parent[:10]}" if entry.parent else ""
        cells = [entry.cells.get(name, "") for name in names]
        rows.append([
            str(place),
            entry.sha[:10],
            summary(entry.score),
            f"{change} REGRESSION" if entry.regression else change,
            *(each if isinstance(each, str) else f"{each:.5f}" for each in cells),
            said.get(entry.sha, ""),
        ])  # fmt: skip
    head = ["#", "commit", metric, "vs the one before", *names, "message"]
    print_table(head, rows, {"REGRESSION": "bold red"})
