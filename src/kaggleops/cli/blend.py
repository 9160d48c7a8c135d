"""`kaggleops blend`."""

import importlib.util
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from kaggleops.bucket.location import tracking_uri
from kaggleops.cli import options
from kaggleops.cli.indexed import ask_index, history_of, require_index
from kaggleops.cli.output import (
    err,
    out,
    print_json,
    print_rows,
    print_table,
    progress_bar,
    stdout_for_json,
)
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.printable import printable

_NEEDED = {"numpy": "NumPy", "pandas": "pandas", "scipy": "SciPy", "sklearn": "scikit-learn"}
_CORRELATED = 8  # members whose correlations a terminal has room for

_file = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command("blend")
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@options.place
@options.index
@click.option("--sweep", metavar="RUN", help="Blend the finished trials of this sweep.")
@click.option("--experiment", metavar="NAME", help="Of `best:N`. Default: the last one used.")
@click.option(
    "--metric",
    metavar="NAME",
    help="A metric's name in scikit-learn, or your own module:function. Default: the score.",
)
@options.direction
@click.option("--target", metavar="COLUMN", help="The column of oof.csv that says what is right.")
@click.option(
    "--prediction",
    multiple=True,
    metavar="COLUMN",
    help="The column of oof.csv with predictions; once for each class.",
)
@click.option("--group", metavar="COLUMN", help="The column with a row's query, for ndcg and map.")
@click.option(
    "--threshold",
    type=options.NumberRange(0, 1),
    default=0.5,
    show_default=True,
    help="From which probability on a row is of the second of two classes.",
)
@click.option(
    "--truth", metavar="FILE", type=_file, help="CSV of the training rows: id and target."
)
@click.option("--folds", metavar="FILE", type=_file, help="CSV of the training rows: id and fold.")
@click.option("--sample", metavar="FILE", type=_file, help="The sample_submission.csv to follow.")
@click.option("--dry-run", is_flag=True, help="Print the blend, and make no run.")
@options.json
def blend_command(
    runs: tuple[str, ...],
    place: str,
    index: str | None,
    sweep: str | None,
    experiment: str | None,
    dry_run: bool,
    **how: Any,
) -> None:
    """Blend runs by their out-of-fold predictions, with an honest score.

    RUN is the id or name of a run, or `best:N` for the best N of the experiment. Their artifacts
    oof.csv and submission.csv (or oof.npy and test.npy) are read. The blend's score is of rows that
    its weights were not found on.

    \b
    Example:
      kaggleops blend best:5 --dry-run
    """
    for module, name in _NEEDED.items():
        if importlib.util.find_spec(module) is None:
            hint = "Install it: pip install 'kaggleops[server,train]'."
            raise UsageError("blending", f"{name} is not installed", hint)
    require_index()
    from kaggleops.blend.members import Options, as_table, read_members, wanted
    from kaggleops.blend.record import record
    from kaggleops.blend.report import blend

    metric = how["metric"]
    for name in ("truth", "folds", "sample"):
        if file := how[name]:
            how[name] = as_table(file, f"reading --{name} {file}")
    given = Options(lower=how.pop("lower_is_better"), **how)
    these = ask_index(
        place, index, lambda history: wanted(history, runs, sweep, experiment, metric, place)
    )
    with stdout_for_json():
        with progress_bar("Reading the members") as progress:
            members, notes = read_members(these, options.bucket_at(place), given, progress)
        with progress_bar("Looking for weights") as progress:
            found = blend(members, given, these.score, notes, progress)
        run_id = "" if dry_run else record(found, tracking_uri(place))
        if run_id:  # the leaderboard shows it at once, not in some seconds
            with suppress(KaggleOpsError), history_of(place, index, fresh_for=0):
                pass
    print_json(run_id=run_id or None, **found.to_json())
    print_table(*found.table(correlated=len(found.members) <= _CORRELATED))
    out.print(printable(found.answer), style="bold")
    out.print(found.how)
    for note in found.notes:
        err.print(printable(note), style="yellow")
    if run_id:
        submit = f"kaggleops submit {run_id}{options.bucket_flag(place)}"
        print_rows(
            ("Run", f"{run_id}  blend of {len(found.weights)}"),
            ("Submit it", submit if found.submission is not None else ""),
        )
