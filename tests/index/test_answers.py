"""Called wrongly over REST, it answers as MLflow's server over its own SQL store does."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from flask.testing import FlaskClient
from mlflow.exceptions import MlflowException
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as StockRegistry
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as StockTracking

from kaggleops.index.stores import ReplicaRegistryStore, ReplicaTrackingStore
from tests.fakes.object_server import ObjectServer
from tests.index.conftest import Replicated

POST, GET, PATCH, DELETE = "POST", "GET", "PATCH", "DELETE"
NOBODY = "0" * 32
TRACES = "/api/3.0/mlflow/traces"


class Answer(NamedTuple):
    status: int
    code: str
    reason: str
    content: dict[str, Any]


class Server:
    """MLflow's application over two stores, and the ids that it gave."""

    def __init__(self, client: FlaskClient, use: Callable[[], None]) -> None:
        self._client = client
        self._use = use
        self._ids: dict[str, str] = {}

    def ask(self, method: str, path: str, **body: Any) -> Answer:
        """Send a request; `$name` in it is what `keep` has kept."""
        self._use()
        path = path if path.startswith("/") else f"/api/2.0/mlflow/{path}"
        body = self._with_ids(body)
        sent: dict[str, Any] = {"query_string": body} if method == GET else {"json": body}
        answer = self._client.open(self._with_ids(path), method=method, **sent)
        content = answer.get_json(silent=True) or {}
        reason = str(content.get("message", answer.get_data(as_text=True)))
        for name, value in self._ids.items():
            reason = reason.replace(value, f"${name}")
        return Answer(answer.status_code, content.get("error_code", ""), reason, content)

    def keep(self, name: str, answer: Answer, *path: str) -> None:
        """Keep an id out of an answer."""
        found: Any = answer.content
        for part in path:
            found = found[part]
        self._ids[name] = found

    def _with_ids(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._with_ids(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self._with_ids(each) for each in value]
        if isinstance(value, str):
            return re.sub(r"\$(\w+)", lambda found: self._ids[found[1]], value)
        return value


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Any], Server]:
    from mlflow.server import app, handlers

    monkeypatch.setattr(handlers, "_tracking_store", None)
    monkeypatch.setattr(handlers, "_model_registry_store", None)

    def serve(tracking: Any, registry: Any) -> Server:
        def use() -> None:
            handlers._tracking_store, handlers._model_registry_store = tracking, registry

        return Server(app.test_client(), use)

    return serve


@pytest.fixture
def ours(replicated: Replicated, serve: Callable[[Any, Any], Server]) -> Server:
    return serve(ReplicaTrackingStore(replicated.uri), ReplicaRegistryStore(replicated.uri))


@pytest.fixture
def stock(stock_url: str, tmp_path: Path, serve: Callable[[Any, Any], Server]) -> Server:
    return serve(StockTracking(stock_url, str(tmp_path / "artifacts")), StockRegistry(stock_url))


def trace(trace_id: str = "tr-1", home: str = "$e", **more: Any) -> dict[str, Any]:
    place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": home}}
    info = {"trace_id": trace_id, "trace_location": place, "request_time": "2024-01-01T00:00:00Z"}
    return {"trace": {"trace_info": info | {"state": "OK"} | more}}


def assessment(**more: Any) -> dict[str, Any]:
    at = "2024-01-01T00:00:00Z"
    told = {"assessment_name": "h", "trace_id": "tr-1", "source": {"source_type": "HUMAN"}}
    told |= {"feedback": {"value": 5}, "create_time": at, "last_update_time": at}
    return {"assessment": told | more}


def prepared(server: Server) -> Server:
    """What the calls below need."""
    experiment = server.ask(POST, "experiments/create", name="e")
    server.keep("e", experiment, "experiment_id")
    server.keep("gone", server.ask(POST, "experiments/create", name="gone"), "experiment_id")
    server.ask(POST, "experiments/delete", experiment_id="$gone")
    for name in ("r", "dead"):
        run = server.ask(POST, "runs/create", experiment_id="$e", run_name=name, start_time=1)
        server.keep(name, run, "run", "info", "run_id")
    server.ask(POST, "runs/delete", run_id="$dead")
    server.ask(POST, "runs/log-parameter", run_id="$r", key="lr", value="1")
    model = server.ask(POST, "logged-models", experiment_id="$e", name="m")
    server.keep("m", model, "model", "info", "model_id")
    server.ask(POST, "registered-models/create", name="M")
    server.ask(POST, "registered-models/create", name="N")
    server.ask(POST, "model-versions/create", name="M", source="s3://x/y")
    server.ask(POST, TRACES, **trace())
    return server


