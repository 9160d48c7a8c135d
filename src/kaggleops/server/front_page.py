"""MLflow's front page, with how its run tables look when somebody opens them for the first time.

MLflow's interface has no setting for that on the server's side. A view that is shared by a tag of
the experiment comes with a banner, and what one changes in it is lost. What a person has changed
lies in the browser's storage, though, and there a script puts our view before MLflow's own begins:
that one line is added to its page, and its scripts stay as they are. It follows the metrics that
are logged, since it is made from the index whenever the page is opened.
"""

import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from kaggleops import tags
from kaggleops.index.tables import LATEST_METRICS, RUNS, TAGS
from kaggleops.reports.html import json_in_html
from kaggleops.reports.score import Score, declared, score_among
from kaggleops.server.campaign_page import MayRead, ask_to_sign_in
from kaggleops.server.settings import Settings

_LOOKED_AT = 100  # runs of an experiment, the latest
_MOST = 200  # experiments, those with the latest runs
_FRESH = 5.0  # seconds for which the views are shown again


class FrontPage:
    """The page, made when somebody asks for it.

    Args:
        settings: what is served.
        may_read: who may read which experiments.
        stock: MLflow's own page.
    """

    def __init__(self, settings: Settings, may_read: MayRead, stock: Path) -> None:
        self._may_read = may_read
        self._stock = stock
        self._script = Path(__file__).with_name("assets").joinpath("front_page.js").read_text()
        self._engine = sa.create_engine(settings.index, pool_pre_ping=True, pool_size=1)
        self._lock = threading.Lock()
        self._views: dict[str, dict[str, Any]] = {}
        self._made = float("-inf")

    def page(self, request: Request) -> Response:
        """Return the page; 401 to strangers."""
        if self._may_read(request, ()) is None:
            return ask_to_sign_in()
        if not self._stock.is_file():
            return PlainTextResponse("this MLflow was installed without its interface\n", 501)
        views = self._fresh()
        if not self._may_read(request, views):
            views = {each: view for each, view in views.items() if self._may_read(request, [each])}
        script = self._script.replace("VIEWS", json_in_html(views))
        page = self._stock.read_text().replace("<head>", f"<head><script>{script}</script>", 1)
        # Another release of MLflow names other scripts here.
        return HTMLResponse(page, 200, {"Cache-Control": "no-store"})

    def _fresh(self) -> dict[str, dict[str, Any]]:
        with self._lock:
            if time.monotonic() - self._made > _FRESH:
                try:
                    self._views, self._made = views_in(self._engine), time.monotonic()
                except SQLAlchemyError:
                    return self._views  # MLflow itself is going to say what is wrong
            return self._views


def views_in(engine: sa.Engine) -> dict[str, dict[str, Any]]:
    """Return how the run tables of an index's experiments are to look, by the experiments' ids."""
    metrics: dict[str, dict[str, int]] = defaultdict(dict)
    tagged: dict[str, dict[str, int]] = defaultdict(dict)
    scores: dict[str, Score] = {}
    with engine.connect() as connection:
        latest = _latest(connection)
        told = LATEST_METRICS.table
        for experiment, name, count in connection.execute(_counted(told, latest)):
            metrics[str(experiment)][name] = count
        said = TAGS.table
        counted = _counted(said, latest).where(said.c.key.in_(_TAGS))
        for experiment, name, count in connection.execute(counted):
            tagged[str(experiment)][name] = count
        query = (
            sa.select(latest.c.experiment_id, said.c.value)
            .join(latest, latest.c.run_uuid == said.c.run_uuid)
            .where(said.c.key == tags.SCORE)
            .order_by(latest.c.start_time)  # what the last run declares counts
        )
        for experiment, value in connection.execute(query):
            if score := declared({tags.SCORE: value}):
                scores[str(experiment)] = score
    return {
        each: view(score_among(metrics[each], scores.get(each)), tagged[each])
        for each in {**metrics, **tagged}
    }


_TAGS = (tags.SHORT_COMMIT, tags.TITLE, tags.BACKEND, tags.ACCELERATOR, tags.PARENT)


def _latest(connection: sa.Connection) -> sa.Subquery:
    """Return the latest runs of the experiments that were used last."""
    runs = RUNS.table
    active = runs.c.lifecycle_stage == "active"
    last = sa.func.max(runs.c.start_time).desc()
    used = sa.select(runs.c.experiment_id).where(active).group_by(runs.c.experiment_id)
    experiments = connection.scalars(used.order_by(last).limit(_MOST)).all()
    place = sa.func.row_number().over(
        partition_by=runs.c.experiment_id, order_by=runs.c.start_time.desc()
    )
    columns = (runs.c.run_uuid, runs.c.experiment_id, runs.c.start_time, place.label("place"))
    ranked = sa.select(*columns).where(active, runs.c.experiment_id.in_(experiments)).subquery()
    return sa.select(ranked).where(ranked.c.place <= _LOOKED_AT).subquery()


def _counted(table: sa.TableClause, latest: sa.Subquery) -> sa.Select[Any]:
    """Return how many of the latest runs have each key of a table, by the experiment."""
    return (
        sa.select(latest.c.experiment_id, table.c.key, sa.func.count())
        .join(latest, latest.c.run_uuid == table.c.run_uuid)
        .group_by(latest.c.experiment_id, table.c.key)
    )


def view(score: Score | None, tagged: dict[str, int]) -> dict[str, Any]:
    """Return how a run table is to look, as MLflow's interface keeps it.

    It has the score, the duration, the backend and the accelerator, and its groups are the commits,
    the newest first. Runs within runs (folds, trials) stay nested below their parents instead,
    which MLflow does not do within groups: there the commit is a column.

    Args:
        score: the experiment's.
        tagged: how many of the latest runs have each of the tags in `_TAGS`.
    """
    # Runs of before have the hash alone. Whoever groups by what some lack hides those.
    titled = tagged.get(tags.TITLE, 0) >= tagged.get(tags.SHORT_COMMIT, 0)
    commit = tags.TITLE if titled else tags.SHORT_COMMIT
    grouped = commit in tagged and tags.PARENT not in tagged
    columns = [_column("metrics", score.name)] if score else []
    columns.append(_DURATION)
    columns += [_column("tags", each) for each in (tags.BACKEND, tags.ACCELERATOR)]
    if commit in tagged and not (grouped and titled):
        columns.insert(0, _column("tags", tags.TITLE if tags.TITLE in tagged else commit))
    by = {"mode": "tag", "groupByData": commit}
    wide = {_column("tags", tags.ACCELERATOR): 140}
    wide |= {_NAME: 330} if grouped and titled else {_column("tags", tags.TITLE): 240}
    return {
        "selectedColumns": columns,
        "groupBy": {"aggregateFunction": "average", "groupByKeys": [by]} if grouped else None,
        "columnOrder": [_NAME, _CREATED, *(_ID.get(each, each) for each in columns)],
        "columnWidths": wide,
    }


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"


_NAME = _column("attributes", "Run Name")
_DURATION = _column("attributes", "Duration")
_CREATED = "runDateAndNestInfo"
_ID = {_DURATION: "duration"}
"""What the table calls a column where that is not its name in the menu."""
