"""The pages that the server makes of its index: the campaign's, and MLflow's front page.

MLflow's interface has no setting on the server's side for how its run tables look. A view that is
shared by a tag of the experiment comes with a banner, and what one changes in it is lost. What a
person has changed lies in the browser's storage, though, and there a script puts our view before
MLflow's own begins: that one line is added to its page, and its scripts stay as they are. It
follows the metrics that are logged, since it is made from the index whenever the page is opened.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from kaggleops import tags
from kaggleops.bucket import ABSENT, BucketError, open_bucket
from kaggleops.campaign.view import offers_told, page, recent_sweeps, view_of
from kaggleops.errors import KaggleOpsError, first_line
from kaggleops.index.tables import LATEST_METRICS, RUNS, TAGS
from kaggleops.layout import PAGE_KEY
from kaggleops.mlruns import EntityStore
from kaggleops.printable import printable
from kaggleops.redaction import redacted
from kaggleops.reports.history import History
from kaggleops.reports.html import data_in, json_in_html
from kaggleops.reports.score import Score, declared, score_among

_FRESH = 5.0  # seconds for which what was made is shown again
_PATIENCE = 3.0  # seconds that a request to the bucket is tried again
_MOST_BYTES = 4 << 20  # of the watcher's page

_LOOKED_AT = 100  # runs of an experiment, the latest
_MOST = 200  # experiments, those with the latest runs

_NEW = {"Cache-Control": "no-store"}

MayRead = Callable[[Request, Collection[str]], bool | None]
"""Returns whether a request may read all of these experiments; None where nobody is signed in."""

_Made = TypeVar("_Made")


def _ask_to_sign_in() -> Response:
    asks = {"WWW-Authenticate": 'Basic realm="mlflow"'}
    return PlainTextResponse("Who asks? Sign in as in MLflow.\n", 401, asks)


class _Kept(Generic[_Made]):
    """What is made once for all who ask within seconds."""

    def __init__(self, make: Callable[[], _Made]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._until = 0.0

    def __call__(self) -> _Made:
        with self._lock:
            if time.monotonic() > self._until:
                self._made = self._make()
                self._until = time.monotonic() + _FRESH
            return self._made


class CampaignPage:
    """The campaign's page; the watcher's lies in the bucket.

    Args:
        bucket: its address.
        engine: of the index.
        may_read: who may read which experiments.
    """

    def __init__(self, bucket: str, engine: sa.Engine, may_read: MayRead) -> None:
        self._bucket = bucket
        self._may_read = may_read
        # Whoever looks is not to wait for a bucket that is away: what the index has is shown.
        self._place = open_bucket(bucket, patience=_PATIENCE)
        store = EntityStore(self._place)
        self._history = History(engine, lambda: store)
        self._content = _Kept(self._make)
        self._offers: tuple[list[dict[str, Any]], int] | None = None
        self._version = ABSENT

    def page(self, request: Request) -> Response:
        """Return the page; 401 to strangers, 403 to whoever may not read all experiments."""
        try:
            # It shows runs of all of them, and is made once for everybody.
            may = self._may_read(request, self._history.experiments().values())
            if may is None:
                return _ask_to_sign_in()
            if not may:
                line = "this page shows all experiments, and you may not read some of them\n"
                return PlainTextResponse(line, 403)
            return HTMLResponse(self._content(), 200, _NEW)
        except (KaggleOpsError, SQLAlchemyError) as error:
            line = printable(redacted(first_line(error)))
            return PlainTextResponse(f"making the page: {line}\n", 503)

    def _make(self) -> bytes:
        states = recent_sweeps(self._history)
        view = view_of(self._history, states, None, datetime.now(UTC), self._bucket)
        with suppress(BucketError):
            # What the platforms told is the watcher's alone to know: it has their keys.
            found = self._place.read(PAGE_KEY, unless=self._version, at_most=_MOST_BYTES)
            if found is not None:
                self._version = found.version
                self._offers = offers_told(data_in(found.data))
        if self._offers is not None:
            view |= {"offers": self._offers[0], "told": self._offers[1]}
        return page(view)


class FrontPage:
    """MLflow's front page, with how its run tables look when somebody first opens them.

    Args:
        engine: of the index.
        may_read: who may read which experiments.
        stock: the file of MLflow's own page.
    """

    def __init__(self, engine: sa.Engine, may_read: MayRead, stock: Path) -> None:
        self._may_read = may_read
        self._stock = stock
        self._script = Path(__file__).with_name("assets").joinpath("front_page.js").read_text()
        self._views = _Kept(lambda: views_in(engine))
        self._last: dict[str, dict[str, Any]] = {}

    def page(self, request: Request) -> Response:
        """Return the page; 401 to strangers."""
        if self._may_read(request, ()) is None:
            return _ask_to_sign_in()
        if not self._stock.is_file():
            return PlainTextResponse("this MLflow was installed without its interface\n", 501)
        with suppress(SQLAlchemyError):  # MLflow itself is going to say what is wrong
            self._last = self._views()
        views = self._last
        if not self._may_read(request, views):
            views = {each: view for each, view in views.items() if self._may_read(request, [each])}
        script = self._script.replace("VIEWS", json_in_html(views))
        page = self._stock.read_text().replace("<head>", f"<head><script>{script}</script>", 1)
        # Another release of MLflow names other scripts here.
        return HTMLResponse(page, 200, _NEW)


# -- how a run table looks ----------------------------------------------------------------------


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