def dataset(**more: Any) -> dict[str, Any]:
    said = {"name": "n", "digest": "d", "source_type": "s", "source": "x"}
    return {"run_id": "$r", "datasets": [{"dataset": said | more}]}


def calls() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield wrong calls, and a few right ones: method, path, content."""
    for name in ("e", "gone", "", None, 1, "x" * 501):
        yield POST, "experiments/create", {"name": name}
    yield POST, "experiments/create", {"name": "k", "tags": [{"key": "k" * 251, "value": "v"}]}
    yield POST, "experiments/create", {"name": "f", "artifact_location": "http://a/b#c"}
    for home in ("99", "$gone"):
        yield POST, "experiments/restore", {"experiment_id": home.replace("$gone", "98")}
        yield POST, "experiments/update", {"experiment_id": home, "new_name": "n"}
        yield (
            POST,
            "experiments/set-experiment-tag",
            {
                "experiment_id": home,
                "key": "k",
                "value": "v",
            },
        )
        yield POST, "runs/create", {"experiment_id": home}
        yield POST, "logged-models", {"experiment_id": home, "name": "x"}
    yield POST, "experiments/delete", {"experiment_id": "$gone"}
    yield POST, "experiments/update", {"experiment_id": "$e", "new_name": ""}
    yield (
        POST,
        "experiments/set-experiment-tag",
        {
            "experiment_id": "$e",
            "key": "k" * 251,
            "value": "v",
        },
    )
    yield POST, "experiments/delete-experiment-tag", {"experiment_id": "$e", "key": "none"}
    yield GET, "experiments/get-by-name", {"experiment_name": "none"}
    for search in ({"filter": "nonsense"}, {"max_results": -1}, {"order_by": ["x"]}):
        yield POST, "experiments/search", search
        yield POST, "runs/search", {"experiment_ids": ["$e"], **search}
        yield POST, "logged-models/search", {"experiment_ids": ["$e"], **search}
    for huge in (str(2**70), "x"):
        yield GET, "experiments/get", {"experiment_id": huge}
        yield GET, "traces", {"experiment_ids": huge}
        yield GET, "model-versions/get", {"name": "M", "version": huge}
        yield GET, "model-versions/get-download-uri", {"name": "M", "version": huge}
    for run_id in (NOBODY, "abc", ""):
        to = {"run_id": run_id, "key": "k", "value": "1"}
        yield GET, "runs/get", {"run_id": run_id}
        yield POST, "runs/update", {"run_id": run_id, "status": "FINISHED"}
        yield POST, "runs/log-metric", {**to, "timestamp": 1, "step": 0}
        yield POST, "runs/log-parameter", to
        yield POST, "runs/set-tag", to
        yield POST, "runs/log-batch", {"run_id": run_id, "params": [{"key": "a", "value": "1"}]}
        yield POST, "runs/log-inputs", dataset() | {"run_id": run_id}
        yield GET, "metrics/get-history", {"run_id": run_id, "metric_key": "m"}
    for path in ("runs/delete", "runs/restore"):
        yield POST, path, {"run_id": NOBODY}
    yield POST, "runs/log-batch", {"run_id": "$r", "params": [{"key": "lr", "value": "2"}]}
    many = [{"key": f"p{number}", "value": "9"} for number in range(101)]
    yield POST, "runs/log-batch", {"run_id": "$r", "params": many}
    yield POST, "runs/log-batch", {"run_id": "$r", "params": [many[0], many[0]]}
    for key, value in (
        ("lr", "2"),
        ("k" * 251, "v"),
        ("long", "v" * 8001),
        ("a\0", "b"),
        ("", "v"),
        ("a//b", "v"),
        ("../x", "v"),
        ("none", None),
        ("number", 5),
    ):
        yield POST, "runs/log-parameter", {"run_id": "$r", "key": key, "value": value}
        yield POST, "runs/set-tag", {"run_id": "$r", "key": key, "value": value}
    yield POST, "runs/delete-tag", {"run_id": "$r", "key": "none"}
    for point in (
        {"value": "abc"},
        {"value": None},
        {"key": ""},
        {"key": "k" * 251},
        {"key": "a//b"},
        {"timestamp": -1},
        {"timestamp": None},
        {"step": "x"},
    ):
        metric = {"key": "m", "value": 1, "timestamp": 1, "step": 0} | point
        yield POST, "runs/log-metric", {"run_id": "$r", **metric}
        yield POST, "runs/log-batch", {"run_id": "$r", "metrics": [metric]}
    for said in (
        {"name": "n" * 501},
        {"digest": "d" * 37},
        {"schema": "s" * 1048576},
        {"source": "s" * 65536},
        {"name": ""},
    ):
        yield POST, "runs/log-inputs", dataset(**said)
    yield POST, "runs/log-model", {"run_id": "$r", "model_json": "no json"}
    for model in ("m-none", "$m"):
        path = f"logged-models/{model}"
        if model == "m-none":
            yield GET, path, {}
            yield PATCH, path, {"model_id": model, "status": "LOGGED_MODEL_READY"}
            yield DELETE, path, {}
        yield POST, f"{path}/params", {"params": [{"key": "k" * 251, "value": "2"}]}
        yield PATCH, f"{path}/tags", {"tags": [{"key": "k", "value": "v"}]}
        yield DELETE, f"{path}/tags/none", {}
    for name in ("M", "", "a/b", "a:b", None):
        yield POST, "registered-models/create", {"name": name}
    for name in ("none", "", "a/b"):
        yield GET, "registered-models/get", {"name": name}
        yield PATCH, "registered-models/update", {"name": name, "description": "x"}
        yield DELETE, "registered-models/delete", {"name": name}
        yield POST, "registered-models/rename", {"name": name, "new_name": "new"}
        yield POST, "registered-models/set-tag", {"name": name, "key": "k", "value": "v"}
        yield POST, "registered-models/alias", {"name": name, "alias": "a", "version": "1"}
        yield GET, "registered-models/alias", {"name": name, "alias": "a"}
        yield POST, "model-versions/create", {"name": name, "source": "s3://x/y"}
    for name in ("", "a/b", "N"):
        yield POST, "registered-models/rename", {"name": "M", "new_name": name}
    yield POST, "model-versions/create", {"name": "M", "source": "models:/M/9"}
    for version in ("99", "abc", "", "0", "-1"):
        to = {"name": "M", "version": version}
        yield GET, "model-versions/get", to
        yield PATCH, "model-versions/update", {**to, "description": "x"}
        yield DELETE, "model-versions/delete", to
        yield POST, "model-versions/transition-stage", {**to, "stage": "Production"}
        yield POST, "model-versions/set-tag", {**to, "key": "k", "value": "v"}
        yield POST, "registered-models/alias", {**to, "alias": "a"}
    for stage in ("Nowhere", "", "production"):
        yield POST, "model-versions/transition-stage", {"name": "M", "version": "1", "stage": stage}
    for alias in ("", "v1", "latest", "a/b", "a" * 257, "../x"):
        yield POST, "registered-models/alias", {"name": "M", "alias": alias, "version": "1"}
    for key, value in (("k" * 251, "v"), ("k", "v" * 100_001), ("", "v"), ("a//b", "v")):
        yield POST, "registered-models/set-tag", {"name": "M", "key": key, "value": value}
    for more in (
        {"home": "99"},
        {"tags": {"k": "v" * 8001}},
        {"request_preview": "p" * 2000},
        {},
        {"tags": {"again": "with another tag"}},
    ):
        yield POST, TRACES, trace(**more)
    yield GET, f"{TRACES}/tr-none", {}
    yield PATCH, f"{TRACES}/tr-1/tags", {"key": "k" * 251, "value": "v"}
    yield DELETE, f"{TRACES}/tr-1/tags", {"key": "none"}
    for more in ({}, {"overrides": "a-none"}, {"assessment_name": "", "feedback": {}}):
        yield POST, f"{TRACES}/tr-1/assessments", assessment(**more)
    yield GET, f"{TRACES}/tr-1/assessments/a-none", {}
    yield (
        PATCH,
        f"{TRACES}/tr-1/assessments/a-none",
        {
            **assessment(assessment_id="a-none"),
            "update_mask": "feedback",
        },
    )
    yield POST, f"{TRACES}/delete-traces", {"experiment_id": "$e"}
    for asked in ("nonsense", "feedback.h > 3", "attributes.nosuch = 1", "trace.status = 'OK'"):
        place = trace()["trace"]["trace_info"]["trace_location"]
        yield POST, f"{TRACES}/search", {"locations": [place], "filter": asked}


@pytest.mark.parametrize("bucket", ["directory"], indirect=True)
def test_every_wrong_call_gets_the_code_that_mlflows_sql_store_gives(
    ours: Server, stock: Server
) -> None:
    for server in (ours, stock):
        prepared(server)
    different, reasons = [], []
    for method, path, body in calls():
        got, expected = (server.ask(method, path, **body) for server in (ours, stock))
        # MLflow's own says that it has failed, too, of some mistakes: a client repeats that.
        as_expected = got[:2] == expected[:2] or (expected.status >= 500 > got.status >= 400)
        if got.status >= 500 or not as_expected:
            different.append((method, path, str(body)[:200], expected[:3], got[:3]))
        reasons.append(bool(got.reason) or got.status == 200)
    assert different == []
    assert all(reasons)
    assert len(reasons) > 200


@pytest.mark.parametrize("bucket", ["directory"], indirect=True)
def test_what_is_refused_has_its_reason_and_takes_no_run_away_from_everybody(ours: Server) -> None:
    prepared(ours)
    params = [{"key": "new", "value": "1"}, {"key": "lr", "value": "2"}]
    refused = ours.ask(POST, "runs/log-batch", run_id="$r", params=params)
    assert refused[:2] == (400, "INVALID_PARAMETER_VALUE")
    assert "Changing param values is not allowed" in refused.reason
    assert "'1'" in refused.reason
    assert "'2'" in refused.reason
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("runs/log-inputs", {"models": [{}]}),
        ("runs/log-inputs", {"models": [{"model_id": "../x"}]}),
        ("runs/outputs", {"models": [{"model_id": "a b", "step": 1}]}),
        ("runs/update", {"end_time": 2**62}),
        ("runs/update", {"end_time": -(2**62)}),
    ]
    for number, (path, content) in enumerate(wrong):
        refused = ours.ask(POST, path, run_id="$r", **content)
        assert refused[:2] == (400, "INVALID_PARAMETER_VALUE"), (path, content)
        tag = {"key": f"still {number}", "value": "here"}
        assert ours.ask(POST, "runs/set-tag", run_id="$r", **tag).status == 200, (path, content)
        assert ours.ask(GET, "runs/get", run_id="$r").status == 200


def test_a_bucket_that_may_not_be_written_or_is_out_of_reach(
    in_cloud: Replicated, service: ObjectServer, serve: Callable[[Any, Any], Server]
) -> None:
    tracking = ReplicaTrackingStore(in_cloud.uri)
    server = serve(tracking, ReplicaRegistryStore(in_cloud.uri))
    service.deny("our-bucket", write=True)
    denied = server.ask(POST, "experiments/create", name="e")
    assert denied[:2] == (403, "PERMISSION_DENIED")
    assert "may not" in denied.reason


@pytest.mark.parametrize("bucket", ["directory"], indirect=True)
def test_no_pattern_keeps_the_server_busy(replicated: Replicated) -> None:
    store = ReplicaTrackingStore(replicated.uri)
    with pytest.raises(MlflowException, match="has no RLIKE") as refused:
        store.search_traces(["0"], "tags.t RLIKE '(a+)+b'")
    assert refused.value.get_http_status_code() == 400


@pytest.mark.parametrize("bucket", ["directory"], indirect=True)
@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ("span.name = 'needle'", "spans"),
        ("span.content LIKE '%x%'", "spans"),
        ("span.attributes.a = 'b' AND status = 'OK'", "spans"),
        ("trace.text LIKE '%x%'", "spans"),
        ("prompt = 'x/1'", "prompts"),
        ("issue.id = 'i-1'", "issues"),
    ],
)
def test_what_the_index_does_not_know_is_not_answered_with_nothing(
    replicated: Replicated, asked: str, what: str
) -> None:
    store = ReplicaTrackingStore(replicated.uri)
    for search in (
        lambda: store.search_traces(["0"], asked),
        lambda: store.find_completed_sessions("0", 0, 1, filter_string=asked),
        lambda: store.calculate_trace_filter_correlation(["0"], "status = 'OK'", asked),
    ):
        with pytest.raises(MlflowException, match=f"does not know their {what}") as refused:
            search()
        assert refused.value.get_http_status_code() == 400


@pytest.mark.parametrize("bucket", ["directory"], indirect=True)
def test_assessments_have_the_times_at_which_they_were_made_and_their_order(
    ours: Server, stock: Server
) -> None:
    for server in (ours, stock):
        place = prepared(server)._with_ids(trace())["trace"]["trace_info"]["trace_location"]
        made = [
            server.ask(POST, f"{TRACES}/tr-1/assessments", **assessment(assessment_name=name))
            for name in ("c", "a", "d", "b")
        ]
        (found,) = server.ask(POST, f"{TRACES}/search", locations=[place]).content["traces"]
        expected, seen = (
            {
                each["assessment_name"]: (each["create_time"], each["last_update_time"])
                for each in of
            }
            for of in ([answer.content["assessment"] for answer in made], found["assessments"])
        )
        assert seen == expected
        assert list(seen.values()) == sorted(seen.values())
