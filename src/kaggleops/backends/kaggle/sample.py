"""What a competition wants to be handed in: its sample_submission.csv, and whether a file is so."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kaggleops.errors import UsageError
from kaggleops.resources.addresses import OnKaggle
from kaggleops.resources.kaggle import KaggleOrigin

_SAMPLE = re.compile(r"(?:.*/)?sample_?submission[^/]*\.csv", re.IGNORECASE)


def sample_of(competition: str, folder: Path, client: Any) -> Path | None:
    """Download a competition's sample into a folder; None where it has none."""
    origin = KaggleOrigin(OnKaggle("competitions", competition), client)
    found = [file for file in origin.list(()) if _SAMPLE.fullmatch(file.name)]
    if not found:
        return None
    path = folder / "sample_submission.csv"
    origin.read(found[0], path, lambda size: None)
    return path


def check_against(sample: Path, submission: Path) -> int:
    """Make sure that a file has the sample's columns, and each of its rows once; return how many.

    Rows are told by their first column, in any order, as Kaggle tells them. Raises UsageError with
    the first line that is wrong.
    """
    doing = f"checking {submission.name} against sample_submission.csv"
    wanted, rows = _rows(sample, f"reading {sample.name}"), _rows(submission, doing)
    (_, expected), (_, header) = next(wanted, (1, [])), next(rows, (1, []))
    if header != expected:
        problem = f"its columns are {', '.join(header)} instead of {', '.join(expected)}"
        raise UsageError(doing, problem, "Write the sample's columns, in its order.")
    ids = {row[0] for _, row in wanted if row}
    seen: dict[str, int] = {}
    for line, row in rows:
        if len(row) != len(header):
            raise UsageError(doing, f"line {line} has {len(row)} fields instead of {len(header)}")
        if row[0] not in ids:
            problem = f"line {line} has the {header[0]} {row[0]!r}, which the sample has not"
            raise UsageError(doing, problem, "Predict the competition's own test file.")
        if row[0] in seen:
            problem = f"lines {seen[row[0]]} and {line} both have the {header[0]} {row[0]!r}"
            raise UsageError(doing, problem, "Each row is wanted once.")
        seen[row[0]] = line
    if lacking := ids - seen.keys():
        problem = f"{len(lacking):,} of {len(ids):,} rows are missing, {min(lacking)!r} say"
        raise UsageError(doing, problem, "Predict the whole test file.")
    return len(ids)


def _rows(path: Path, doing: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each row ends, and its fields; empty lines are none."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.reader(opened, strict=True)
            for row in reader:
                if row:
                    yield reader.line_num, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(doing, f"it is not CSV in UTF-8 ({error})") from error
