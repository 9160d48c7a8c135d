"""A comparison as one HTML page that needs nothing else: no network, no script."""

from collections.abc import Iterable, Sequence

from kaggleops.printable import as_html
from kaggleops.reports.comparing import Comparison
from kaggleops.reports.comparison_charts import COLOURS, charts
from kaggleops.reports.comparison_text import difference, line_count, metric_titles, summary
from kaggleops.reports.history import History

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
        history: where the curves of the metrics are.
    """
    title = " and ".join(side.title for side in comparison.sides)
    keys = "".join(
        f'<span class="key" style="color:{COLOURS[place % len(COLOURS)]}">● '
        f"{as_html(side.title)}: {len(side.runs)} runs</span>"
        for place, side in enumerate(comparison.sides)
    )
    parts = [f"<h1>{as_html(title)}</h1><p>{keys}</p>", _metrics(comparison)]
    parts += [f'<p class="note">{as_html(note)}</p>' for note in comparison.notes]
    parts.append(charts(comparison, history))
    for name, lines in (
        ("Parameters that differ", comparison.params),
        ("Data that differs", comparison.data),
        ("Environment that differs", comparison.environment),
    ):
        if lines:
            head = ["", *(side.title for side in comparison.sides)]
            body = [[key, *(value or "-" for value in values)] for key, values in lines.items()]
            parts.append(f"<h2>{name}</h2>{_table(head, body)}")
    for side, code in zip(comparison.sides[1:], comparison.code, strict=True):
        if code is not None:
            commits = [[sha[:10], subject] for sha, subject in code.commits]
            parts.append(f"<h2>Commits to {as_html(side.title)}</h2>{_table((), commits)}")
            if code.files:
                parts.append(_diffstat(code.files))
            parts.append(f"<pre>{_diff(code.diff)}</pre>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{as_html(title)}</title><style>{_STYLE}</style></head><body>"
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


def _diffstat(files: Sequence[tuple[str, int, int]]) -> str:
    body = [[name, line_count(added), line_count(removed)] for name, added, removed in files]
    return _table(("file", "added", "removed"), body)


def _diff(diff: str) -> str:
    shown = []
    for line in diff.split("\n"):
        kind = {"+": "add", "-": "del"}.get(line[:1], "")
        text = as_html(line)
        shown.append(f'<span class="{kind}">{text}</span>' if kind else text)
    return "\n".join(shown)
