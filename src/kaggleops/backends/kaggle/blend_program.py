"""Blends submissions: `python blend.py OUTPUT FILE=WEIGHT FILE=WEIGHT …`.

A column of numbers becomes their weighted mean; one of whole numbers or texts, which are answers,
what has the most weight. It goes along in the folder of a blend, so it needs Python alone.
"""

import csv
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

_ANSWER = re.compile(r"[+-]?\d+")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _blended(values: Sequence[str], weights: Sequence[float], mean: bool) -> str:
    if mean:
        pairs = zip(values, weights, strict=True)
        return repr(sum(float(value) * weight for value, weight in pairs) / sum(weights))
    counted: defaultdict[str, float] = defaultdict(float)
    for value, weight in zip(values, weights, strict=True):
        counted[value] += weight
    return max(counted, key=lambda value: counted[value])


def main(output: str, files: Sequence[str]) -> None:
    """Write the blend of files, each named with its weight, in the rows' order of the first."""
    tables, weights = [], []
    for each in files:
        name, _, weight = each.rpartition("=")
        with Path(name).open(encoding="utf-8-sig", newline="") as opened:
            head, *rows = [row for row in csv.reader(opened) if row]
        tables.append((head, {row[0]: row for row in rows}))
        weights.append(float(weight))
    head, first = tables[0]
    for other, rows_by_id in tables[1:]:
        if other != head or rows_by_id.keys() != first.keys():
            raise SystemExit("error: the members' submissions have other columns or rows")
    columns = range(1, len(head))
    every = {at: [row[at] for _, rows in tables for row in rows.values()] for at in columns}
    means = {
        at: all(map(_is_number, values)) and not all(map(_ANSWER.fullmatch, values))
        for at, values in every.items()
    }
    with Path(output).open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(head)
        for row_id in first:
            rows = [rows_by_id[row_id] for _, rows_by_id in tables]
            found = (_blended([row[at] for row in rows], weights, means[at]) for at in columns)
            writer.writerow([row_id, *found])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
