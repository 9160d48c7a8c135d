"""A point is checked as MLflow checks it, however often its metric was logged before."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from kaggleops.mlruns import run
from kaggleops.tracking.store import BucketTrackingStore

Machines = Callable[[], BucketTrackingStore]


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
    {"step": 2**63},
    {"step": float("nan")},
    {"timestamp": 10**25},
    {"value": 10**400},
    {"value": 1j},
    {"key": "a\n"},
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


@pytest.mark.parametrize("value", [1, 0.5, float("nan"), float("inf"), 10**30, Fraction(1, 3)])
def test_any_number_is_a_point(store: BucketTrackingStore, run_id: str, value: float) -> None:
    for step in (1, 2.0):
        store.log_metric(run_id, Metric("loss", value, 1, step))
    points = store.get_metric_history(run_id, "loss")
    assert [repr(point.value) for point in points] == [repr(float(value))] * 2


def test_an_equal_point_is_one_point_however_often_a_model_is_logged(
    machines: Machines,
) -> None:
    here, there = machines(), machines()
    home = here.create_experiment("folds")
    run_id = here.create_run(home, "ada", 0, [], None).info.run_id
    for fold in range(13):
        store = (here, there)[fold % 2]
        store.log_metric(run_id, Metric("acc", 0.5 + fold, fold, 0))
        store.log_metric(run_id, Metric("loss", 1.0, 7, 0))
        model = store.create_logged_model(home, f"fold-{fold}", run_id).model_id
        # As `log_model` does: the history of its step once more, for the model.
        for name in ("acc", "loss"):
            again = [
                Metric(name, point.value, point.timestamp, point.step, model_id=model)
                for point in store.get_metric_history(run_id, name)
            ]
            store.log_batch(run_id, again, [], [])
        store.flush()
    here.flush()
    found = machines()
    assert sorted(each.value for each in found.get_metric_history(run_id, "acc")) == [
        0.5 + fold for fold in range(13)
    ]
    stored = found._working.store.read(run(home, run_id))
    assert stored is not None
    assert stored.entity.files["metrics/acc"].count(b"\n") == 13
    assert stored.entity.files["metrics/loss"] == b"7 1.0 0\n"
    # All points, as a SQL store tells them: the last one first.
    told = found.get_logged_model(model).metrics or []
    assert {each.key: each.value for each in reversed(told)}["acc"] == 12.5


def test_points_that_differ_are_kept(store: BucketTrackingStore, run_id: str) -> None:
    points = [(0.5, 1, 0), (0.5, 2, 0), (0.25, 1, 0), (0.5, 1, 1), (0.5, 1, 0)]
    for value, time, step in points:
        store.log_metric(run_id, Metric("loss", value, time, step))
    history = store.get_metric_history(run_id, "loss")
    assert [(each.value, each.timestamp, each.step) for each in history] == points[:-1]


def test_a_dataset_with_a_space_in_its_name_spoils_no_run(machines: Machines) -> None:
    here = machines()
    run_id = here.create_run("0", "ada", 0, [], None).info.run_id
    model = here.create_logged_model("0", "m", run_id).model_id
    of_model = Metric("f1", 0.5, 1, 2.0, model, dataset_name="my tweets", dataset_digest="d 1")
    here.log_batch(run_id, [of_model], [], [])
    here.log_metric(run_id, Metric("acc", 0.5, 1, 3, dataset_name="my tweets", dataset_digest="d1"))
    here.flush()
    (point,) = machines().get_metric_history(run_id, "acc")
    assert (point.value, point.step) == (0.5, 3)
    assert machines().get_run(run_id).data.metrics == {"acc": 0.5, "f1": 0.5}
    (found,) = machines().get_logged_model(model).metrics or []
    assert (found.value, found.step) == (0.5, 2)
    assert found.dataset_name == "my\N{NO-BREAK SPACE}tweets"
