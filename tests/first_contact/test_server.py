"""What is assumed of a server behind IAP: it holds on the fake, and a difference is told."""

import json
import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from kaggleops.first_contact.assumption import assumed_of, tried
from kaggleops.first_contact.services import Server
from kaggleops.server.tunnel import Machine, tunnel
from tests.command import kaggleops_here
from tests.fakes import iap_tunnel
from tests.fakes.wire import Delivery, HttpServer, Request, Response

from .differences import Change, answered, reworded, told

MACHINE = "projects/adas-runs/zones/us-east1-b/instances/kaggleops"


def answer(request: Request) -> tuple[Response, Delivery]:
    here = {"kaggleops": version("kaggleops"), "mlflow": version("mlflow-skinny")}
    content = {
        "/health": "OK",
        "/kaggleops/health.json": json.dumps({"status": "fresh", "versions": here}),
        "/api/2.0/mlflow/experiments/search": json.dumps({"experiments": []}),
        "/": "<title>MLflow</title>",
    }[request.path]
    return Response(200, [("Content-Type", "text/plain")], content.encode()), "whole"


@pytest.fixture
def http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpServer]:
    made = HttpServer(answer)
    iap_tunnel.install(tmp_path / "bin", MACHINE, int(made.url.rpartition(":")[2]))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    yield made
    made.stop()


DIFFERENCES: dict[str, Change] = {
    "health-answers": answered(200, 404),
    "index-told": told(lambda it: it.update(status="asleep")),
    "versions-told": told(lambda it: it["versions"].update(mlflow="2.0")),
    "api-answers": answered(200, 404),
    "ui-answers": reworded("MLflow", "Welcome"),
}


def test_each_holds_and_each_that_differs_is_told(http: HttpServer) -> None:
    assert list(assumed_of("server")) == list(DIFFERENCES)
    with tunnel(Machine.named(MACHINE), 0) as opened:
        server = Server(opened.url)
        assert {line.verdict for line in tried("server", lambda _: server)} == {"ok"}

        def differing(name: str) -> Server:
            http.change = DIFFERENCES[name]
            return server

        assert {line.verdict for line in tried("server", differing)} == {"differs"}
        http.change = answered(200, 401)
        verdicts = {line.id: line.verdict for line in tried("server", lambda _: server)}
        assert verdicts["api-answers"] == verdicts["ui-answers"] == "not checked"


def test_the_command(http: HttpServer, tmp_path: Path, state_folder: Path) -> None:
    arguments = ("doctor", "--try", "server", "--yes", "--bucket", str(tmp_path / "bucket"))
    assert "none is named" in kaggleops_here(*arguments).error
    (tmp_path / "config").mkdir()
    (tmp_path / "config/local.yaml").write_text(f"server: {MACHINE}\n")
    done = kaggleops_here(*arguments)
    assert done.code == 0, done.errors
    assert "it makes and costs nothing" in done.errors
    assert "✓ index-told                 fresh" in done.output
    (report,) = (state_folder / "first-contact").glob("server-*.md")
    assert "Left behind: nothing was made" in report.read_text()
