"""Whoever can write to the bucket gets nothing else, and ends nothing."""

import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from kaggleops.bucket.location import bucket_uri
from kaggleops.mlruns import EntityId, Kind, run
from kaggleops.mlruns.archive import pack
from kaggleops.mlruns.change_log import LOG_KEY
from kaggleops.server.door import OFFERED
from kaggleops.server.settings import server_folder
from tests.command import kaggleops_here
from tests.server.hostile import HEALTHY, HUGE, SECRET, Hostile, _located, _sound, make
from tests.server.serving import Serving, eventually, serving

API = "ajax-api/2.0/mlflow"
V3 = "ajax-api/3.0/mlflow"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Hostile:
    return make(tmp_path_factory.mktemp("hostile") / "bucket")


@pytest.fixture(scope="module")
def server(hostile: Hostile) -> Iterator[Serving]:
    home = hostile.folder.parent / "server"
    broken = {"format": 1, "id": "a", "sequence": HUGE, "dropped": 0, "entries": []}
    (hostile.folder / LOG_KEY).write_text(json.dumps(broken))
    # Without passwords: their check takes far longer than the rest of a request.
    with serving("--bucket", hostile.uri, home=home) as server:
        assert LOG_KEY in server.health()["problems"][0]  # until the next write begins another
        yield server


