"""`kaggleops leaderboard`."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kaggleops.cli import options
from kaggleops.cli.indexed import ask_index, require_index
from kaggleops.cli.output import err, out, print_json, print_table
from kaggleops.errors import UsageError
from kaggleops.git.own_files import leave_out
from kaggleops.printable import counted, printable

if TYPE_CHECKING:
    from kaggleops.reports.history import History
    from kaggleops.reports.leaderboard import Entry, Tried
    from kaggleops.reports.score import Score
    from kaggleops.reports.trainings import Run

_LISTED = 8  # names in a message


@click.command("leaderboard")
@options.place
@options.index
@click.option("--experiment", metavar="NAME", help="Default: the most recently used one.")
@click.option("--metric", metavar="NAME", help="Default: the score that most runs have.")
@options.direction
@click.option("--sweep", metavar="RUN", help="Rank the trials of this sweep instead.")
@click.option(
    "--html",
    "page",
    metavar="FILE",
    type=click.Path(path_type=Path),
    callback=options.in_a_folder,
    help="Write a page with the board, every fold's score, and the commits' own scores against"
    " Kaggle's.",
)
@options.json
def leaderboard_command(
    place: str,
    index: str | None,
    experiment: str | None,
    metric: str | None,
    lower_is_better: bool | None,
    sweep: str | None,
    page: Path | None,
) -> None:
    """Rank an experiment's commits, or a sweep's trials, the best first.

    A commit that is significantly worse than the nearest scored commit before it is marked as a
    regression. The last line says how well Kaggle's scores agree with the ranking (Spearman's
    correlation).

    \b
    Example:
      kaggleops leaderboard --metric jaccard
    """
    require_index()
    from kaggleops.git.commits import nearest_before, repository_around, subjects
    from kaggleops.reports.leaderboard import leaderboard, read_runs, table
    from kaggleops.reports.score import SUBMITTED
    from kaggleops.reports.selection import Selector
    from kaggleops.reports.statistics import rank_correlation

    repository = repository_around(Path.cwd())
    if sweep:
        if page:
            hint = "The campaign's page shows trials: `kaggleops watch` keeps it."
            raise UsageError("reading --html", "it shows commits, and no trials of a sweep", hint)

        told = ask_index(
            place,
            index,
            lambda history: _trials(history, repository, sweep, metric, lower_is_better),
        )
        _show_trials(*told)
        return

    def answer(history: "History") -> "tuple[dict[str, int], Score, list[Run], set[str], int, str]":
        number = Selector(history, None, experiment).experiment_id or history.last_experiment()
        if number is None:
            raise UsageError("ranking the commits", "the bucket has no runs")
        of = {each: name for name, each in history.experiments().items()}.get(number, number)
        is_guessed = experiment is None and history.has_others(number)
        doing = f"ranking the commits{f' of {of}' if is_guessed else ''}"
        score = _score(history, number, metric, lower_is_better, doing)
        scored = history.commits(number, score.name)  # as `compare` finds the one before
        names, runs = history.metric_names(number), read_runs(history, number, score.name)
        patched = 0 if runs else history.count_patched(number, score.name)
        note = f"Of the experiment {of}, the one used last. --experiment NAME ranks another."
        return names, score, runs, scored, patched, note if is_guessed else ""

    known_metrics, score, runs, scored, patched, note = ask_index(place, index, answer)
    if note:
        err.print(printable(note))
    metric = score.name
    before = nearest_before(repository, scored) if repository else {}
    entries = leaderboard(runs, score, before)
    # Each submitted commit's own score with one of Kaggle's, by its short hash.
    pairs = {
        name: {
            entry.sha[:10]: (entry.score.mean, float(entry.cells[name]))
            for entry in entries
            if name in entry.cells and math.isfinite(entry.score.mean)
        }
        for name in SUBMITTED
    }
    correlations = {name: rank_correlation(list(each.values())) for name, each in pairs.items()}
    commits = [entry.sha for entry in entries if not entry.members]
    said = subjects(repository, commits) if repository else {}
    said |= {each.sha: f"blend of {each.members}" for each in entries if each.members}
    if page:
        from kaggleops.reports.pages import leaderboard_page

        page.write_text(leaderboard_page(entries, score, said), encoding="utf-8")
        leave_out(page)
    known = {name: each for name, each in correlations.items() if each is not None}
    print_json(metric=metric, rank_correlation=known, commits=[_plain(e) for e in entries])
    if entries:
        print_table(*table(entries, metric, said), {"REGRESSION": "bold red"})
        for name, each in correlations.items():
            if each is not None:
                text = f"Rank correlation of {metric} and {name}: {each:+.2f}"
                out.print(f"{text} over {len(pairs[name])} commits.")
    elif patched:
        left_out = f"{counted(patched, 'run')} of uncommitted changes with {metric}"
        hint = "Commit them, and run that: what no commit has stands for none."
        out.print(printable(f"No commit to rank: {left_out} left out. {hint}"))
    else:
        listed = ", ".join(sorted(known_metrics)[:_LISTED]) or "none"
        out.print(printable(f"No finished run has a commit and {metric}. Metrics: {listed}."))


def _score(
    history: "History", number: str, metric: str | None, lower_is_better: bool | None, doing: str
) -> "Score":
    """Return the metric to rank an experiment by: the one that was named, or its score."""
    from kaggleops.reports.score import Score, named

    found = named(metric, lower_is_better) if metric else history.score(number, doing)
    return found if lower_is_better is None else Score(found.name, lower_is_better)


def _trials(
    history: "History",
    repository: Path | None,
    name: str,
    metric: str | None,
    lower_is_better: bool | None,
) -> "tuple[Run, str, str, list[Tried]]":
    """Return a sweep, the metric that ranks its trials, how far it is, and its trials, ranked."""
    from kaggleops.campaign.sweep import Sweep
    from kaggleops.reports.leaderboard import read_runs, trials_of
    from kaggleops.reports.selection import Selector
    from kaggleops.tags import SWEEP

    parent, trials = Selector(history, repository).sweep(name)
    sweep = Sweep.from_tag(parent.tags[SWEEP])
    if metric is None and sweep.metrics:
        metric = sweep.metrics[0]
        if lower_is_better is None and sweep.directions:
            lower_is_better = sweep.directions[0] == "minimize"
    doing = f"ranking the trials of {parent.name or parent.id}"
    score = _score(history, parent.experiment_id, metric, lower_is_better, doing)
    runs = read_runs(history, parent.experiment_id, score.name)
    ranked = trials_of(runs, trials, score)
    statuses = history.trials([parent.id]).get(parent.id, [])
    return parent, score.name, sweep.progress(statuses), ranked


def _show_trials(sweep: "Run", metric: str, progress: str, ranked: "list[Tried]") -> None:
    from kaggleops.reports.comparison_text import summary
    from kaggleops.reports.leaderboard import COLUMNS

    trials = [
        {
            "trial": each.number,
            "run_id": each.run_id,
            "score": each.score.mean,
            "spread": each.score.spread,
            "runs": list(each.runs),
            "settings": dict(each.point),
            **each.cells,
        }
        for each in ranked
    ]
    print_json(sweep=sweep.id, metric=metric, trials=trials)
    names = [each.name for each in COLUMNS if any(one.cells.get(each.name) for one in ranked)]
    rows = []
    for place, each in enumerate(ranked, 1):
        cells = [each.cells.get(name, "") for name in names]
        rows.append([
            str(place),
            each.number,
            summary(each.score),
            " ".join(f"{key}={value}" for key, value in each.point.items()),
            *(cell if isinstance(cell, str) else f"{cell:.5f}" for cell in cells),
            each.run_id,
        ])  # fmt: skip
    if rows:
        print_table(["#", "trial", metric, "settings", *names, "run"], rows)
    out.print(printable(f"{sweep.name or sweep.id}: {progress}."))
    if not rows:
        out.print(printable(f"No finished run of it has {metric}."))


def _plain(entry: "Entry") -> dict[str, object]:
    change = entry.change
    return {
        "commit": "" if entry.members else entry.sha,
        "members": entry.members,
        "score": entry.score.mean,
        "spread": entry.score.spread,
        "runs": list(entry.runs),
        **entry.cells,
        "parent": entry.parent,
        "change": change and change.mean,
        "compared": {"means": entry.means, "settings": entry.settings},
        "interval": [change.low, change.high] if change and change.low is not None else None,
        "regression": entry.regression,
    }
