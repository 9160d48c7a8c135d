"""`kaggleops leaderboard`."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from kaggleops.cli.indexed import ask_index, require_index
from kaggleops.cli.options import (
    Since,
    bucket_of,
    bucket_option,
    direction_option,
    in_a_folder,
    index_option,
    json_option,
)
from kaggleops.cli.output import out, print_json, print_table
from kaggleops.errors import UsageError
from kaggleops.git.own_files import leave_out
from kaggleops.printable import printable
from kaggleops.tags import BACKEND, BRANCH

if TYPE_CHECKING:
    from kaggleops.reports.history import History
    from kaggleops.reports.leaderboard import Entry, Tried
    from kaggleops.reports.score import Score
    from kaggleops.reports.trainings import Run

_LISTED = 8  # names in a message


@click.command("leaderboard")
@bucket_option
@index_option
@click.option("--experiment", metavar="NAME", help="Default: the most recently used one.")
@click.option("--metric", metavar="NAME", help="Default: the score that most runs have.")
@direction_option
@click.option("--sweep", metavar="RUN", help="Rank the trials of this sweep instead.")
@click.option("--since", metavar="TIME", help="Only runs since then: 12h, 7d, 2026-11-30.")
@click.option("--branch", metavar="NAME", help="Only runs of this branch.")
@click.option("--backend", metavar="NAME", help="Only runs on kaggle, colab, local …")
@click.option(
    "--html",
    "page",
    metavar="FILE",
    type=click.Path(path_type=Path),
    callback=in_a_folder,
    help="Write a page with the board, every fold's score, and the commits' own scores against"
    " Kaggle's.",
)
@json_option
def leaderboard_command(
    bucket: str | None,
    index: str | None,
    experiment: str | None,
    metric: str | None,
    lower_is_better: bool | None,
    sweep: str | None,
    since: str | None,
    branch: str | None,
    backend: str | None,
    page: Path | None,
    as_json: bool,
) -> None:
    """Rank an experiment's commits, or a sweep's trials, the best first.

    A commit that is significantly worse than the nearest scored commit before it is marked as a
    regression, even if --since, --branch or --backend hide that one. The last line says how well
    Kaggle's scores agree with the ranking (Spearman's correlation).

    \b
    Example:
      kaggleops leaderboard --metric jaccard
    """
    require_index()
    from kaggleops.git.commits import nearest_before, repository_around, subjects
    from kaggleops.reports.leaderboard import leaderboard, read_runs
    from kaggleops.reports.score import SUBMITTED
    from kaggleops.reports.selection import Selector
    from kaggleops.reports.statistics import rank_correlation

    place = bucket_of(bucket)
    repository = repository_around(Path.cwd())
    since_ms = int(Since().convert(since, None, None) * 1000) if since else 0
    wanted = {BRANCH: branch, BACKEND: backend}
    if sweep:
        if page:
            hint = "The campaign's page shows trials: `kaggleops watch` keeps it."
            raise UsageError("reading --html", "it shows commits, and no trials of a sweep", hint)

        def trials(history: "History") -> "_Trials":
            return _trials(history, repository, sweep, metric, lower_is_better, since_ms, wanted)

        _show_trials(ask_index(place, index, trials), as_json)
        return

    def answer(
        history: "History",
    ) -> "tuple[dict[str, int], Score, list[Run], list[Run], set[str]]":
        number = Selector(history, None, experiment).experiment_id or history.last_experiment()
        if number is None:
            raise UsageError("ranking the commits", "the bucket has no runs")
        score = _score(history, number, metric, lower_is_better, "ranking the commits")
        runs = read_runs(history, number, score.name)
        scored = history.commits(number, score.name)  # as `compare` finds the one before
        return history.metric_names(number), score, runs, _chosen(runs, since_ms, wanted), scored

    counted, score, runs, shown, scored = ask_index(place, index, answer)
    metric = score.name
    before = nearest_before(repository, scored) if repository else {}
    entries = leaderboard(runs, score, before, shown)
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
    if as_json:
        known = {name: each for name, each in correlations.items() if each is not None}
        print_json(metric=metric, rank_correlation=known, commits=[_plain(e) for e in entries])
    elif entries:
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


def _score(
    history: "History", number: str, metric: str | None, lower_is_better: bool | None, doing: str
) -> "Score":
    """Return the metric to rank an experiment by: the one that was named, or its score."""
    from kaggleops.reports.score import Score, named

    found = named(metric, lower_is_better) if metric else history.score(number, doing)
    return found if lower_is_better is None else Score(found.name, lower_is_better)


class _Trials(NamedTuple):
    """What is known of a sweep's trials."""

    sweep: "Run"
    metric: str
    progress: str
    ranked: "list[Tried]"


def _trials(
    history: "History",
    repository: Path | None,
    name: str,
    metric: str | None,
    lower_is_better: bool | None,
    since_ms: int,
    wanted: dict[str, str | None],
) -> _Trials:
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
    runs = _chosen(read_runs(history, parent.experiment_id, score.name), since_ms, wanted)
    ranked = trials_of(runs, trials, score)
    statuses = history.trials([parent.id]).get(parent.id, [])
    return _Trials(parent, score.name, sweep.progress(statuses), ranked)


def _show_trials(found: _Trials, as_json: bool) -> None:
    from kaggleops.reports.comparison_text import summary
    from kaggleops.reports.leaderboard import COLUMNS

    if as_json:
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
            for each in found.ranked
        ]
        print_json(sweep=found.sweep.id, metric=found.metric, trials=trials)
        return
    names = [each.name for each in COLUMNS if any(one.cells.get(each.name) for one in found.ranked)]
    rows = []
    for place, each in enumerate(found.ranked, 1):
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
        print_table(["#", "trial", found.metric, "settings", *names, "run"], rows)
    out.print(printable(f"{found.sweep.name or found.sweep.id}: {found.progress}."))
    if not rows:
        out.print(printable(f"No finished run of it has {found.metric}."))


def _chosen(runs: Sequence["Run"], since_ms: int, wanted: dict[str, str | None]) -> list["Run"]:
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


def _show(entries: list["Entry"], metric: str, said: dict[str, str]) -> None:
    from kaggleops.reports.leaderboard import table

    print_table(*table(entries, metric, said), {"REGRESSION": "bold red"})
