"""A point is checked as MLflow checks it, however often its metric was logged before."""

from typing import Any

import pytest
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from kaggleops.tracking.store import BucketTrackingStore


@pytest.fixture
def run_id(store: BucketTrackingStore) -> str:
    return store.create_run("0", "ada", 0, [], None).info.run_id


INVALID = [
    {"value": None},
    {"value": "0.5"},
    {"value": True},
    {"timestamp": -1},
    {"timestamp": "now"},
    {"step": None},
    {"step": "1"},
    {"key": "a\nb"},
    {"key": "x" * 251},
]


@pytest.mark.parametrize("logged_before", [False, True])
@pytest.mark.parametrize("fields", INVALID, ids=str)
def test_what_is_no_point_is_refused(
    store: BucketTrackingStore, run_id: str, fields: dict[str, Any], logged_before: bool
) -> None:
    sound = {"key": "loss", "value": 0.5, "timestamp": 1, "step": 1}
    if logged_before:
        store.log_metric(run_id, Metric(**sound))
    with pytest.raises(MlflowException):
        store.log_metric(run_id, Metric(**{**sound, **fields}))
    assert len(store.get_metric_history(run_id, "loss")) == int(logged_before)


@pytest.mark.parametrize("value", [1, 0.5, float("nan"), float("inf"), 10**30])
def test_any_number_is_a_point(store: BucketTrackingStore, run_id: str, value: float) -> None:
    for step in (1, 2.0):
        store.log_metric(run_id, Metric("loss", value, 1, step))
    points = store.get_metric_history(run_id, "loss")
    assert [repr(point.value) for point in points] == [repr(float(value))] * 2
