"""Traces sent through the server, and what people say of them, are found there."""

from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import (
    Expectation,
    Feedback,
    LoggedModel,
    TraceInfo,
    TraceLocation,
    TraceState,
)
from mlflow.entities.assessment_source import AssessmentSource
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from kaggleops.index.stores import ReplicaTrackingStore
from kaggleops.tracking.store import BucketTrackingStore
from tests.index.conftest import Replicated
from tests.index.corpus import tables

TRACE = "tr-" + "a" * 32


def trace(experiment_id: str) -> TraceInfo:
    place = TraceLocation.from_experiment_id(experiment_id)
    return TraceInfo(trace_id=TRACE, trace_location=place, request_time=1, state=TraceState.OK)


def test_in_a_default_experiment_that_the_bucket_does_not_have(replicated: Replicated) -> None:
    server = ReplicaTrackingStore(replicated.uri)
    server.start_trace(trace("0"))
    model: LoggedModel = server.create_logged_model("0", "model")
    assert [each.trace_id for each in server.search_traces(["0"])[0]] == [TRACE]
    assert [each.model_id for each in server.search_logged_models(["0"])] == [model.model_id]
    assert [each.name for each in server.search_experiments()] == ["Default"]
    # The same again, as a client sends it that has heard no answer.
    server.start_trace(trace("0"))
    assert len(server.search_traces(["0"])[0]) == 1
    before = tables(replicated.index_url)
    assert tables(replicated.anew()) == before


def test_from_a_process_beside_it(replicated: Replicated) -> None:
    notebook = BucketTrackingStore(replicated.tracking_uri)
    notebook.start_trace(trace("0"))
    notebook.flush()
    replicated.refresh()
    server = ReplicaTrackingStore(replicated.uri)
    assert [each.trace_id for each in server.search_traces(["0"])[0]] == [TRACE]
    assert [each.name for each in server.search_experiments()] == ["Default"]


VALUES: dict[str, Any] = {
    "whole": 5,
    "real": 5.0,
    "large": 2**60,
    "yes": True,
    "word": "5",
    "list": [1, 2.5, "a", None],
    "dictionary": {"a": 1, "b": [True, None]},
    "nothing": None,
    "negative": -3,
    "small": 1e-7,
    "huge": 1e300,
    "empty": "",
    "quoted": 'it\'s "5"',
    "letters": "ü☃\n\u2028",
    "long": "x" * 9000,
}
ASKED = [
    f"{kind}.{asked}"
    for kind in ("feedback", "expectation")
    for asked in (
        "whole = '5'",
        "whole = '5.0'",
        "whole > 4",
        "real = '5.0'",
        "real = '5'",
        "yes = 'true'",
        "word = '5'",
        "list LIKE '%2.5%'",
        "nothing = 'null'",
        "nothing IS NOT NULL",
        "nothing IS NULL",
        "whole != '5'",
        "whole >= 5",
        "whole IN ('5', '6')",
        "whole = 5",
        "real < 5.5",
        "large > 1000000000000000000",
        "negative < 0",
        "small = '1e-07'",
        "small < 1",
        "huge > 5",
        "yes = 'True'",
        "yes > 0",
        "yes != 'false'",
        "word > 4",
        "empty = ''",
        "quoted LIKE '%\"5\"%'",
        "letters LIKE '%☃%'",
        "letters ILIKE '%Ü%'",
        "long LIKE 'xxx%'",
        "dictionary LIKE '%null%'",
        "never = '5'",
        "never IS NULL",
    )
]


def found_by(store: Any, home: str, asked: str) -> object:
    """Return how many traces a filter finds, or the code of the refusal."""
    try:
        return len(store.search_traces([home], asked)[0])
    except MlflowException as error:
        return error.error_code


def judged(store: Any) -> tuple[dict[str, list[str]], dict[str, object]]:
    """Say all that on a trace; return what is read of it, and what is found by it."""
    home = store.create_experiment("judged")
    store.start_trace(trace(home))
    source = AssessmentSource(source_type="HUMAN", source_id="ada")
    read: dict[str, list[str]] = {}
    for name, value in VALUES.items():
        wrong = {"error": ValueError("no answer")} if value is None else {}
        said: list[Any] = [Feedback(name=name, value=value, source=source, trace_id=TRACE, **wrong)]
        if value is not None:
            said.append(Expectation(name=name, value=value, source=source, trace_id=TRACE))
        for each in said:
            made = store.create_assessment(each)
            found = store.get_assessment(TRACE, made.assessment_id)
            listed = store.search_traces([home])[0][0].assessments
            [again] = [one for one in listed if one.assessment_id == made.assessment_id]
            read[f"{type(each).__name__} {name}"] = [repr(one.value) for one in (found, again)]
    return read, {asked: found_by(store, home, asked) for asked in ASKED}


@pytest.mark.parametrize("bucket", ["directory"], indirect=True)
def test_what_people_say_of_a_trace_is_read_and_found_as_in_mlflows_sql_store(
    replicated: Replicated, stock_url: str, tmp_path: Path
) -> None:
    stock = judged(SqlAlchemyStore(stock_url, str(tmp_path)))
    assert judged(ReplicaTrackingStore(replicated.uri)) == stock
    assert stock[0]["Feedback whole"] == ["5", "5"]
    assert stock[1]["feedback.whole = '5'"] == 1
    before = tables(replicated.index_url)
    assert tables(replicated.anew()) == before
