"""`kaggleops compare` and, for notebooks, `kaggleops.compare`."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kaggleops.cli import options
from kaggleops.cli.indexed import ask_index, require_index
from kaggleops.cli.output import err, out, print_json, print_table, wants_json
from kaggleops.errors import UsageError
from kaggleops.git.own_files import leave_out
from kaggleops.printable import printable

if TYPE_CHECKING:
    import pandas as pd

    from kaggleops.reports.comparison import Comparison
    from kaggleops.reports.history import History
    from kaggleops.reports.score import Score
    from kaggleops.reports.trainings import Run

_STYLES = {"▲": "green", "▼": "bold red"}
_MOST_FILES = 12
_PAGE = "comparison.html"  # the artifact


@dataclass(frozen=True, repr=False)
class Compared:
    """A comparison; a notebook shows it as the page that `kaggleops compare --html` writes."""

    comparison: "Comparison"  # the comparison
    page: str  # its page; "" if it was not asked for

    @property
    def table(self) -> "pd.DataFrame":
        """Each metric with its sides and their differences, as the command prints them."""
        import pandas as pd

        from kaggleops.reports.comparison_text import metric_rows, metric_titles

        columns = metric_titles(self.comparison)
        return pd.DataFrame(metric_rows(self.comparison), columns=columns).set_index(columns[0])

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain values, as `--json` prints it."""
        from kaggleops.reports.comparison_text import to_json

        return to_json(self.comparison)

    def __repr__(self) -> str:
        from kaggleops.reports.comparison_text import to_markdown

        return to_markdown(self.comparison)

    def _repr_html_(self) -> str:
        # In a frame: its style is a whole page's.
        more = 'sandbox="allow-scripts" style="width: 100%; height: 800px; border: 0"'
        return f'<iframe {more} srcdoc="{escape(self.page)}"></iframe>'


def compare(
    *names: str,
    bucket: str | None = None,
    experiment: str | None = None,
    metrics: Sequence[str] = (),
    lower_is_better: bool | None = None,
    paths: Sequence[str] = (),
    index: str | None = None,
    page: bool = True,
    every_metric: bool = False,
) -> Compared:
    """Compare the runs of a commit with those of others: what changed, and did it help?

    Args:
        names: commits, branches, tags, run ids, run names, or "best" (by the score). A
            single one is compared with the nearest commit before it that has the score.
        bucket: gs://…, s3://… or a folder; by default as for the commands.
        experiment: only the runs of this experiment.
        metrics: only these, the first as the score. By default the score (as the commit declares
            it, or as the names tell) and a few metrics like it.
        lower_is_better: whether lower values are better; None to guess it from each metric's name.
        paths: only the code there; by default all that the runs can use.
        index: the address of the index; by default what KAGGLEOPS_INDEX names.
        page: whether to make the page that a notebook shows.
        every_metric: whether to list all metrics.

    Raises:
        UsageError: a name is unknown or ambiguous, or the runs cannot be compared.
        KaggleOpsError: the bucket cannot be reached.
    """
    if not names:
        raise UsageError("comparing", "nothing is named", "Name commits, branches or runs.")
    require_index()
    from kaggleops.git.commits import repository_around
    from kaggleops.reports import comparison
    from kaggleops.reports.evidence import reader, scores_by_row
    from kaggleops.reports.leaderboard import read_spread
    from kaggleops.reports.pages import comparison_page
    from kaggleops.reports.selection import Selector
    from kaggleops.server.settings import index_at

    if lower_is_better is not None and not metrics:
        option = "--lower-is-better" if lower_is_better else "--higher-is-better"
        raise UsageError(f"reading {option}", "no metric is named", "Add --metric NAME.")
    repository = repository_around(Path.cwd())
    place, index = options.bucket_of(bucket), index or os.environ.get("KAGGLEOPS_INDEX")
    table = reader(options.bucket_at(place))
    # Relative to here, as git takes them; but it runs at the repository's top.
    shown = [os.path.relpath(path, repository) for path in paths] if repository else ()

    def by_fold(run: "Run", score: "Score") -> Mapping[str, float]:
        if not (told := table(run)):
            return {}
        from kaggleops.blend.report import scores_by_fold  # pandas takes a second

        return scores_by_fold(run, told, score)

    def answer(history: "History") -> Compared:
        metric = metrics[0] if metrics else None
        selector = Selector(history, repository, experiment, metric, lower_is_better)
        sides = [selector.find(name) for name in names]
        if len(sides) == 1:
            sides.insert(0, selector.before(sides[0]))
        found = comparison.compare(
            sides,
            repository,
            metrics=metrics,
            lower_is_better=lower_is_better,
            rows=lambda run: scores_by_row(run, table(run)),
            tables=by_fold,
            points=history.points,
            spread=partial(read_spread, history),
            paths=shown,
            every_metric=every_metric,
        )
        return Compared(found, comparison_page(found, history) if page else "")

    return ask_index(place, index_at(index) if index else None, answer)


