"""The scores of single rows that a training left beside its metrics."""

import csv
import io
from collections.abc import Callable, Mapping
from contextlib import suppress

from kaggleops.bucket import Bucket
from kaggleops.errors import KaggleOpsError
from kaggleops.reports.history import Run

OOF_FILE = "oof.csv"
"""The artifact: a line for each row that was predicted out of fold, its id first. Columns that are
called as one of the run's metrics are that metric's scores."""


def reader(bucket: Bucket) -> Callable[[Run], Mapping[str, Mapping[str, float]] | None]:
    """Return what reads a run's scores by metric and row; None for a run that left none.

    Args:
        bucket: where the runs' artifacts lie. One that cannot be reached has none.
    """
    root = f"{bucket.artifact_uri}/"

    def read(run: Run) -> Mapping[str, Mapping[str, float]] | None:
        if not run.artifacts.startswith(root):
            return None
        key = f"{run.artifacts.removeprefix(root)}/{OOF_FILE}"
        with suppress(KaggleOpsError, csv.Error):  # a cell of megabytes, say
            found = bucket.read(key)
            return scores(found.data.decode(errors="replace"), run) if found else None
        return None

    return read


def scores(text: str, run: Run) -> dict[str, dict[str, float]]:
    """Return the scores by metric and row that a table holds.

    Args:
        text: the table as CSV.
        run: the one that left it.
    """
    table = csv.DictReader(io.StringIO(text))
    if not table.fieldnames:
        return {}
    row_id, *columns = table.fieldnames
    found: dict[str, dict[str, float]] = {name: {} for name in columns if name in run.metrics}
    for line in table:
        for name, values in found.items():
            with suppress(ValueError, TypeError):  # no number: then it is no score
                values[line[row_id]] = float(line[name])
    return {name: values for name, values in found.items() if values}
