"""A page as one HTML file that asks nobody for anything.

1. Its script, style, chart library (uPlot) and data are in it, and its own policy forbids every
   request and every other script, by hash. No server is needed to look at it.
2. What others wrote is in it as data, and shown as text; or it comes as markup that `printable`
   has made of it.
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from kaggleops.printable import as_html
from kaggleops.reports.statistics import Summary, interval

_ASSETS = Path(__file__).with_name("assets")


def page(title: str, script: Path, data: object, body: str = "") -> str:
    """Return a page: the same text for the same data.

    Args:
        title: what the browser's tab says.
        script: the file of the page's own script, which has `kaggleops` of assets/charts.js.
        data: what that script shows, as JSON takes it; no infinite number and no NaN.
        body: markup that is there before the script has run.
    """
    parts = {**_parts(script), "TITLE": as_html(title), "DATA": json_in_html(data), "BODY": body}
    # In one go: nothing in a part is looked for any more.
    return re.sub(r"@([A-Z]+)@", lambda found: parts[found[1]], _text("page.html"))


def section(title: str, content: str) -> str:
    """Return a part of a page, of markup, below a title."""
    return f'<h2 class="text">{as_html(title)}</h2><div class="card stack">{content}</div>'


Cell = str | tuple[str, str]
"""A text, or a text with the classes of its cell."""


def table(head: Sequence[str], body: Iterable[Sequence[Cell]], kind: str = "subject") -> str:
    """Return a table; on a phone each row is a few lines, each cell with its title.

    `kind` is the class of cells without one that are not a row's first; "n" is for numbers.
    """
    titles = "".join(
        f'<th class="{kind if at and kind != "subject" else ""}">{as_html(text)}</th>'
        for at, text in enumerate(head)
    )
    rows = ""
    for line in body:
        cells = [each if isinstance(each, tuple) else (each, kind) for each in line]
        rows += "<tr>" + "".join(
            f'<td class="{of if at else "lead"}" data-k="{as_html(title if at else "")}">'
            f"{as_html(text)}</td>"
            for at, (title, (text, of)) in enumerate(zip(head, cells, strict=True))
        )
        rows += "</tr>"
    content = f"<thead><tr>{titles}</tr></thead><tbody>{rows}</tbody>"
    return f'<div class="wrap"><table class="rows">{content}</table></div>'


def dots(points: Iterable[tuple[float, str]], found: Summary | None) -> dict[str, Any]:
    """Return values with their names, and their summary, as a chart takes a row of dots."""
    low, high = (found and interval(found)) or (None, None)
    return {
        "points": [each for each in points if math.isfinite(each[0])],
        "mean": found.mean if found and math.isfinite(found.mean) else None,
        "low": low,
        "high": high,
    }


def data_in(content: bytes) -> object:
    """Return the data of a page as JSON has it; None where it is none of ours."""
    _, _, after = content.partition(b'<script id="data" type="application/json">')
    try:
        return json.loads(after.partition(b"</script>")[0])
    except (ValueError, RecursionError):
        return None


def json_in_html(value: object) -> str:
    """Return JSON that can stand in a script element: no character of it ends that, or a line."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)  # which is ASCII
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _parts(script: Path) -> Mapping[str, str]:
    style = f"{_text('uPlot.min.css')}\n{_text('page.css')}"
    scripts = "\n".join([_text("uPlot.iife.min.js"), _text("charts.js"), script.read_text()])
    # Each hash is of the element's whole content.
    policy = (
        f"default-src 'none'; script-src {_hash(scripts)}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return {"STYLE": style, "SCRIPT": scripts, "POLICY": policy}


@cache
def _text(name: str) -> str:
    return (_ASSETS / name).read_text()


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
