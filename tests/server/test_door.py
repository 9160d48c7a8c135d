"""The door of `kaggleops serve`: what is offered, to whom, and what every other request is told."""

import asyncio
import json
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from ipaddress import ip_address
from itertools import product
from pathlib import Path
from typing import NamedTuple

import mlflow
import pytest
import requests
from starlette.types import Message, Receive, Scope, Send

from kaggleops.bucket import ABSENT, open_bucket
from kaggleops.campaign.view import page as page_of
from kaggleops.layout import PAGE_KEY
from kaggleops.server.door import GRAPHQL, OFFERED, Door, reason_against
from kaggleops.server.settings import mlflow_environment
from tests.server.serving import Serving, eventually, serving

_WALK = Path(__file__).with_name("mlflow_routes.py")


class Mlflow(NamedTuple):
    """What the MLflow that is installed brings, with basic auth."""

    routes: set[tuple[str, str]]
    graphql: set[str]


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Mlflow:
    """All routes of MLflow's own application: FastAPI's, Flask's, auth's; and GraphQL's fields."""
    folder = tmp_path_factory.mktemp("stock")
    done = subprocess.run(
        [sys.executable, _WALK], cwd=folder, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return Mlflow({(method, path) for method, path in found["routes"]}, set(found["graphql"]))


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bucket with one run."""
    uri = f"bucket+file://{tmp_path_factory.mktemp('bucket')}/mlruns"
    client = mlflow.MlflowClient(uri)
    client.create_run(client.create_experiment("tweets"), run_name="first")
    # The server takes from the watcher's page what the platforms told, and nothing else.
    offer = {"backend": "kaggle", "accelerator": "GPU", "problem": "", "sessions": 2}
    now = time.time_ns() // 1_000_000
    left = page_of({"now": now, "offers": [offer], "sweeps": [{"name": "forged"}]})
    open_bucket(uri).write(PAGE_KEY, left, expected=ABSENT)
    return uri


@pytest.fixture(scope="module")
def server(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server that listens on all addresses and was told one name."""
    home = tmp_path_factory.mktemp("server")
    options = ("--host", "0.0.0.0", "--auth", "--host-name", "ml.example.com")
    with serving("--bucket", bucket, *options, home=home) as server:
        [password] = home.glob("serve/*/admin-password")
        server.session.auth = ("admin", password.read_text().strip())
        yield server


def ask(server: Serving, method: str, path: str, **headers: str) -> requests.Response:
    return server.session.request(
        method, f"{server.url}{path}", headers=headers, timeout=60, allow_redirects=False
    )


# -- what is offered ----------------------------------------------------------------------------


def test_somebody_has_decided_on_every_route_of_mlflow(brought: Mlflow) -> None:
    undecided = {
        (method, path) for method, path in brought.routes - OFFERED if reason_against(path) is None
    }
    assert not undecided, "put each into kaggleops.server.door: offered, or refused and why"
    assert brought.routes >= OFFERED, "this MLflow has no such routes any more"
    assert brought.graphql - GRAPHQL == {"test", "testMutation"}
    assert brought.graphql >= GRAPHQL


def test_no_path_is_offered_and_refused() -> None:
    assert {path for _, path in OFFERED if reason_against(path)} == {"/graphql"}


def test_only_what_is_offered_is_answered(server: Serving, brought: Mlflow) -> None:
    stranger = (
        requests.Session()
    )  # a password takes its time to be checked, and the door no part in it
    for method, path in sorted(brought.routes):
        asked = re.sub(r"<path:\w+>|<\w+>|{[\w:]+}", "x", path)
        answer = stranger.request(method, f"{server.url}{asked}", timeout=60)
        refused = "is not offered here" in answer.text
        assert refused == ((method, path) not in OFFERED), (method, path, answer.text)
        if refused:
            assert answer.status_code in (404, 501), (method, path)
            assert len(answer.text.splitlines()) == 1


@pytest.mark.parametrize(
    "path",
    [
        "/ajax-api/3.0/mlflow/assistant/config",
        "/ajax-api/3.0/mlflow/assistant/message",
        "//ajax-api/3.0/mlflow/assistant/config",
        "/ajax-api//3.0/mlflow/assistant/config",
        "/ajax-api/3.0/mlflow/assistant/config/",
        "/ajax-api%2f3.0%2fmlflow%2fassistant%2fconfig",
        "/ajax-api/3.0/mlflow/traces/%2e%2e/assistant/config",
        "/ajax-api/3.0/mlflow/traces/..%2fassistant%2fconfig",
        "/ajax-api/3.0/mlflow/./assistant/config",
        "/ajax-api/3.0/mlflow/assistant/config;x",
        "/AJAX-API/3.0/mlflow/assistant/config",
        "/static-files/../ajax-api/3.0/mlflow/assistant/config",
        "/mlflow/ajax-api/3.0/mlflow/assistant/config",
        "/ajax-api/2.0/mlflow/runs/search/",
        "//ajax-api/2.0/mlflow/runs/search",
        "/health/",
        "//",
        "/anything%0aelse%1b[2J",
        "/kaggleops/health/",
    ],
)
def test_no_way_of_writing_a_path_gets_around_it(server: Serving, path: str) -> None:
    overrides = {"X-HTTP-Method-Override": "GET", "X-Forwarded-Prefix": "/mlflow"}
    for method, headers in product(
        ("GET", "POST", "PUT", "DELETE", "PATCH", "TRACE"), ({}, overrides)
    ):
        # As it is written, which `requests` would change.
        status, text = raw(server, f"{method} {path} HTTP/1.1", host(server), **headers)
        assert status in (404, 501), (method, path, text)
        assert "is not offered here" in text
        assert text.strip().isprintable()


def test_methods_that_nobody_needs(server: Serving) -> None:
    search = "/ajax-api/2.0/mlflow/runs/search"
    for method in ("OPTIONS", "HEAD", "GET", "PUT", "TRACE", "NONSENSE"):
        override = {"X-HTTP-Method-Override": "POST", "X-Method-Override": "POST"}
        assert ask(server, method, search, **override).status_code == 404
    assert ask(server, "HEAD", "/").status_code == 200
    assert ask(server, "HEAD", "/kaggleops/health").status_code in (200, 503)  # if not fresh yet
    assert ask(server, "POST", "/kaggleops/health").status_code == 404
    assert ask(server, "HEAD", "/kaggleops/").status_code == 200
    assert ask(server, "POST", "/kaggleops/").status_code == 404


def test_the_campaigns_page_is_for_whoever_may_read_all_experiments(server: Serving) -> None:
    page = f"{server.url}/kaggleops/"
    stranger = requests.get(page, timeout=60)
    assert stranger.status_code == 401
    assert stranger.headers["WWW-Authenticate"].startswith("Basic ")
    assert "first" not in stranger.text
    assert requests.get(page, auth=("admin", "password1234"), timeout=60).status_code == 401
    shown = server.session.get(page, timeout=60)
    assert shown.headers["Content-Type"] == "text/html; charset=utf-8"
    assert shown.headers["X-Frame-Options"] == "SAMEORIGIN"
    assert '"name":"first"' in shown.text
    assert '"backend":"kaggle"' in shown.text
    assert "forged" not in shown.text
    ada = ("ada", "horse-battery-42")
    made = {"username": ada[0], "password": ada[1]}
    users = f"{server.url}/api/2.0/mlflow/users/create"
    server.session.post(users, json=made, timeout=60).raise_for_status()
    assert '"name":"first"' in requests.get(page, auth=ada, timeout=60).text
    found = ask(server, "GET", "/api/2.0/mlflow/experiments/get-by-name?experiment_name=tweets")
    denied = {
        "username": ada[0],
        "resource_type": "experiment",
        "resource_id": found.json()["experiment"]["experiment_id"],
        "permission": "DENY",
    }
    grants = f"{server.url}/api/3.0/mlflow/users/permissions/grant"
    server.session.post(grants, json=denied, timeout=60).raise_for_status()
    refused = requests.get(page, auth=ada, timeout=60)
    assert refused.status_code == 403
    assert "first" not in refused.text


def test_the_run_table_is_told_that_there_is_no_gateway(server: Serving) -> None:
    path = "/ajax-api/2.0/mlflow/gateway-proxy"
    asked = ask(server, "GET", f"{path}?gateway_path=api/2.0/endpoints/")
    assert asked.json() == {"endpoints": []}
    assert ask(server, "GET", f"{path}?gateway_path=gateway/x/invocations").status_code == 501
    assert ask(server, "POST", f"{path}?gateway_path=api/2.0/endpoints/").status_code == 501


def test_graphql_answers_what_is_offered(server: Serving) -> None:
    def query(text: str) -> dict[str, list[str] | None]:
        answer = server.session.post(f"{server.url}/graphql", json={"query": text}, timeout=60)
        content: dict[str, list[str] | None] = answer.json()
        return content

    fine = 'mutation { mlflowSearchRuns(input: {experimentIds: ["0"]}) { runs { info { runId }}}}'
    assert query(fine)["errors"] is None
    for unknown in (
        '{ test(inputString: "x") { output } }',
        "mutation { testMutation { output } }",
    ):
        assert "Cannot query field" in str(query(unknown)["errors"])


def test_nothing_is_upgraded_to_a_web_socket(server: Serving) -> None:
    upgrade = {
        "Upgrade": "websocket",
        "Connection": "Upgrade, close",
        "Sec-WebSocket-Key": "x3JJHMbDL1EzLkh9GBhXDw==",
        "Sec-WebSocket-Version": "13",
    }
    status, _ = raw(server, "GET / HTTP/1.1", host(server), **upgrade)
    assert status != 101


# -- to whom ------------------------------------------------------------------------------------


def host(server: Serving) -> str:
    return server.url.partition("//")[2]


def raw(server: Serving, line: str, *hosts: str, **headers: str) -> tuple[int, str]:
    """Send a request as it is written; return the status and the body."""
    name, _, port = host(server).rpartition(":")
    given = [f"Host: {each}" for each in hosts] + [f"{key}: {headers[key]}" for key in headers]
    auth = requests.models.PreparedRequest()
    auth.prepare("GET", server.url, auth=server.session.auth)
    given += [f"Authorization: {auth.headers['Authorization']}", "Content-Length: 0"]
    with socket.create_connection((name, int(port)), timeout=60) as connection:
        connection.sendall(
            "\r\n".join([line, *given, "Connection: close" * ("Connection" not in headers), "", ""])
            .replace("\r\n\r\n\r\n", "\r\n\r\n")
            .encode()
        )
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b"")).decode()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split(" ")[1]), body


