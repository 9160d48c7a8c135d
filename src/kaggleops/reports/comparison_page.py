"""A comparison as one HTML page without network or script, its charts as inline SVG."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from kaggleops.printable import as_html
from kaggleops.reports.comparison import Comparison
from kaggleops.reports.comparison_text import difference, line_count, metric_titles, number, summary
from kaggleops.reports.history import History
from kaggleops.reports.statistics import Summary, interval

_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b")  # of the sides

_WIDTH, _HEIGHT, _LEFT, _BELOW, _EDGE = 520, 240, 62, 28, 12
_ROW = 24  # the height of a side's dots
_MOST_CURVES = 12
_MOST_SCORES = 24
_MOST_POINTS = 400  # of a curve: more are not seen at this width

_Found = TypeVar("_Found")
_Curve = tuple[int, Sequence[tuple[int, float]]]
"""The place of its side, and its steps and values."""


_Score = tuple[Sequence[tuple[str, float]], Summary | None]
"""A side's values of a metric by its runs' names, and their summary."""


def _charts(comparison: Comparison, history: History) -> str:
    """Return charts of the metrics with a value a run, then of those logged over steps."""
    scores: dict[str, list[_Score]] = {}
    curves: dict[str, list[_Curve]] = {}
    for line in comparison.metrics:
        found: list[_Curve] = []
        values: list[list[tuple[str, float]]] = []
        having = [
            [run for run in side.runs if line.name in run.metrics] for side in comparison.sides
        ]
        logged = history.points([run.id for runs in having for run in runs], line.name)
        for place, runs in enumerate(having):
            named = [(run.name, run.metrics[line.name]) for run in runs]
            values.append([each for each in named if math.isfinite(each[1])])
            for run in runs:
                points = [each for each in logged.get(run.id, ()) if math.isfinite(each[1])]
                if len(points) > 1:
                    every = max(1, math.ceil(len(points) / _MOST_POINTS))
                    found.append((place, [*points[:-1:every], points[-1]]))
        if found:
            curves[line.name] = found
        elif any(values):
            scores[line.name] = list(zip(values, line.sides, strict=True))
    said = "Dot: run. Bar: mean. Whiskers: 95 % interval (Student's t)."
    return _figures("Scores", said, scores, _dots, _MOST_SCORES) + _figures(
        "Curves", "Line: run.", curves, _lines, _MOST_CURVES
    )


def _figures(
    title: str, said: str, found: Mapping[str, _Found], draw: Callable[[_Found], str], most: int
) -> str:
    names = list(found)
    figures = "".join(
        f"<figure><figcaption>{as_html(name)}</figcaption>{draw(found[name])}</figure>"
        for name in names[:most]
    )
    if names[most:]:
        listed = as_html(", ".join(names[most:]))
        figures += f"<p>… {len(names) - most} more, without a chart: {listed}</p>"
    return f"<h2>{title}</h2><p>{said}</p>{figures}" if figures else ""


def _svg(height: int, content: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" role="img">{content}</svg>'


def _colour(side: int) -> str:
    return _COLOURS[side % len(_COLOURS)]


def _across(low: float, high: float) -> Callable[[float], float]:
    """Return where on the width a value between two stands."""
    span = (high - low) or 1.0
    return lambda value: _LEFT + (value - low) / span * (_WIDTH - _LEFT - _EDGE)


# -- scores -----------------------------------------------------------------------------------


def _dots(sides: Sequence[_Score]) -> str:
    """Draw a row for each side: its runs, their mean as a stroke, and the mean's interval."""
    intervals = [interval(each) if each else None for _, each in sides]
    ends = [value for values, _ in sides for _, value in values]
    ends += [end for found in intervals if found for end in found]
    low, high = min(ends), max(ends)
    x = _across(low, high)
    rows = []
    for place, ((values, all_runs), found) in enumerate(zip(sides, intervals, strict=True)):
        y = _EDGE + place * _ROW + _ROW // 2
        marks = "".join(
            f'<circle cx="{x(value):.1f}" cy="{y}" r="4" fill-opacity=".5">'
            f"<title>{as_html(name)}: {number(value)}</title></circle>"
            for name, value in values
        )
        if all_runs and math.isfinite(all_runs.mean):
            marks += f'<path d="M{x(all_runs.mean):.1f} {y - 9}v18" stroke-width="3"/>'
        if found:
            left, right = map(x, found)
            marks += f'<path class="interval" d="M{left:.1f} {y - 4}v8m0-4H{right:.1f}m0-4v8"/>'
        colour = _colour(place)
        rows.append(f'<g fill="{colour}" stroke="{colour}">{marks}</g>')
    bottom = _EDGE + len(sides) * _ROW
    axis = (
        f'<path d="M{_LEFT} {bottom}H{_WIDTH - _EDGE}" stroke="#999"/>'
        f'<text x="{_LEFT}" y="{bottom + 16}">{number(low)}</text>'
        f'<text x="{_WIDTH - _EDGE}" y="{bottom + 16}" text-anchor="end">{number(high)}</text>'
    )
    return _svg(bottom + _BELOW, axis + "".join(rows))


