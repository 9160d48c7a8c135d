"""A comparison and the leaderboard, each as one HTML page that opens without a network."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kaggleops.printable import as_html, counted, printable
from kaggleops.reports import html
from kaggleops.reports.comparison import Comparison
from kaggleops.reports.comparison_text import (
    difference,
    line_count,
    metric_title,
    metric_titles,
    point_name,
    summary,
)
from kaggleops.reports.history import History
from kaggleops.reports.leaderboard import Entry, table
from kaggleops.reports.score import SUBMITTED, Score
from kaggleops.reports.selection import Side
from kaggleops.tags import SUBJECT

_FOLDER = Path(__file__).parent
_MOST_CURVES = 12
_MOST_COMMITS = 30
_MOST_SCORES = 24
_MOST_POINTS = 400  # of a curve: more are not seen at this width


def comparison_page(comparison: Comparison, history: History) -> str:
    """Return the answer, the scores, the curves and what the code changed, as a page.

    `history` has the points of the metrics' curves.
    """
    title = as_html(comparison.title)
    scores, curves = _charts(comparison, history)
    keys = "".join(
        f'<span class="side"><span data-side="{place}">●</span> '
        f'<span class="text">{as_html(_label(side))}</span> {counted(len(side.runs), "run")}</span>'
        for place, side in enumerate(comparison.sides)
    )
    parts = [f'<header><h1 class="text">{title}</h1></header><div class="key">{keys}</div>']
    parts += [
        f'<p class="text"><strong>{as_html(each)}</strong></p>' for each in comparison.answers
    ]
    parts.append(html.section("Metrics", _metrics(comparison)))
    if comparison.notes:
        notes = "".join(f'<p class="text">{as_html(note)}</p>' for note in comparison.notes)
        parts.append(f'<div class="card banner">{notes}</div>')
    parts.append(_figures("Scores", "scores", scores, _MOST_SCORES))
    parts.append(_figures("Curves", "curves", curves, _MOST_CURVES))
    for name, head, body in comparison.tables:
        parts.append(html.section(f"Different {name}", html.table(["", *head], body)))
    for side, code in zip(comparison.sides[1:], comparison.code, strict=True):
        if code is not None:
            found = html.table(
                ["commit", ""], [[sha[:10], subject] for sha, subject in code.commits]
            )
            if code.files:
                files = [[name, *map(line_count, counts)] for name, *counts in code.files]
                found += html.table(["file", "added", "removed"], files, "n")
            found += f"<pre>{_diff(code.diff)}</pre>"
            parts.append(html.section(f"Commits to {side.title}", found))
    sides = [
        {"label": printable(_label(side)), "short": printable(side.sha[:10] or side.word)}
        for side in comparison.sides
    ]
    data = {"sides": sides, "scores": scores[:_MOST_SCORES], "curves": curves[:_MOST_CURVES]}
    return html.page(comparison.title, _FOLDER / "comparison.js", data, "\n".join(parts))


def _label(side: Side) -> str:
    """Return a side's commit and its subject, where they are known."""
    subject = next((run.tags[SUBJECT] for run in side.runs if run.tags.get(SUBJECT)), "")
    return f"{side.title} {subject}".strip()


# -- charts -----------------------------------------------------------------------------------


def _charts(comparison: Comparison, history: History) -> tuple[list[Any], list[Any]]:
    """Return what is drawn of metrics with a value a run, and of those logged over steps."""
    scores: list[Any] = []
    curves: list[Any] = []
    lines = {line.name: line for line in comparison.metrics[::-1] if not line.settings}
    for name in dict.fromkeys([*lines, *comparison.curves[::-1]]):
        having = [[run for run in side.runs if name in run.metrics] for side in comparison.sides]
        logged = history.points([run.id for runs in having for run in runs], name)
        series: list[dict[str, Any]] = [
            {"side": place, "run": printable(run.name), "points": _thin(logged.get(run.id, ()))}
            for place, runs in enumerate(having)
            for run in runs
        ]
        line = lines.get(name)
        # More values than runs: the points are folds, and no curve.
        in_process = line and any(map(lambda of, runs: len(of) > len(runs), line.values, having))
        series = [] if in_process else [each for each in series if len(each["points"]) > 1]
        if series:
            curves.append({"name": printable(name), "series": series})
            continue
        if line is None:
            continue
        groups = []
        for place, runs in enumerate(having):
            named = [(run.metrics[name], point_name(*run.repetition, run.name)) for run in runs]
            if in_process:
                named = [(value, point_name(*key)) for key, value in line.values[place].items()]
            groups.append({"side": place, **html.dots(named, line.sides[place])})
        if any(each["points"] for each in groups):
            scores.append({"name": printable(name), "groups": groups})
    return scores[::-1], curves[::-1]


def _thin(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    finite = [each for each in points if math.isfinite(each[1])]
    every = max(1, math.ceil(len(finite) / _MOST_POINTS))
    return [*finite[:-1:every], *finite[-1:]]


def _figures(title: str, kind: str, found: Sequence[Any], most: int) -> str:
    if not found:
        return ""
    places = "".join(f'<div data-chart="{kind} {at}"></div>' for at in range(min(most, len(found))))
    more = ""
    if found[most:]:
        listed = as_html(", ".join(each["name"] for each in found[most:]))
        more = f'<p class="soft small text">{len(found) - most} more, without a chart: {listed}</p>'
    return html.section(title, f'<div class="charts">{places}</div>{more}')


def _metrics(comparison: Comparison) -> str:
    rows: list[list[html.Cell]] = []
    for line in comparison.metrics:
        marks = [line.verdict(place) for place in range(len(line.differences))]
        told = [
            (f"{difference(found)} {mark}".strip(), f"n said {mark}")
            for found, mark in zip(line.differences, marks, strict=True)
        ]
        rows.append([metric_title(line), *map(summary, line.sides), *told])
    return html.table(metric_titles(comparison), rows, "n")


def _diff(diff: str) -> str:
    shown = []
    for line in diff.split("\n"):
        kind = {"+": "add", "-": "del"}.get(line[:1], "")
        text = as_html(line)
        shown.append(f'<span class="{kind}">{text}</span>' if kind else text)
    return "\n".join(shown)


# -- the leaderboard --------------------------------------------------------------------------


def leaderboard_page(entries: Sequence[Entry], score: Score, subjects: Mapping[str, str]) -> str:
    """Return the board, each fold's score, and own scores against Kaggle's, as a page.

    `subjects` are those of commits, by hash.
    """
    metric = printable(score.name)
    groups = []
    for entry in entries[:_MOST_COMMITS]:
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
    return html.page(f"Leaderboard by {metric}", _FOLDER / "leaderboard.js", data, "\n".join(parts))
