"""The tables of a training's folds, put together to one: `oof.csv` of each, out of fold.

Or `submission.csv`, where the jobs predict, each a shard of the rows. They ran anywhere, and may be
of any project: what is asked of a table is that it is CSV with the same columns as the others. A
row at a time is in memory.
"""

import csv
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TextIO

from mlflow import MlflowClient

from kaggleops.bucket import Bucket
from kaggleops.campaign.sweep import Job
from kaggleops.errors import KaggleOpsError
from kaggleops.printable import printable
from kaggleops.reports.evidence import OOF_FILE

SUBMISSION = "submission.csv"
"""The artifact of jobs that predict: of each a shard, of their parent all of it."""

_LARGEST = 256 << 20  # bytes of one fold's table
_LONGEST_LINE = 1 << 20  # characters: a row is in memory, and a watcher may have 300 MB
_DOING = "putting the tables together"


class TableError(KaggleOpsError):
    """The tables of the folds do not make one."""


def gathered(
    folds: Sequence[Job], client: MlflowClient, bucket: Bucket, folder: Path
) -> tuple[Path, dict[str, float]]:
    """Write the table of all folds, and return it with the scores of all rows."""
    root = f"{bucket.artifact_uri}/"
    kept: list[Path] = []
    name = OOF_FILE
    for job in folds:
        location = client.get_run(job.run_id).info.artifact_uri or ""
        below = location.removeprefix(root) if location.startswith(root) else "-"
        if not kept and bucket.stat(f"{below}/{name}") is None:
            name = SUBMISSION if bucket.stat(f"{below}/{SUBMISSION}") else name
        entry = bucket.stat(f"{below}/{name}")
        if entry is None:
            raise TableError(_DOING, f"fold {job.fold} has no {name}")
        if entry.size > _LARGEST:
            problem = f"that of fold {job.fold} has {entry.size:,} bytes, {_LARGEST:,} are the most"
            raise TableError(_DOING, problem)
        kept.append(folder / f"{len(kept)}.csv")
        bucket.fetch(f"{below}/{name}", kept[-1], listed=entry)
    table = folder / name
    return table, put_together(folds, kept, table)


def put_together(folds: Sequence[Job], tables: Sequence[Path], into: Path) -> dict[str, float]:
    """Write the rows of the folds' tables into one file, and return the scores of all of them.

    A column called as a metric has that metric of each row, if its mean over the rows of each fold
    is what the fold logged; then its mean over all rows is the score of all of them.

    Raises:
        TableError: a table has other columns than the first one, or is no CSV.
    """
    metrics = set.intersection(*(set(job.metrics) for job in folds))
    columns: list[str] = []
    counts: list[int] = []
    sums: list[dict[str, float]] = []
    with into.open("w", encoding="utf-8", errors="surrogateescape", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        for job, path in zip(folds, tables, strict=True):
            with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as table:
                rows = csv.reader(_lines(table), strict=True)
                try:
                    head = next(rows, [])
                    if not columns:
                        columns = head
                        writer.writerow(head)
                    if head != columns or not head:
                        there, first = (printable(", ".join(each[:8])) for each in (head, columns))
                        problem = f"fold {job.fold} has the columns {there or 'none'}"
                        raise TableError(_DOING, f"{problem}, fold {folds[0].fold} {first}")
                    scored = {name: columns.index(name) for name in metrics & set(columns[1:])}
                    sums.append(dict.fromkeys(scored, 0.0))
                    counts.append(0)
                    for row in rows:
                        if len(row) != len(columns):
                            raise ValueError(f"line {rows.line_num} has {len(row)} cells")
                        writer.writerow(row)
                        counts[-1] += 1
                        for name, at in scored.items():
                            sums[-1][name] += _number(row[at])
                except (csv.Error, ValueError) as error:
                    problem = f"that of fold {job.fold} is not CSV: {error}"
                    raise TableError(_DOING, problem) from None
    return {
        name: sum(each[name] for each in sums) / sum(counts)
        for name in sorted(sums[0])
        if all(
            count and math.isclose(each[name] / count, job.metrics[name], rel_tol=1e-6)
            for job, each, count in zip(folds, sums, counts, strict=True)
        )
    }


def _lines(table: TextIO) -> Iterator[str]:
    for line in iter(partial(table.readline, _LONGEST_LINE), ""):
        if len(line) == _LONGEST_LINE:
            raise ValueError(f"a line has {_LONGEST_LINE:,} characters or more")
        yield line


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
