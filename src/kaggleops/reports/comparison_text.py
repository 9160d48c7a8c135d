"""A comparison as JSON, as Markdown for a pull request, and as rows for a terminal."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from kaggleops.git.commits import Between
from kaggleops.printable import as_code, as_markdown, printable
from kaggleops.reports.comparison import Comparison, MetricLine
from kaggleops.reports.statistics import Difference, Summary

_MARKS = {"better": " ▲", "worse": " ▼", "no difference": ", no difference"}
_MOST_FILES = 30
_MOST_COMMITS = 20
_MOST_CHARACTERS = 60_000  # GitHub refuses a comment of more than 65,536
_MOST_OF_DIFFS = 50_000


def number(value: float) -> str:
    """Return a score with four significant digits."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 else f"{value:.3e}"


def summary(found: Summary | None) -> str:
    """Return the mean of a side's values, their spread, and of how many folds, seeds or runs."""
    if found is None:
        return "-"
    spread = f" ± {number(found.spread)}" if found.spread is not None else ""
    counts = [_counted(found.folds, "fold"), _counted(found.seeds, "seed")]
    of = ", ".join(filter(None, counts)) or (f"{found.count}" if found.count > 1 else "")
    return f"{number(found.mean)}{spread}" + (f" ({of})" if of else "")


def difference(found: Difference | None) -> str:
    """Return a difference with its interval, of what that is made, and why it has no mark."""
    if found is None:
        return "-"
    said = f"{found.mean:+.4g}".replace("+nan", "nan")
    if found.low is not None and found.high is not None:
        one, other = found.seeds
        seeds = _counted(one, "seed") if one == other else f"{one} and {other} seeds"
        basis = " of ".join(filter(None, [_counted(found.folds, "fold"), seeds]))
        if found.how == "rows only":
            basis = f"{found.rows:,} rows only"
        said = f"{said} [{found.low:+.4g}, {found.high:+.4g}] over {basis}"
    return f"{said} ({found.why})" if found.why and (found.mean or found.p is None) else said


def point_name(fold: str, seed: str, run: str = "") -> str:
    """Return what a point of a chart is called: its run, its fold and its seed, as far as known."""
    told = (run, f"fold {fold}" if fold else "", f"seed {seed}" if seed else "")
    return printable(" · ".join(filter(None, told)))


def _counted(number: int, what: str) -> str:
    return f"{number} {what}s" if number > 1 else ""


def line_count(lines: int) -> str:
    """Return how many lines of a file changed."""
    return "binary" if lines == -1 else str(lines)


def metric_rows(comparison: Comparison) -> list[list[str]]:
    """Return a row for each metric: its name, each side, and each later side's difference."""
    rows = []
    for line in comparison.metrics:
        cells = [metric_title(line), *map(summary, line.sides)]
        for place, found in enumerate(line.differences):
            cells.append(f"{difference(found)}{_MARKS.get(line.verdict(place), '')}")
        rows.append(cells)
    return rows


def metric_title(line: MetricLine) -> str:
    """Return a metric's name, with the settings if they are not the answer's."""
    return f"{line.name}, {line.settings}" if line.settings else line.name


