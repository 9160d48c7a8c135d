"""The leaderboard as one HTML page: the board, each fold's score, own scores against Kaggle's."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from kaggleops.printable import as_html, printable
from kaggleops.reports import html
from kaggleops.reports.comparison_text import point_name
from kaggleops.reports.leaderboard import Entry, table
from kaggleops.reports.score import SUBMITTED, Score

_SCRIPT = Path(__file__).with_name("leaderboard.js")
_MOST = 30  # commits that are drawn


def page(entries: Sequence[Entry], score: Score, subjects: Mapping[str, str]) -> str:
    """Return the page; `subjects` are those of commits, by hash."""
    metric = printable(score.name)
    groups = []
    for entry in entries[:_MOST]:
        named = [(value, point_name(*which) or "one run") for which, value in entry.values.items()]
        groups.append({
            "label": printable(f"{entry.sha[:10]} {subjects.get(entry.sha, '')}").strip(),
            "short": printable(entry.sha[:10]),
            "colour": 1 if entry.regression else 0,
            **html.dots(named, entry.score),
        })  # fmt: skip
    parts = [
        f'<header><h1 class="text">{as_html(f"Leaderboard by {metric}")}</h1></header>',
        html.section("Commits, the best first", html.table(*table(entries, score.name, subjects))),
        html.section(f"{metric} of every fold and seed", '<div id="scores"></div>'),
    ]
    # The private score, which is named last, is the one that counts.
    name = next((n for n in reversed(SUBMITTED) if any(n in e.cells for e in entries)), "")
    submitted = [
        {"label": printable(entry.sha[:10]), "x": entry.score.mean, "y": float(entry.cells[name])}
        for entry in entries
        if name in entry.cells and math.isfinite(entry.score.mean)
    ]
    if submitted:
        parts.append(html.section("Own score and Kaggle's", '<div id="submitted"></div>'))
    data = {"metric": metric, "groups": groups, "kaggle": name, "submitted": submitted}
    return html.page(f"Leaderboard by {metric}", _SCRIPT, data, "\n".join(parts))
