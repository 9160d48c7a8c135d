"""One process that serves MLflow's web application over a bucket, to this machine only."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import TYPE_CHECKING

from kaggleops.errors import UsageError
from kaggleops.server.local_server import LOOPBACK, LocalServer, free_port, local_server
from kaggleops.server.settings import mlflow_environment

if TYPE_CHECKING:
    from kaggleops.server.door import Door

_DOING = "starting the MLflow UI"


@contextmanager
def mlflow_server(
    tracking_uri: str, artifact_root: str, *, port: int | None = None
) -> Iterator[LocalServer]:
    """Serve a bucket, answering before the block begins, ended after it.

    Args:
        tracking_uri: the bucket's tracking URI.
        artifact_root: the URI under which the bucket's artifacts lie.
        port: the port; 5000 by default, or a free one where that is taken.

    Raises:
        UsageError: the server is not installed, or the port is taken.
        KaggleOpsError: it did not start; with the last line that it wrote.
    """
    if importlib.util.find_spec("flask") is None:  # mlflow-skinny has none
        hint = "Install it: pip install 'kaggleops[server]'."
        raise UsageError(_DOING, "the MLflow server is not installed", hint)
    port = free_port(_DOING, wanted=port)
    # What `mlflow server --workers 1` would start, without the process that waits for it.
    command = [
        *(sys.executable, "-m", "uvicorn", "--factory", f"{__name__}:application"),
        *("--host", LOOPBACK, "--port", str(port), "--lifespan", "off", "--no-access-log"),
    ]
    environment = {
        **mlflow_environment(tracking_uri, artifact_root),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with local_server(command, _DOING, port=port, environment=environment) as server:
        yield server


def application() -> "Door":
    """Return the application that the started process serves."""
    from kaggleops.server.application import offered_application
    from kaggleops.server.door import Door

    app, offers = offered_application({})
    return Door(app, offers, ip_address(LOOPBACK))
