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
    Param,
    Run,
    RunData,
    RunInfo,
    RunInputs,
    RunTag,
)
from mlflow.entities.metric import MetricWithRunId
from mlflow.protos.service_pb2 import (
    GetMetricHistory,
    GetMetricHistoryBulkInterval,
    GetRun,
    SearchRuns,
)
from mlflow.utils.proto_json_utils import message_to_json

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
logged = st.builds(
    RunData,
    st.lists(metrics, max_size=3),
    st.lists(st.builds(Param, texts, texts), max_size=3),
    st.lists(st.builds(RunTag, texts, texts), max_size=3),
)
runs = st.builds(Run, st.just(INFO), logged, st.none() | st.just(INPUTS))


@settings(max_examples=200)
@given(found=st.lists(runs, max_size=4), token=st.none() | texts)
def test_every_page_is_what_mlflow_writes(found: list[Run], token: str | None) -> None:
    page = SearchRuns.Response()
    page.runs.extend([run.to_proto() for run in found])
    if token is not None:
        page.next_page_token = token
    expected = message_to_json(page)
    assert json.loads(to_json(page)) == json.loads(expected)


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
    run = Run(INFO, RunData([Metric("loss", value, 1, 2)]))
    page = SearchRuns.Response()
    page.runs.append(run.to_proto())
    written = message_to_json(page)
    assert json.loads(to_json(page)) == json.loads(written)
    # The interface reads strict JSON, where a bare NaN would break the whole table.
    assert "NaN" not in written.replace('"NaN"', "")


def test_other_answers_are_mlflows_own() -> None:
    answer = GetRun.Response()
    answer.run.CopyFrom(Run(INFO, RunData([Metric("loss", 1.0, 1, 2)])).to_proto())
    assert to_json(answer, pretty=False) == message_to_json(answer, pretty=False)