FOREIGN = [
    "10.evil.com",
    "192.168.evil.com",
    "172.16.evil.com",
    "fc00:evil.com",
    "fd00:evil.com",
    "localhost.evil.com",
    "127.0.0.1.evil.com",
    "0x7f.1",
    "2130706433",
    "localhost.",
    "10.evil.com.",
    "ml.example.com.",
    "x.ml.example.com",
    "ml.example.com.evil.com",
    "ml.example.com@evil.com",
    "evil.com",
    "[::1].evil.com",
    "::1",
    "",
    " ",
    "*",
    "10.*",
]


@pytest.mark.parametrize("name", FOREIGN)
def test_a_name_that_it_was_not_told(server: Serving, name: str) -> None:
    for written in (name, name.upper(), f"{name}:5000"):
        for path in ("/", "/health", "/version", "/kaggleops/health"):
            assert raw(server, f"GET {path} HTTP/1.1", written)[0] == 403, written


def test_a_name_that_is_missing_or_there_twice(server: Serving) -> None:
    assert raw(server, "GET / HTTP/1.0")[0] == 403
    assert raw(server, "GET / HTTP/1.1")[0] in (400, 403)
    assert raw(server, "GET / HTTP/1.1", "localhost", "10.evil.com")[0] in (400, 403)
    assert raw(server, "GET / HTTP/1.1", "10.evil.com", "localhost")[0] in (400, 403)
    assert raw(server, "GET http://10.evil.com/ HTTP/1.1", "10.evil.com")[0] == 403


