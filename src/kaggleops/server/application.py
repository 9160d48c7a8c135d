"""MLflow's web application behind the door, with a health page and the campaign's."""

import base64
import importlib
import os
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from kaggleops.bucket import open_bucket
from kaggleops.errors import KaggleOpsError
from kaggleops.mlruns import EntityStore
from kaggleops.server.door import Address, Door, is_offered, keep_offered, not_offered
from kaggleops.server.health import health_page
from kaggleops.server.pages import CampaignPage, FrontPage, MayRead
from kaggleops.server.refresher import Refresher
from kaggleops.server.settings import (
    HEALTH_PATH,
    PAGE_PATH,
    Settings,
    first_user,
    make_users_database,
    mlflow_environment,
    server_folder,
)

_AT_ONCE = 4  # API requests: a page of 1,000 runs takes 26 MB, and more at once are no faster

_GATEWAY = "/ajax-api/2.0/mlflow/gateway-proxy"

_NOBODY_LOOKS = ("/health", "/version", HEALTH_PATH, f"{HEALTH_PATH}.json")


_UNUSED = ("matplotlib", "numpy", "pandas", "pyarrow", "scipy", "sklearn")
"""What MLflow imports where it is installed, and its server has no use for: a third of its time and
100 MB of memory. `mlflow-skinny` comes without them, so each is looked for and may be missing."""


def prepare(settings: Settings) -> None:
    """Import MLflow, which takes longest and needs no index; KaggleOpsError for a bad bucket."""
    root = EntityStore(open_bucket(settings.bucket)).artifact_root
    # MLflow reads these when it is imported.
    os.environ.update(mlflow_environment(f"kaggleops+{settings.index}", root))
    try:
        with _missing(_UNUSED):
            importlib.import_module("mlflow.server")
    except ImportError:  # of an MLflow that needs one of them after all
        importlib.import_module("mlflow.server")


@contextmanager
def _missing(names: Iterable[str]) -> Iterator[None]:
    """Run a block in which modules count as not installed, unless they are imported already."""
    blocked = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(blocked))  # type: ignore[arg-type]  # so does importlib's page
    try:
        yield
    finally:
        for name in blocked:
            del sys.modules[name]


def application(settings: Settings, refresher: Refresher, listens: Address) -> ASGIApp:
    """Return the application of a process, after `prepare`; KaggleOpsError if MLflow refuses."""
    if settings.auth:
        _ask_for_passwords()
    else:
        # A search imports it otherwise, with all that `prepare` leaves out, to find out that nobody
        # is asked for a password.
        sys.modules.setdefault("mlflow.server.auth", None)  # type: ignore[arg-type]

    from mlflow.server import app as flask_app

    from kaggleops.server.answers import Wsgi, answer_mistakes

    # Not the index's engine, each of whose transactions waits for the writer.
    engine = sa.create_engine(settings.index, pool_pre_ping=True, pool_size=1)
    may_read = _may_read(settings.auth)
    health = health_page(settings, engine, lambda: refresher.notice, may_read)
    front = FrontPage(engine, may_read, Path(flask_app.static_folder, "index.html"))
    pages = {
        "/": front.page,
        PAGE_PATH: CampaignPage(settings.bucket, engine, may_read).page,
        HEALTH_PATH: health,
        f"{HEALTH_PATH}.json": health,
        _GATEWAY: _no_gateway,
    }
    keep_offered(flask_app)
    answer_mistakes(flask_app)
    # Of MLflow's outer application, in FastAPI, nothing is used: it adds to the inner one what is
    # not offered (the assistant, the gateway, jobs), and takes a second to import.
    app = Starlette(routes=[*map(Route, pages, pages.values()), Mount("/", Wsgi(flask_app))])

    def offers(method: str, path: str) -> bool:
        if path in pages:
            return method in ("GET", "HEAD")
        return is_offered(flask_app, method, path)

    return Door(_limited(refresher, app), offers, listens, settings.host_names)


def _no_gateway(request: Request) -> Response:
    """Tell MLflow's run table that there is no gateway: it complains about any other answer."""
    if request.query_params.get("gateway_path") == "api/2.0/endpoints/":
        return JSONResponse({"endpoints": []})
    return not_offered(request.method, _GATEWAY).response(_GATEWAY)


def _ask_for_passwords() -> None:
    from mlflow.exceptions import MlflowException

    try:
        from mlflow.server.auth import auth_config, create_app

        make_users_database(auth_config.database_uri)
        create_app()  # puts its guard into the one application that there is
    except MlflowException as error:
        raise KaggleOpsError("starting MLflow's basic auth", error.message) from error


def access(settings: Settings) -> str:
    """Return who can sign in, after `application`, for people to read; "" if nobody has to."""
    if not settings.auth:
        return ""
    from mlflow.server.auth import store

    return first_user(server_folder(settings.bucket), store.authenticate_user)


def _may_read(auth: bool) -> MayRead:
    """Return whether a request may read all of some experiments, as a function."""
    if not auth:
        return lambda *_: True
    from mlflow.server.auth import auth_config, resolve_permissions, store
    from mlflow.server.auth.permissions import GrantLoadKey, get_permission
    from mlflow.server.auth.requirements import floor_positive_permission
    from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME

    def user_of(request: Request) -> str | None:
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        with suppress(ValueError):  # not base64
            name, _, password = base64.b64decode(credentials).decode().partition(":")
            if scheme.lower() == "basic" and store.authenticate_user(name, password):
                return name
        return None

    def may_read(request: Request, experiments: Collection[str]) -> bool | None:
        if (user := user_of(request)) is None:
            return None
        if not experiments or store.get_user(user).is_admin:
            return True
        keys = [GrantLoadKey("experiment", each) for each in experiments]
        default = auth_config.default_permission
        found = resolve_permissions(user, DEFAULT_WORKSPACE_NAME, keys)
        return all(
            (
                get_permission(default)
                if each is None
                else floor_positive_permission(each, default)
            ).can_read
            for each in found
        )

    return may_read


def _limited(refresher: Refresher, app: ASGIApp) -> ASGIApp:
    """Let the refresher know of requests, and answer few of those that take memory at a time."""
    room: anyio.CapacityLimiter | None = None

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal room
        room = room or anyio.CapacityLimiter(_AT_ONCE)  # belongs to the event loop
        path = scope.get("path", "")
        if scope["type"] == "http" and path not in _NOBODY_LOOKS:
            refresher.somebody_looks()
        # An artifact takes as long as its reader is slow, and hardly any memory.
        if "api/" in path and "artifact" not in path:
            async with room:
                await app(scope, receive, send)
        else:
            await app(scope, receive, send)

    return limited