@click.command("compare")
@click.argument("names", nargs=-1, required=True, metavar="A [B]...")
@options.bucket
@options.index
@click.option("--experiment", metavar="NAME", help="Only the runs of this experiment.")
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="Only this metric.")
@click.option("--all", "every_metric", is_flag=True, help="List all metrics, not the scores alone.")
@options.direction
@click.option(
    "--path",
    "paths",
    multiple=True,
    metavar="PATH",
    help="Only the code there. Default: all code that the runs can use.",
)
@click.option("--markdown", is_flag=True, help="Print Markdown, for a pull request.")
@click.option(
    "--html",
    metavar="FILE",
    type=click.Path(path_type=Path),
    callback=options.in_a_folder,
    help="Write a page with charts that opens without a network.",
)
@click.option(
    "--log",
    "to_run",
    is_flag=True,
    help="Log that page as an artifact of the last side's newest run, linked from its page.",
)
@options.json
def compare_command(
    names: tuple[str, ...],
    bucket: str | None,
    markdown: bool,
    html: Path | None,
    to_run: bool,
    **how: Any,
) -> None:
    """Compare two commits' runs: what changed, and did it help?

    A and B are each a commit, branch, tag, run id, run name or `best` (by the score). A alone is
    compared with the nearest commit before it that has the score.

    \b
    Example:
      kaggleops compare main my-branch --metric jaccard
    """
    from kaggleops.reports.comparison_text import to_markdown

    done = compare(*names, bucket=bucket, page=bool(html or to_run), **how)
    if html is not None:
        html.write_text(done.page, encoding="utf-8")
        leave_out(html)
    if to_run:
        _log_page(done, options.bucket_of(bucket))
    print_json(**done.to_dict())
    if markdown and not wants_json():
        click.echo(to_markdown(done.comparison), nl=False)
    else:
        _show(done.comparison)
    if html is not None:
        err.print(f"Written: {html}")


def _log_page(done: Compared, place: str) -> None:
    from mlflow import MlflowClient

    from kaggleops.bucket.location import tracking_uri
    from kaggleops.mlruns.ui import artifact_page, with_link
    from kaggleops.tags import NOTE

    newest = max(done.comparison.sides[-1].runs, key=lambda run: run.started_ms)
    # The parent stands for all folds, and that of a sweep for none of its trials.
    run_id = (newest.repetition[0] and newest.parent) or newest.id
    client = MlflowClient(tracking_uri(place), tracking_uri(place))
    client.log_text(run_id, done.page, _PAGE)
    note = client.get_run(run_id).data.tags.get(NOTE, "")
    link = artifact_page(newest.experiment_id, run_id, _PAGE)
    client.set_tag(run_id, NOTE, with_link(note, "comparison", link))
    err.print(f"Logged: {_PAGE} of run {run_id}")


def _show(found: "Comparison") -> None:
    from kaggleops.reports.comparison_text import metric_rows, metric_titles

    print_table(metric_titles(found), metric_rows(found), _STYLES)
    if found.more:
        out.print(f"{found.more}: --all")
    for answer in found.answers:
        out.print(printable(answer), style="bold")
    for title, head, body in found.tables:
        print_table([title, *head], body)
    for side, code in zip(found.sides[1:], found.code, strict=True):
        if code is None:
            continue
        out.print()
        out.print(printable(f"commits to {side.title}"), style="bold")
        for sha, subject in code.commits[:_MOST_FILES]:
            out.print(printable(f"{sha[:10]}  {subject}"))
        for name, added, removed in code.files[:_MOST_FILES]:
            counts = "binary" if added < 0 else f"+{added} -{removed}"
            out.print(printable(f"  {counts:<12}{name}"))
        hidden = max(0, len(code.files) - _MOST_FILES) + max(0, len(code.commits) - _MOST_FILES)
        if hidden:
            out.print(f"  … {hidden} more lines; --html FILE shows all")
    for note in found.notes:
        err.print(printable(note), style="yellow")