@pytest.mark.parametrize(
    "name",
    [
        "localhost",
        "LocalHost:8080",  # a tunnel's end has a port of its own
        "127.0.0.1:5000",
        "[::1]:5000",
        "ml.example.com",
        "ML.Example.com:443",
        "203.0.113.7:5000",  # it listens on all addresses, and some a router translates
        "[2001:db8::7]",
    ],
)
def test_a_name_of_its_own(server: Serving, name: str) -> None:
    assert raw(server, "GET /health HTTP/1.1", name) == (200, "OK")


def search(server: Serving, **headers: str) -> int:
    return server.session.post(
        f"{server.url}/ajax-api/2.0/mlflow/runs/search",
        json={"experiment_ids": ["0"]},
        headers=headers,
        timeout=60,
    ).status_code


def test_a_request_is_not_read_beyond_what_one_can_hold(server: Serving) -> None:
    stranger = requests.Session()
    sent = [0]

    def content() -> Iterator[bytes]:
        for _ in range(2048):
            sent[0] += 1
            yield b" " * (1 << 20)

    with suppress(requests.ConnectionError):  # it does not listen to the rest
        answer = stranger.post(
            f"{server.url}/api/2.0/mlflow/runs/search", data=content(), timeout=60
        )
        assert answer.status_code == 413
    assert sent[0] < 100
    assert stranger.get(f"{server.url}/health", timeout=60).ok


