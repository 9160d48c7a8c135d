"""How a server is: the health page, of what refresher.py notes and what the index holds."""

import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from kaggleops.errors import first_line
from kaggleops.index.database import ENTITIES
from kaggleops.layout import INDEX_KEY
from kaggleops.mlruns.change_log import LOG_KEY
from kaggleops.printable import as_html
from kaggleops.redaction import redacted
from kaggleops.server.pages import MayRead
from kaggleops.server.refresher import Notice
from kaggleops.server.settings import HEALTH_PATH, Settings
from kaggleops.tracking.live import IDLE_LOOK

_OLD_SECONDS = 3 * IDLE_LOOK  # then the index is not what people think they see
_MOST_PROBLEMS = 100


def health_page(
    settings: Settings, engine: sa.Engine, notice: Callable[[], Notice], may_read: MayRead
) -> Callable[[Request], Response]:
    """Return the page: JSON for programs and HTML for people, with status 503 if all is not well.

    Args:
        settings: what is served.
        engine: of the index.
        notice: returns how refreshing goes.
        may_read: who may see more than whether all is well: not strangers.
    """

    def page(request: Request) -> Response:
        told = None if may_read(request, ()) is None else settings
        content = _content(notice(), engine, told)
        status = 200 if content["status"] == "fresh" else 503
        headers = {"Cache-Control": "no-store"}
        wants_page = "text/html" in request.headers.get("accept", "")
        if request.url.path.endswith(".json") or not wants_page:
            return JSONResponse(content, status, headers)
        return HTMLResponse(_as_html(content), status, headers)

    return page


def _content(notice: Notice, engine: sa.Engine, told: Settings | None) -> dict[str, Any]:
    """Return what there is to say; without the settings, to a stranger."""
    now, trouble = time.time(), notice.trouble
    details: dict[str, Any] = {}
    try:
        if told:
            details = {"holds": _counts(engine), "problems": _problems(engine)}
    except SQLAlchemyError as error:
        trouble = redacted(f"reading the index: {first_line(error)}")
    old = now - notice.fresh > _OLD_SECONDS or trouble != notice.trouble
    content: dict[str, Any] = {
        "status": "fresh" if not old else "incomplete" if notice.total else "old",
        "index_fresh": _time(notice.fresh),
        "index_fresh_seconds_ago": _ago(notice.fresh, now),
        "bucket_heard": _time(notice.heard),
        "bucket_heard_seconds_ago": _ago(notice.heard, now),
        "looks_every_seconds": notice.pace,
    }
    if told:
        content |= {
            "coming_in": notice.progress,
            "trouble": trouble,
            "bucket": told.bucket,
            "index": redacted(told.index),
            **details,
            "versions": {
                "kaggleops": version("kaggleops"),
                "mlflow": version("mlflow"),
                "python": platform.python_version(),
            },
        }
    return content


def _counts(engine: sa.Engine) -> dict[str, int]:
    """Return how many experiments, runs, models and traces there are."""
    names = ("experiments", "runs", "registered_models", "trace_info")
    count = sa.select(sa.func.count())
    with engine.connect() as connection:
        return {name: connection.scalar(count.select_from(sa.table(name))) or 0 for name in names}


def _problems(engine: sa.Engine) -> list[str]:
    """Return why parts of the bucket are not shown; first what is of all of them."""
    query = (
        sa.select(ENTITIES.c.problem)
        .where(ENTITIES.c.problem != "")
        .order_by(sa.case((ENTITIES.c.key.in_((LOG_KEY, INDEX_KEY)), 0), else_=1))
        .limit(_MOST_PROBLEMS)
    )
    with engine.connect() as connection:
        return list(connection.scalars(query))


def _time(seconds: float) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat(" ", "seconds") if seconds else None


def _ago(seconds: float, now: float) -> float | None:
    return round(now - seconds, 1) if seconds else None


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="10"><title>KaggleOps: {status}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 50em; margin: 2em auto; padding: 0 1em }}
th {{ text-align: left; vertical-align: top; padding-right: 1.5em; font-weight: 600 }}
h1 {{ color: {colour} }} td {{ overflow-wrap: anywhere }}
</style>
<h1>The index is {status}</h1>
<table>{rows}</table>
<p><a href="/">MLflow</a> · <a href="{path}.json">JSON</a>
</html>
"""


def _as_html(content: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{as_html(name.replace('_', ' '))}<td>{_cell(value)}"
        for name, value in content.items()
    )
    colour = "green" if content["status"] == "fresh" else "crimson"
    return _PAGE.format(status=content["status"], colour=colour, rows=rows, path=HEALTH_PATH)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return "<br>".join(as_html(f"{name}: {each}") for name, each in value.items())
    if isinstance(value, list):
        return "<br>".join(map(as_html, value)) or "none"
    return as_html(str("-" if value in (None, "") else value))
