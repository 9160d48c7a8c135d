"""The campaign's page as the server makes it from its index; the watcher's lies in the bucket."""

import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from kaggleops.bucket import ABSENT, BucketError, open_bucket
from kaggleops.campaign.view import offers_told, page, recent_sweeps, view_of
from kaggleops.errors import KaggleOpsError, first_line
from kaggleops.layout import PAGE_KEY
from kaggleops.mlruns import EntityStore
from kaggleops.printable import printable
from kaggleops.redaction import redacted
from kaggleops.reports.history import History
from kaggleops.reports.html import data_in
from kaggleops.server.settings import Settings

_PATIENCE = 3.0  # seconds that a request to the bucket is tried again
_MOST = 4 << 20  # bytes of the watcher's page
_FRESH = 5.0  # seconds for which a page is shown again

MayRead = Callable[[Request, Collection[str]], bool | None]
"""Returns whether a request may read all of these experiments; None where nobody is signed in."""


def ask_to_sign_in() -> Response:
    """Return the answer to a stranger."""
    asks = {"WWW-Authenticate": 'Basic realm="mlflow"'}
    return PlainTextResponse("Who asks? Sign in as in MLflow.\n", 401, asks)


class CampaignPage:
    """The page, made when somebody asks for it.

    Args:
        settings: what is served.
        may_read: who may read which experiments.
    """

    def __init__(self, settings: Settings, may_read: MayRead) -> None:
        self._bucket = settings.bucket
        self._may_read = may_read
        self._engine = sa.create_engine(settings.index, pool_pre_ping=True, pool_size=1)
        # Whoever looks is not to wait for a bucket that is away: what the index has is shown.
        self._place = open_bucket(settings.bucket, patience=_PATIENCE)
        store = EntityStore(self._place)
        self._history = History(self._engine, lambda: store)
        self._lock = threading.Lock()
        self._content = b""
        self._made = float("-inf")
        self._offers: tuple[list[dict[str, Any]], int] | None = None
        self._version = ABSENT

    def page(self, request: Request) -> Response:
        """Return the page; 401 to strangers, 403 to whoever may not read all experiments."""
        try:
            # It shows runs of all of them, and is made once for everybody.
            may = self._may_read(request, self._history.experiments().values())
            if may is None:
                return ask_to_sign_in()
            if not may:
                line = "this page shows all experiments, and you may not read some of them\n"
                return PlainTextResponse(line, 403)
            return Response(self._fresh(), 200, {"Cache-Control": "no-store"}, "text/html")
        except (KaggleOpsError, SQLAlchemyError) as error:
            line = printable(redacted(first_line(error)))
            return PlainTextResponse(f"making the page: {line}\n", 503)

    def _fresh(self) -> bytes:
        with self._lock:
            if time.monotonic() - self._made > _FRESH:
                states = recent_sweeps(self._history)
                view = view_of(self._history, states, None, datetime.now(UTC), self._bucket)
                if (told := self._told()) is not None:
                    view |= {"offers": told[0], "told": told[1]}
                self._content, self._made = page(view), time.monotonic()
            return self._content

    def _told(self) -> tuple[list[dict[str, Any]], int] | None:
        """Return what the watcher's page says of the platforms: the watcher has their keys."""
        with suppress(BucketError):
            found = self._place.read(PAGE_KEY, unless=self._version, at_most=_MOST)
            if found is not None:
                self._version = found.version
                self._offers = offers_told(data_in(found.data))
        return self._offers
