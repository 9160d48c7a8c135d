"""What `kaggleops compare` finds, for the command and, as `kaggleops.compare`, for a notebook."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaggleops.cli.indexed import asked, require_index
from kaggleops.cli.options import bucket_at, bucket_of
from kaggleops.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from kaggleops.reports.comparison import Comparison
    from kaggleops.reports.history import History


@dataclass(frozen=True, repr=False)
class Compared:
    """A comparison, as a notebook shows it: the page that `kaggleops compare --html` writes.

    Args:
        comparison: what was found.
        page: it as a page that needs no network; "" if it was not asked for.
    """

    comparison: "Comparison"
    page: str

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
        style = "width: 100%; height: 800px; border: 0"
        return f'<iframe sandbox srcdoc="{escape(self.page)}" style="{style}"></iframe>'


def compare(
    *names: str,
    bucket: str | None = None,
    experiment: str | None = None,
    metrics: Sequence[str] = (),
    lower_is_better: bool | None = None,
    paths: Sequence[str] = (),
) -> Compared:
    """Compare the runs of a commit with those of others: what changed, and did it help?

    Args:
        names: commits, branches, tags, run ids, run names, or "best" (by the first of the
            metrics). One alone is compared with the nearest commit before it that has runs.
        bucket: gs://BUCKET[/PREFIX] or a folder; by default as for the commands.
        experiment: only the runs of this experiment.
        metrics: only these.
        lower_is_better: whether less of them is better; None to tell it from each one's name.
        paths: only the code there; by default all that the runs can use.

    Raises:
        UsageError: a name means nothing or too much, or they cannot be compared.
        KaggleOpsError: the bucket cannot be reached.
    """
    if not names:
        raise UsageError("comparing", "nothing is named", "Name commits, branches or runs.")
    require_index()
    from kaggleops.server.settings import index_at

    index = os.environ.get("KAGGLEOPS_INDEX")
    return compared(
        names,
        bucket_of(bucket),
        index_at(index) if index else None,
        experiment=experiment,
        metrics=metrics,
        lower_is_better=lower_is_better,
        paths=paths,
    )


def compared(
    names: Sequence[str],
    place: str,
    index: str | None,
    *,
    experiment: str | None,
    metrics: Sequence[str],
    lower_is_better: bool | None,
    paths: Sequence[str],
    with_page: bool = True,
) -> Compared:
    """Compare, as `compare` does; see there.

    Args:
        names: what with what.
        place: the bucket's address.
        index: the index's, as `index_option` gives it.
        experiment: only the runs of this experiment.
        metrics: only these.
        lower_is_better: whether less of them is better; None to tell it from each one's name.
        paths: only the code there.
        with_page: make the page, too.
    """
    from kaggleops.git.commits import repository_around
    from kaggleops.reports.comparison import compare as lined_up
    from kaggleops.reports.comparison_page import page
    from kaggleops.reports.out_of_fold import reader
    from kaggleops.reports.selection import Selector

    if lower_is_better is not None and not metrics:
        option = "--lower-is-better" if lower_is_better else "--higher-is-better"
        raise UsageError(f"reading {option}", "no metric is named", "Add --metric NAME.")
    repository = repository_around(Path.cwd())
    rows = reader(bucket_at(place))
    # As git takes them: from here. It runs at the repository's top.
    shown = [os.path.relpath(path, repository) for path in paths] if repository else ()

    def answer(history: "History") -> Compared:
        metric = metrics[0] if metrics else None
        selector = Selector(history, repository, experiment, metric, lower_is_better)
        sides = [selector.find(name) for name in names]
        if len(sides) == 1:
            sides.insert(0, selector.before(sides[0]))
        found = lined_up(
            sides,
            repository,
            metrics=metrics,
            lower_is_better=lower_is_better,
            rows=rows,
            paths=shown,
        )
        return Compared(found, page(found, history) if with_page else "")

    return asked(place, index, answer)