def metric_titles(comparison: Comparison) -> list[str]:
    """Return the titles of those rows."""
    first, *others = [side.title for side in comparison.sides]
    differences = [f"{each} vs {first}" for each in others] if others[1:] else ["difference"]
    return ["metric", first, *others, *differences]


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Return all of it as plain values."""
    return {
        "sides": [
            {"name": side.word, "commit": side.sha, "runs": [run.id for run in side.runs]}
            for side in comparison.sides
        ],
        "answers": list(comparison.answers),
        "metrics": [
            {
                "name": line.name,
                "settings": line.settings,
                "higher_is_better": line.higher_is_better,
                "sides": [side and _summary_json(side) for side in line.sides],
                "differences": [
                    found and {**_difference_json(found), "verdict": line.verdict(place)}
                    for place, found in enumerate(line.differences)
                ],
            }
            for line in comparison.metrics
        ],
        **{
            kind: {name: list(values) for name, values in getattr(comparison, kind).items()}
            for kind in ("params", "data", "environment")
        },
        "code": [code and _code_json(code) for code in comparison.code],
        "notes": list(comparison.notes),
    }


def _summary_json(side: Summary) -> dict[str, Any]:
    values = {"mean": _plain(side.mean), "spread": _plain(side.spread)}
    return {**values, "runs": side.count, "folds": side.folds, "seeds": side.seeds}


def _difference_json(found: Difference) -> dict[str, Any]:
    values = {name: _plain(getattr(found, name)) for name in ("mean", "low", "high", "p")}
    told = {name: getattr(found, name) for name in ("how", "folds", "rows", "why")}
    return {**values, **told, "seeds": list(found.seeds)}


def _code_json(code: Between) -> dict[str, Any]:
    files = [dict(zip(("file", "added", "removed"), each, strict=True)) for each in code.files]
    commits = [{"commit": sha, "subject": text} for sha, text in code.commits]
    return {"commits": commits, "files": files, "diff": code.diff}


def _plain(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None  # JSON has no NaN


def to_markdown(comparison: Comparison) -> str:
    """Return it as Markdown, short enough for a comment on GitHub."""
    parts = [f"### {as_markdown(comparison.title)}"]
    parts += map(as_markdown, comparison.answers)
    parts.append(_table(metric_titles(comparison), metric_rows(comparison)))
    if comparison.more:
        parts.append(f"{comparison.more}: `kaggleops compare --all`")
    for title, head, body in comparison.tables:
        parts += [f"**Different {title}**", _table(["", *head], body)]
    first, *others = comparison.sides
    diffs = []
    for side, code in zip(others, comparison.code, strict=True):
        if code is not None:
            parts += _commits_and_files(side.title, code)
            if code.diff:
                diffs.append((len(parts), code.diff, f"git diff {first.sha[:10]} {side.sha[:10]}"))
                parts.append("")
    parts += [f"> {as_markdown(note)}" for note in comparison.notes]
    left = min(_MOST_OF_DIFFS, _MOST_CHARACTERS - sum(map(len, parts)))
    for number, (place, diff, command) in enumerate(diffs):
        parts[place] = _diff(diff, left // (len(diffs) - number), command)
        left -= len(parts[place])
    return "\n\n".join(parts) + "\n"


def _commits_and_files(title: str, code: Between) -> Iterable[str]:
    shown = [
        f"- {as_code(sha[:10])} {as_markdown(text)}" for sha, text in code.commits[:_MOST_COMMITS]
    ]
    if more := code.commits[_MOST_COMMITS:]:
        shown.append(f"- … and {len(more)} more")
    yield f"**Commits to** {as_markdown(title)}"
    yield "\n".join(shown) or "none"
    if code.files:
        counted = [[name, *map(line_count, of)] for name, *of in code.files[:_MOST_FILES]]
        if hidden := code.files[_MOST_FILES:]:
            counted.append([f"… and {len(hidden)} more", "", ""])
        yield _table(["file", "added", "removed"], counted)


def _diff(diff: str, most: int, command: str) -> str:
    """Return a diff to fold out; of a long one what is within a number of characters."""
    shown = diff = printable(diff, lines=True)
    if len(diff) > most:
        shown = diff[: max(0, diff.rfind("\n", 0, max(0, most)))]  # whole lines
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    block = f"{fence}diff\n{shown}\n{fence}\n\n" if shown else ""
    if hidden := diff.count("\n") - shown.count("\n") + (not shown):
        block += f"… and {hidden} more lines: {as_code(command)}\n\n"
    return f"<details><summary>diff</summary>\n\n{block}</details>"


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    rows = [[as_markdown(cell) for cell in row] for row in (head, *body)]
    lines = [rows[0], ["---", *["---:"] * (len(head) - 1)], *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
