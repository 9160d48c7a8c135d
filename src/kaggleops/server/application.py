"""The stock MLflow application with a health page, over the index of a bucket."""

import base64
import importlib
import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from kaggleops.bucket import open_bucket
from kaggleops.errors import KaggleOpsError
from kaggleops.mlruns import EntityStore
from kaggleops.server.downloads import count_sent, produce_slowly
from kaggleops.server.health import Health
from kaggleops.server.links import HEALTH_PATH
from kaggleops.server.notices import NoticeBoard
from kaggleops.server.refreshing import Refresher
from kaggleops.server.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

_QUESTIONS_AT_ONCE = 4
"""Each takes some 26 MB for a page of 1,000 runs, and Python answers no faster with more."""

_NOBODY_LOOKS = ("/health", "/version", HEALTH_PATH, f"{HEALTH_PATH}.json")


def prepare(settings: Settings) -> None:
    """Do what takes longest, and needs no index yet: import MLflow.

    Args:
        settings: what will be served.

    Raises:
        KaggleOpsError: there can be no such bucket.
    """
    os.environ.update(_environment(settings))  # which it reads when it is imported
    importlib.import_module("mlflow.server.fastapi_app")


def application(settings: Settings, board: NoticeBoard, refresher: Refresher) -> ASGIApp:
    """Return the application of a process that is prepared.

    Args:
        settings: what to serve.
        board: of its index.
        refresher: which is told of requests.

    Raises:
        KaggleOpsError: MLflow refuses to serve that.
    """
    app = _with_passwords() if settings.auth else _open_to_all()

    from mlflow.server import app as flask_app

    from kaggleops.server.run_pages import write_quickly

    write_quickly()
    flask_app.wsgi_app = produce_slowly(flask_app.wsgi_app)
    health = Health(settings, board, lambda: refresher.notice, _may_see_all(settings.auth))
    for path in (HEALTH_PATH, f"{HEALTH_PATH}.json"):
        # Before the last of its routes, which takes every path, and behind MLflow's own guards.
        app.router.routes.insert(0, Route(path, health.page))
    return _noting(refresher, _few_at_once(count_sent(app)))


def _environment(settings: Settings) -> dict[str, str]:
    """Return what `mlflow server` tells its processes (mlflow/server/__init__.py, 3.17)."""
    from mlflow.server import constants

    index = f"kaggleops+{settings.index}"
    return {
        constants.BACKEND_STORE_URI_ENV_VAR: index,
        constants.REGISTRY_STORE_URI_ENV_VAR: index,
        constants.ARTIFACT_ROOT_ENV_VAR: EntityStore(open_bucket(settings.bucket)).artifact_root,
        "_MLFLOW_SGI_NAME": "uvicorn",
    }


def _open_to_all() -> "FastAPI":
    from mlflow.server.fastapi_app import app

    return app


def _with_passwords() -> "FastAPI":
    from mlflow.exceptions import MlflowException

    try:
        from mlflow.server.auth import create_app

        return create_app()
    except MlflowException as error:
        raise KaggleOpsError("starting MLflow's basic auth", error.message) from error


def _may_see_all(auth: bool) -> Callable[[Request], bool]:
    """Return what tells whether a request may see names out of the bucket."""
    if not auth:
        return lambda _: True
    from mlflow.server.auth import store

    def known(request: Request) -> bool:
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        with suppress(ValueError):  # it is not what it says it is
            name, _, password = base64.b64decode(credentials).decode().partition(":")
            return scheme.lower() == "basic" and bool(store.authenticate_user(name, password))
        return False

    return known


def _noting(refresher: Refresher, app: ASGIApp) -> ASGIApp:
    """Return the application that lets the refresher know of requests."""

    async def noting(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in _NOBODY_LOOKS:
            refresher.somebody_looks()
        await app(scope, receive, send)

    return noting


def _few_at_once(app: ASGIApp) -> ASGIApp:
    """Return the application that answers few of the questions that take memory at a time."""
    room: anyio.CapacityLimiter | None = None

    async def few(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal room
        room = room or anyio.CapacityLimiter(_QUESTIONS_AT_ONCE)  # belongs to the event loop
        # An artifact takes as long as its reader is slow, and hardly any memory.
        if "api/" in scope.get("path", "") and "artifact" not in scope["path"]:
            async with room:
                await app(scope, receive, send)
        else:
            await app(scope, receive, send)

    return few