def test_all_requests_together_hold_no_more_than_the_server_has_room_for(server: Serving) -> None:
    name, _, port = host(server).rpartition(":")
    page = "/api/2.0/mlflow/runs/search"
    head = f"POST {page} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {32 << 20}\r\n\r\n"
    # Together one byte too much, so that whoever sends that is refused, and all is read by then.
    sizes = [127 << 18] * 4 + [(1 << 20) + 1]
    with ExitStack() as stack:
        senders = []
        for size in sizes:
            sender = socket.create_connection((name, int(port)), timeout=60)
            senders.append(stack.enter_context(sender))
            sender.sendall(head.encode() + bytes(size))
        answers = select.poll()  # not `select`: its numbers end at 1023
        for sender in senders:
            answers.register(sender, select.POLLIN)
        [(answered, _), *_] = answers.poll(60_000)
        [sender] = [each for each in senders if each.fileno() == answered]
        assert sender.recv(1 << 16).startswith(b"HTTP/1.1 503 ")
        assert requests.get(f"{server.url}/health", timeout=60).ok

    def read_again() -> bool:
        return (
            requests.post(f"{server.url}{page}", data=bytes(2 << 20), timeout=60).status_code == 401
        )

    assert eventually(read_again)


def test_a_request_that_breaks_off_reaches_nobody() -> None:
    reached: list[Message] = []
    messages: list[Message] = [
        {"type": "http.disconnect"},
        {"type": "http.request", "body": b"half a file", "more_body": True},
    ]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(await receive())

    async def receive() -> Message:
        return messages.pop()

    async def send(message: Message) -> None:
        """Nobody is there to be told."""

    door = Door(app, lambda *_: True, ip_address("127.0.0.1"))
    headers = [(b"host", b"localhost")]
    scope = {"type": "http", "method": "POST", "path": "/upload", "headers": headers}
    asyncio.run(door(scope, receive, send))
    assert reached == []


def test_only_its_own_pages_write(server: Serving) -> None:
    own = server.url
    assert search(server) == 200  # MLflow's clients
    assert search(server, Origin=own) == 200
    assert search(server, Origin=own, **{"Sec-Fetch-Site": "same-origin"}) == 200
    named = {"Host": "ml.example.com", "Origin": "https://ml.example.com"}  # behind a proxy
    assert search(server, **named) == 200
    for origin in (
        "http://localhost:8888",
        "http://127.0.0.1:1",
        "http://[::1]",
        f"{own}.evil.com",
        f"{own}/",
        "https://evil.com",
        "http://10.evil.com",
        "null",
        "file://",
        "",
    ):
        assert search(server, Origin=origin) == 403, origin
    for site in ("cross-site", "same-site", "unknown"):
        assert search(server, **{"Sec-Fetch-Site": site}) == 403
        assert search(server, **{"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}) == 403


def test_a_link_of_another_page_opens_it_and_nothing_of_it_is_read(server: Serving) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert ask(server, "GET", "/", **link).status_code == 200
    image = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert ask(server, "GET", "/get-artifact?path=x&run_uuid=y", **image).status_code == 403
    for origin in ("http://localhost:8888", "https://evil.com", server.url):
        for method, path in (("GET", "/"), ("OPTIONS", "/ajax-api/2.0/mlflow/runs/create")):
            wanted = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            headers = ask(server, method, path, **wanted).headers
            assert not [name for name in headers if name.lower().startswith("access-control")]


def test_pages_are_not_framed_and_not_guessed(server: Serving) -> None:
    answer = ask(server, "GET", "/")
    assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    shown = ask(server, "GET", "/static-files/lib/notebook-trace-renderer/index.html")
    assert shown.status_code == 200
    assert "X-Frame-Options" not in shown.headers


def test_mlflow_reads_what_it_is_told() -> None:
    from mlflow.server import constants, handlers

    told = mlflow_environment("store", "artifacts")
    assert told[constants.BACKEND_STORE_URI_ENV_VAR] == "store"
    assert told[constants.REGISTRY_STORE_URI_ENV_VAR] == "store"
    assert told[constants.ARTIFACT_ROOT_ENV_VAR] == "artifacts"
    assert told[handlers.STATIC_PREFIX_ENV_VAR] == ""