def questions(entity_id: EntityId) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield all that can be asked about an entity: method, path, parameters."""
    name, home = entity_id.name, entity_id.experiment_id
    match entity_id.kind:
        case Kind.EXPERIMENT:
            yield "GET", f"{API}/experiments/get", {"experiment_id": home}
        case Kind.RUN:
            yield "GET", f"{API}/runs/get", {"run_id": name}
            yield "GET", f"{API}/artifacts/list", {"run_id": name}
            yield "GET", f"{API}/artifacts/list", {"run_id": name, "path": "private"}
            for path in ("passwd", "private/passwd", "etc/passwd", "link", "folder/passwd"):
                yield "GET", "get-artifact", {"run_id": name, "path": path}
            yield "GET", f"{API}/metrics/get-history", {"run_id": name, "metric_key": "loss"}
            yield "POST", f"{API}/upload-artifact", {"run_uuid": name, "path": "new.txt"}
        case Kind.LOGGED_MODEL:
            model = f"{API}/logged-models/{name}"
            yield "GET", model, {}
            yield "GET", f"{model}/artifacts/directories", {}
            for path in ("passwd", "private/passwd", "../private/passwd"):
                yield "GET", f"{model}/artifacts/files", {"artifact_file_path": path}
        case Kind.TRACE:
            yield "GET", f"{API}/traces/{name}/info", {}
            yield "GET", f"{V3}/traces/{name}", {}
            yield "GET", f"{V3}/traces/get", {"trace_id": name}
            yield "GET", f"{API}/get-trace-artifact", {"request_id": name}
            yield "GET", f"{V3}/get-trace-artifact", {"request_id": name, "path": "passwd"}
        case Kind.REGISTERED_MODEL:
            yield "GET", f"{API}/registered-models/get", {"name": name}
            for version in ("1", "2"):
                found = {"name": name, "version": version}
                yield "GET", f"{API}/model-versions/get", found
                yield "GET", f"{API}/model-versions/get-download-uri", found
                yield "GET", "model-versions/get-artifact", {**found, "path": "passwd"}


def ask(session: requests.Session, url: str, question: tuple[str, str, Any]) -> requests.Response:
    method, path, params = question
    body = b"not to be written" if method == "POST" else None
    answer = session.request(method, f"{url}/{path}", params=params, data=body, timeout=120)
    # MLflow's answer for any trace without spans.
    if "Trace data not stored in tracking store" not in answer.text:
        assert answer.status_code < 500, (question, answer.text[:500])
    assert SECRET not in answer.text, question
    assert SECRET.encode().hex() not in answer.content.hex(), question
    return answer


def every_page(server: Serving, method: str, path: str, search: dict[str, Any]) -> None:
    token: str | None = ""
    while token is not None:
        body = {**search, **({"page_token": token} if token else {})}
        where = {"params": body} if method == "GET" else {"json": body}
        answer = server.session.request(method, f"{server.url}/{path}", timeout=120, **where)
        assert answer.ok, (path, search, answer.text[:500])
        assert SECRET not in answer.text, path
        token = answer.json().get("next_page_token")


def test_no_location_leads_to_the_servers_disk_or_elsewhere(
    hostile: Hostile, server: Serving
) -> None:
    refused = 0
    for entity_id, location in hostile.located:
        for question in questions(entity_id):
            answer = ask(server.session, server.url, question)
            opens = "artifact" in question[1] and "trace" not in question[1]
            if opens and entity_id.kind is not Kind.EXPERIMENT:
                sound = question[2].get("version") == "2" or (
                    location == "a link" and answer.ok and answer.json().get("files", []) == []
                )
                assert sound or answer.status_code in (400, 403, 404), (question, location)
                refused += answer.status_code == 403
    assert refused > 200
    private = hostile.folder.parent / "private"
    assert [each.name for each in private.iterdir()] == ["passwd"]
    # What is sound is served.
    path = {"run_id": HEALTHY.name, "path": "hello.txt"}
    assert ask(server.session, server.url, ("GET", "get-artifact", path)).text == "hello"


@pytest.mark.parametrize(
    "location",
    ["{private}", "file://{private}", "file:///proc/self/root{private}", "{root}/../../private"],
)
def test_what_a_client_sends_opens_no_other_place(
    hostile: Hostile, server: Serving, location: str
) -> None:
    private, root = hostile.folder.parent / "private", f"{hostile.folder.as_uri()}/artifacts"
    location = location.format(private=private, root=root)

    def post(path: str, **body: Any) -> requests.Response:
        return server.session.post(f"{server.url}/{API}/{path}", json=body, timeout=60)

    made = post("experiments/create", name=location, artifact_location=location)
    assert made.status_code == 400, made.text
    name = f"sent {location}"[:200].replace("/", " ").replace(":", " ")
    post("registered-models/create", name=name).raise_for_status()
    for source in (location, f"{root}/7/{HEALTHY.name}/artifacts/../../../../private"):
        for owner in ({"run_id": HEALTHY.name}, {}):
            sent = post("model-versions/create", name=name, source=source, **owner)
            if sent.ok:
                version = sent.json()["model_version"]["version"]
                found = {"name": name, "version": version, "path": "passwd"}
                ask(server.session, server.url, ("GET", "model-versions/get-artifact", found))
    new = post("logged-models", experiment_id="7", name="sent", tags=[]).json()["model"]["info"]
    assert new["artifact_uri"].startswith(root)


def test_somebody_who_may_only_read_gets_nothing_of_the_servers_disk_and_writes_nothing(
    hostile: Hostile, server: Serving, tmp_path: Path
) -> None:
    home, root = tmp_path / "guarded", f"{hostile.folder.as_uri()}/artifacts"
    place = home / "serve" / server_folder(bucket_uri(hostile.uri)).name
    keys = run("7", "d" * 32)
    hostile.put(keys, pack(_located(keys, place.as_uri(), root)))
    place.mkdir(parents=True)
    with sqlite3.connect(server.found["index"].removeprefix("sqlite:///")) as index:
        index.execute("VACUUM INTO ?", [str(place / "index.db")])  # made once is enough
    (hostile.folder / LOG_KEY).unlink(missing_ok=True)  # so that the bucket is listed
    with serving("--bucket", hostile.uri, "--auth", home=home) as guarded:
        admin = (place / "admin-password").read_text().strip()
        password = "a password of some length"
        guarded.session.post(
            f"{guarded.url}/api/2.0/mlflow/users/create",
            json={"username": "reader", "password": password},
            auth=("admin", admin),
            timeout=60,
        ).raise_for_status()
        guarded.session.auth = ("reader", password)
        asked = [each for located, _ in hostile.located[::9] for each in questions(located)]
        assert any("upload" in path for _, path, _ in asked)
        names = [each.name for each in place.iterdir() if each.is_file()]
        asked += [("GET", "get-artifact", {"run_id": keys.name, "path": name}) for name in names]
        assert {"admin-password", "users.db", "index.db"} <= set(names)
        for question in asked:
            answer = ask(guarded.session, guarded.url, question)
            assert admin not in answer.text, question
            if "upload" in question[1] or question[2].get("run_id") == keys.name:
                assert answer.status_code == 403, (question, answer.text)
        for path, body in (
            ("runs/set-tag", {"run_id": HEALTHY.name, "key": "k", "value": "v"}),
            ("runs/delete", {"run_id": HEALTHY.name}),
            ("experiments/delete", {"experiment_id": "7"}),
            ("model-versions/create", {"name": "model 20", "source": place.as_uri()}),
            ("logged-models", {"experiment_id": "7"}),
        ):
            sent = guarded.session.post(f"{guarded.url}/{API}/{path}", json=body, timeout=60)
            assert sent.status_code == 403, (path, sent.text)
        search = {"experiment_ids": ["7"], "max_results": 2000}
        every_page(guarded, "POST", f"{API}/runs/search", search)
        assert guarded.health()["status"] == "fresh"


def test_whatever_stands_in_an_object_ends_nothing(hostile: Hostile, server: Serving) -> None:
    traces = {"locations": [{"mlflow_experiment": {"experiment_id": "7"}}], "max_results": 500}
    for path, body in (
        (f"{API}/runs/search", {"experiment_ids": ["7"], "max_results": 2000}),
        (f"{API}/runs/search", {"experiment_ids": ["7"], "order_by": ["metrics.loss DESC"]}),
        (f"{API}/runs/search", {"experiment_ids": ["7"], "filter": "params.lr = '0.1'"}),
        (f"{API}/logged-models/search", {"experiment_ids": ["7"], "max_results": 50}),
        (f"{V3}/traces/search", traces),
        (f"{API}/experiments/search", {"max_results": 1000}),
    ):
        every_page(server, "POST", path, body)
    for path in ("registered-models/search", "model-versions/search"):
        every_page(server, "GET", f"{API}/{path}", {"max_results": 1000})
    for entity_id in hostile.all[::8]:
        if asked := [each for each in questions(entity_id) if each[0] == "GET"]:
            ask(server.session, server.url, asked[0])
    assert any(
        each["info"]["run_id"] == HEALTHY.name for each in server.runs("7", max_results=2000)
    )
    health = server.health()
    assert health["status"] == "fresh"
    assert len(health["problems"]) == 100
    assert all(len(each) < 1000 for each in health["problems"])


_NO_OBJECTS = [b"null", b"[]", b"1", b'"x"', b"{", b"\xff"]


@pytest.mark.parametrize("content", [b"", b'{"query":"{"}', b'{"query":1}', *_NO_OBJECTS])
def test_whatever_is_sent_is_answered_with_a_reason(server: Serving, content: bytes) -> None:
    routes = [
        (method, path)
        for method, path in sorted(OFFERED)
        if not path.startswith("/ajax-api") and method in ("POST", "PATCH", "DELETE")
    ]
    if content in _NO_OBJECTS:  # what is none is refused alike everywhere: each route gets one
        routes = routes[_NO_OBJECTS.index(content) :: len(_NO_OBJECTS)]
    for method, path in routes:
        asked = re.sub(r"<\w+>", "x", path)
        answer = server.session.request(
            method,
            f"{server.url}{asked}",
            data=content,
            headers={"Content-Type": "application/json"},
            timeout=60,
        )
        assert answer.status_code < 500, (method, path, answer.text)
        assert answer.json() if answer.status_code == 400 else True


@pytest.mark.parametrize(
    "asked", ["(" * 200_000, " AND ".join(["params.lr = '1'"] * 500), "tags.t RLIKE '(a+)+b'"]
)
def test_no_filter_keeps_the_server_busy(server: Serving, asked: str) -> None:
    place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "7"}}
    for path in (f"{API}/runs/search", f"{API}/logged-models/search", f"{V3}/traces/search"):
        body = {"experiment_ids": ["7"], "locations": [place], "filter": asked}
        answer = server.session.post(f"{server.url}/{path}", json=body, timeout=60)
        assert answer.status_code == 400, answer.text


def test_a_name_that_is_no_files_is_refused_without_a_path_of_the_server(server: Serving) -> None:
    for path in ("\0", "a" * 300, "."):
        answer = server.session.post(
            f"{server.url}/{API}/upload-artifact",
            params={"run_uuid": HEALTHY.name, "path": path},
            data=b"x",
            timeout=60,
        )
        assert answer.status_code == 400, answer.text
        assert "/tmp" not in answer.text


def test_an_experiment_is_made_beside_hostile_ones(server: Serving) -> None:
    made = server.session.post(
        f"{server.url}/{API}/experiments/create", json={"name": "new"}, timeout=60
    )
    assert made.ok, made.text


def test_what_the_server_says_of_itself_is_true(server: Serving) -> None:
    said = server.session.get(f"{server.url}/{V3}/server-info", timeout=60).json()
    assert said["features_enabled"] == {"gateway": False}
    assert not said["workspaces_enabled"]


def test_a_broken_change_log_is_named_and_the_bucket_is_listed(
    hostile: Hostile, server: Serving
) -> None:
    broken = {"format": 1, "id": "a", "sequence": 0, "dropped": 0, "entries": {"a": 1}}
    (hostile.folder / LOG_KEY).write_text(json.dumps(broken))
    new = run("7", "b" * 32)
    root = f"{hostile.folder.as_uri()}/artifacts"
    before = {each.pid for each in server.children}
    hostile.put(new, pack(_sound(new, root)))
    found = ("GET", f"{API}/runs/get", {"run_id": new.name})
    eventually(lambda: ask(server.session, server.url, found).ok)
    eventually(lambda: LOG_KEY in server.health()["problems"][0])  # when it has looked at all
    assert server.health()["status"] == "fresh"
    assert {each.pid for each in server.children} == before


def test_no_command_fails_over_it_or_learns_what_lies_beside_the_bucket(
    hostile: Hostile, server: Serving, tmp_path: Path
) -> None:
    located = [each.name for each, _ in hostile.located if each.kind is Kind.RUN]
    commands: list[tuple[object, ...]] = [
        ("status", "--since", "100000d"),
        ("leaderboard", "--experiment", "experiment 7"),
        ("leaderboard", "--experiment", "experiment 7", "--metric", "loss", "--json"),
        ("compare", HEALTHY.name, located[0]),
        ("cost",),
        ("reproduce", HEALTHY.name),
        ("export", tmp_path / "unpacked", "--artifacts"),
        *(("logs", name) for name in located[:2]),
        *(("download", name, tmp_path / name) for name in (HEALTHY.name, *located)),
        ("forget", *located[:5], "--yes"),
        ("forget", "--user", "nobody", "--yes"),
    ]
    home = str(hostile.folder.parent / "server")
    for command in commands:
        done = kaggleops_here(*command, "--bucket", hostile.folder, KAGGLEOPS_HOME=home)
        assert done.code in (0, 1, 2), (command, done.errors)
        assert SECRET not in done.output + done.errors, command
        assert not done.code or "error: " in done.errors, (command, done.errors)
        assert "Traceback" not in done.errors, command
    imported = kaggleops_here(
        "import", tmp_path / "unpacked", "--bucket", tmp_path / "again", KAGGLEOPS_HOME=home
    )
    assert imported.code in (0, 1), imported.errors
    assert SECRET not in imported.output + imported.errors
    for folder in ("unpacked", "again/artifacts"):
        hello = tmp_path / folder / f"7/{HEALTHY.name}/artifacts/hello.txt"
        assert hello.read_text() == "hello"
    written = (each for each in tmp_path.rglob("*") if each.is_file())
    assert not [each for each in written if SECRET.encode() in each.read_bytes()]
    private = hostile.folder.parent / "private"
    assert (private / "passwd").read_text() == SECRET
