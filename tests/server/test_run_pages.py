"""A page of runs, and a chart, are the JSON that MLflow itself writes."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    Metric,
    Run,
    RunData,
    RunInfo,
    RunInputs,
)
from mlflow.entities.metric import MetricWithRunId
from mlflow.protos.service_pb2 import (
    GetMetricHistory,
    GetMetricHistoryBulkInterval,
    GetRun,
    SearchRuns,
)
from mlflow.utils.proto_json_utils import message_to_json

from kaggleops.index.search import PAGE, Logged, entities
from kaggleops.server.answers import to_json

INPUTS = RunInputs([DatasetInput(Dataset("tweets", "d1", "local", "{}"), [InputTag("a", "b")])])
INFO = RunInfo(
    run_id="1" * 32,
    experiment_id="7",
    user_id="ada",
    status="RUNNING",
    start_time=2**53 + 1,
    end_time=None,
    lifecycle_stage="active",
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
longs = st.integers(-(2**63), 2**63 - 1)
numbers = st.floats() | st.integers(-(2**53), 2**53).map(float)
metrics = st.builds(Metric, texts, numbers, longs, longs) | st.builds(
    Metric, texts, numbers, longs, longs, st.none() | texts, texts, texts
)
logged = st.fixed_dictionaries(
    {
        "metrics": st.lists(st.tuples(texts, numbers, longs, longs, st.booleans()), max_size=3),
        "params": st.lists(st.tuples(texts, texts), max_size=3, unique_by=lambda row: row[0]),
        "tags": st.lists(st.tuples(texts, texts), max_size=3, unique_by=lambda row: row[0]),
    }
)


def pages(runs: list[Logged], token: str | None = None) -> tuple[str, str]:
    """Return a page of these runs as it is written here, and as MLflow writes it."""
    ours, theirs = SearchRuns.Response(), SearchRuns.Response()
    infos = [RunInfo(**{**dict(INFO), "run_id": f"{number:032}"}) for number in range(len(runs))]
    for info, of_run in zip(infos, runs, strict=True):
        ours.runs.append(Run(info, RunData(), INPUTS).to_proto())
        theirs.runs.append(Run(info, entities(of_run), INPUTS).to_proto())
    for page in (ours, theirs):
        if token is not None:
            page.next_page_token = token
    kept = PAGE.set({info.run_id: of_run for info, of_run in zip(infos, runs, strict=True)})
    try:
        return to_json(ours), message_to_json(theirs)
    finally:
        PAGE.reset(kept)


@settings(max_examples=200)
@given(found=st.lists(logged, max_size=4), token=st.none() | texts)
def test_every_page_is_what_mlflow_writes(found: list[Logged], token: str | None) -> None:
    ours, theirs = pages(found, token)
    assert json.loads(ours) == json.loads(theirs)


@given(points=st.lists(metrics, max_size=4), token=st.none() | texts)
def test_every_chart_is_what_mlflow_writes(points: list[Metric], token: str | None) -> None:
    history = GetMetricHistory.Response()
    history.metrics.extend([point.to_proto() for point in points])
    if token is not None:
        history.next_page_token = token
    several = GetMetricHistoryBulkInterval.Response()
    several.metrics.extend([MetricWithRunId(point, INFO.run_id).to_proto() for point in points])
    for answer in (history, several):
        expected = message_to_json(answer)
        assert json.loads(to_json(answer)) == json.loads(expected)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_to_json(value: float) -> None:
    row = ("loss", value, 1, 2, math.isnan(value))
    ours, theirs = pages([{"metrics": [row], "params": [], "tags": []}])
    assert json.loads(ours) == json.loads(theirs)
    # The interface reads strict JSON, where a bare NaN would break the whole table.
    assert "NaN" not in ours.replace('"NaN"', "")


def test_other_answers_are_mlflows_own() -> None:
    answer = GetRun.Response()
    answer.run.CopyFrom(Run(INFO, RunData([Metric("loss", 1.0, 1, 2)])).to_proto())
    assert to_json(answer, pretty=False) == message_to_json(answer, pretty=False)
