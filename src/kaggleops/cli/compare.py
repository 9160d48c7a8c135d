"""`kaggleops compare`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kaggleops.cli.comparison import compared
from kaggleops.cli.options import (
    bucket_of,
    bucket_option,
    direction_option,
    in_a_folder,
    index_option,
    json_option,
)
from kaggleops.cli.output import err, out, print_json, print_table
from kaggleops.printable import printable

if TYPE_CHECKING:
    from kaggleops.reports.comparison import Comparison

_STYLES = {"▲": "green", "▼": "bold red"}
_MOST_FILES = 12
PAGE = "comparison.html"
"""The artifact that holds a comparison."""


@click.command("compare")
@click.argument("names", nargs=-1, required=True, metavar="A [B]...")
@bucket_option
@index_option
@click.option("--experiment", metavar="NAME", help="Only the runs of this experiment.")
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="Only this metric.")
@direction_option
@click.option(
    "--path",
    "paths",
    multiple=True,
    metavar="PATH",
    help="Only the code there. Default: all that the runs can use.",
)
@click.option("--markdown", is_flag=True, help="Print Markdown, for a pull request.")
@click.option(
    "--html",
    metavar="FILE",
    type=click.Path(path_type=Path),
    callback=in_a_folder,
    help="Write a page with charts that opens without a network.",
)
@click.option(
    "--log",
    "to_run",
    is_flag=True,
    help="Log that page as an artifact of the last side's newest run, linked from its page.",
)
@json_option
def compare_command(
    names: tuple[str, ...],
    bucket: str | None,
    index: str | None,
    experiment: str | None,
    metrics: tuple[str, ...],
    lower_is_better: bool | None,
    paths: tuple[str, ...],
    markdown: bool,
    html: Path | None,
    to_run: bool,
    as_json: bool,
) -> None:
    """Compare two commits' runs: what changed, and did it help?

    A and B are each a commit, branch, tag, run id, run name or `best` (by --metric). A alone is
    compared with the nearest commit before it that has runs.

    \b
    Example:
      kaggleops compare main my-branch --metric jaccard
    """
    from kaggleops.reports.comparison_text import to_json, to_markdown

    place = bucket_of(bucket)
    done = compared(
        names,
        place,
        index,
        experiment=experiment,
        metrics=metrics,
        lower_is_better=lower_is_better,
        paths=paths,
        with_page=bool(html or to_run),
    )
    found, written = done.comparison, done.page
    if html is not None:
        html.write_text(written, encoding="utf-8")
    if to_run:
        _log_page(found, written, place)
    if as_json:
        print_json(**to_json(found))
    elif markdown:
        click.echo(to_markdown(found), nl=False)
    else:
        _show(found)
    if html is not None:
        err.print(f"Written: {html}")


def _log_page(found: "Comparison", written: str, place: str) -> None:
    from mlflow import MlflowClient

    from kaggleops.bucket.location import tracking_uri
    from kaggleops.mlruns.ui import artifact_page, with_link
    from kaggleops.tags import NOTE

    newest = max(found.sides[-1].runs, key=lambda run: run.started_ms)
    # Folds are parts of a run that stands for all of them.
    run_id = newest.parent or newest.id
    client = MlflowClient(tracking_uri(place), tracking_uri(place))
    client.log_text(run_id, written, PAGE)
    note = client.get_run(run_id).data.tags.get(NOTE, "")
    link = artifact_page(newest.experiment_id, run_id, PAGE)
    client.set_tag(run_id, NOTE, with_link(note, "comparison", link))
    err.print(f"Logged: {PAGE} of run {run_id}")


def _show(found: "Comparison") -> None:
    from kaggleops.reports.comparison_text import metric_rows, metric_titles

    print_table(metric_titles(found), metric_rows(found), _STYLES)
    for title, lines in (
        ("params", found.params),
        ("data", found.data),
        ("environment", found.environment),
    ):
        if lines:
            head = [title, *(side.title for side in found.sides)]
            body = [[name, *(value or "-" for value in values)] for name, values in lines.items()]
            print_table(head, body)
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
            out.print(f"  … {hidden} more lines; --html FILE has it all")
    for note in found.notes:
        err.print(printable(note), style="yellow")