# -- curves -----------------------------------------------------------------------------------


def _lines(curves: Sequence[_Curve]) -> str:
    """Draw a line for each run."""
    steps = [step for _, points in curves for step, _ in points]
    values = [value for _, points in curves for _, value in points]
    left, right, low, high = min(steps), max(steps), min(values), max(values)
    x, up = _across(left, right), (high - low) or 1.0

    def at(step: int, value: float) -> str:
        y = _EDGE + (high - value) / up * (_HEIGHT - _EDGE - _BELOW)
        return f"{x(step):.1f},{y:.1f}"

    lines = "".join(
        f'<polyline fill="none" stroke="{_colour(side)}" stroke-width="1.5" '
        f'points="{" ".join(at(*point) for point in points)}"/>'
        for side, points in curves
    )
    bottom = _HEIGHT - _BELOW
    axes = (
        f'<path d="M{_LEFT} {_EDGE}V{bottom}H{_WIDTH - _EDGE}" fill="none" stroke="#999"/>'
        f'<text x="{_LEFT - 6}" y="{_EDGE + 4}" text-anchor="end">{number(high)}</text>'
        f'<text x="{_LEFT - 6}" y="{bottom}" text-anchor="end">{number(low)}</text>'
        f'<text x="{_LEFT}" y="{_HEIGHT - 8}">{left}</text>'
        f'<text x="{_WIDTH - _EDGE}" y="{_HEIGHT - 8}" text-anchor="end">step {right}</text>'
    )
    return _svg(_HEIGHT, axes + lines)


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1160px; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse } td, th { padding: .2rem .9rem .2rem 0; text-align: right }
td:first-child, th:first-child { text-align: left } tr + tr { border-top: 1px solid #eee }
.better { color: #15803d } .worse { color: #b91c1c; font-weight: 600 }
figure { display: inline-block; margin: 0 1rem 1rem 0 } figcaption { font-weight: 600 }
svg text { font-size: 11px; fill: #555 } .key { padding-right: 1.2rem; font-weight: 600 }
pre { background: #f6f6f6; padding: 1rem; overflow-x: auto; font-size: 12px }
.add { color: #15803d } .del { color: #b91c1c } .note { color: #92400e }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd }
  pre { background: #1c1c1c } tr + tr { border-color: #333 } svg text { fill: #aaa } }
"""


def page(comparison: Comparison, history: History) -> str:
    """Return the page.

    Args:
        comparison: what it shows.
        history: has the points of the metrics' curves.
    """
    title = as_html(comparison.title)
    keys = "".join(
        f'<span class="key" style="color:{_colour(place)}">● '
        f"{as_html(side.title)}: {len(side.runs)} runs</span>"
        for place, side in enumerate(comparison.sides)
    )
    parts = [f"<h1>{title}</h1><p>{keys}</p>", _metrics(comparison)]
    parts += [f'<p class="note">{as_html(note)}</p>' for note in comparison.notes]
    parts.append(_charts(comparison, history))
    for name, head, body in comparison.tables:
        parts.append(f"<h2>Different {name}</h2>{_table(['', *head], body)}")
    for side, code in zip(comparison.sides[1:], comparison.code, strict=True):
        if code is not None:
            commits = [[sha[:10], subject] for sha, subject in code.commits]
            parts.append(f"<h2>Commits to {as_html(side.title)}</h2>{_table((), commits)}")
            if code.files:
                counted = [[name, *map(line_count, counts)] for name, *counts in code.files]
                parts.append(_table(("file", "added", "removed"), counted))
            parts.append(f"<pre>{_diff(code.diff)}</pre>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body>"
        + "\n".join(parts)
        + "</body></html>\n"
    )


def _metrics(comparison: Comparison) -> str:
    rows = []
    for line in comparison.metrics:
        cells = "".join(
            f"<td>{as_html(text)}</td>" for text in (line.name, *map(summary, line.sides))
        )
        for place, found in enumerate(line.differences):
            verdict = line.verdict(place)
            word = f" {verdict}" if verdict else ""
            cells += f'<td class="{verdict}">{as_html(difference(found))}{word}</td>'
        rows.append(f"<tr>{cells}</tr>")
    head = "".join(f"<th>{as_html(text)}</th>" for text in metric_titles(comparison))
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = [f"<tr>{''.join(f'<th>{as_html(text)}</th>' for text in head)}</tr>"] if head else []
    lines += [f"<tr>{''.join(f'<td>{as_html(text)}</td>' for text in line)}</tr>" for line in body]
    return f"<table>{''.join(lines)}</table>"


def _diff(diff: str) -> str:
    shown = []
    for line in diff.split("\n"):
        kind = {"+": "add", "-": "del"}.get(line[:1], "")
        text = as_html(line)
        shown.append(f'<span class="{kind}">{text}</span>' if kind else text)
    return "\n".join(shown)
