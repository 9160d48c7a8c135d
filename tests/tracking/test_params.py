"""An entry point's params and a script's own of the same names: neither is lost, no run fails."""

import logging
from collections.abc import Callable

import pytest
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.autologging_utils import MlflowAutologgingQueueingClient

from kaggleops.tracking.store import BucketTrackingStore

Machines = Callable[[], BucketTrackingStore]
PROJECT = [RunTag("mlflow.source.type", "PROJECT")]


def launched(store: BucketTrackingStore) -> str:
    """Begin a run as `mlflow.projects` does, with the entry point's params."""
    run_id = store.create_run("0", "ada", 0, PROJECT, None).info.run_id
    store.log_batch(run_id, [], [Param("lr", "1e-4"), Param("epochs", "3")], [])
    return run_id


@pytest.mark.parametrize("first", ["entry point", "script"])
def test_neither_is_lost_whichever_comes_first(
    first: str, machines: Machines, caplog: pytest.LogCaptureFixture
) -> None:
    launcher, script = machines(), machines()
    run_id = launched(launcher)
    if first == "entry point":
        launcher.flush()
    caplog.set_level(logging.WARNING, "kaggleops")
    # As Lightning's autolog: its own learning rate among others, and then once more.
    own = [Param(f"p{number}", "x") for number in range(12)]
    for _ in range(2):
        script.log_batch(
            run_id, [Metric("loss", 1.0, 1, 0)], [*own[:6], Param("lr", "0.02"), *own[6:]], []
        )
        script.log_param(run_id, Param("epochs", "3.0"))
    for store in (script, launcher, script):
        store.flush()
    params = machines().get_run(run_id).data.params
    assert set(params) == {"lr", "lr.2", "epochs"} | {param.key for param in own}
    expected = ("1e-4", "0.02") if first == "entry point" else ("0.02", "1e-4")
    assert (params["lr"], params["lr.2"]) == expected
    assert len(machines().get_metric_history(run_id, "loss")) == 1
    (said,) = {each for each in caplog.messages if "'lr'" in each}
    assert "is kept as 'lr.2'" in said


ADAM = {
    **{"lr": 0.02, "betas": (0.9, 0.999), "eps": 1e-08, "weight_decay": 0, "amsgrad": False},
    **{"maximize": False, "foreach": None, "capturable": False, "differentiable": False},
    **{"fused": None, "decoupled_weight_decay": False},
}
"""What torch.optim.Adam names its defaults."""


@pytest.mark.parametrize("first", ["entry point", "script"])
def test_lightnings_autolog_beside_an_entry_points_lr(
    first: str, tracking_uri: str, machines: Machines
) -> None:
    launcher = machines()
    run_id = launched(launcher)
    if first == "entry point":
        launcher.flush()
    store = machines()
    # As mlflow.pytorch's callback does at each start of a training: fit, and fit once more.
    for _ in range(2):
        client = MlflowAutologgingQueueingClient(tracking_uri)
        client.set_tags(run_id, {"Mode": "training"})
        client.log_params(run_id, {"epochs": 3, "optimizer_name": "Adam", **ADAM})
        client.flush(synchronous=True)
        client.log_metrics(run_id, {"train_loss": 0.5}, step=1)
        client.flush(synchronous=True)
    for each in (store, launcher, store):
        each.flush()
    run = machines().get_run(run_id)
    assert set(run.data.params) == {"epochs", "optimizer_name", "lr.2", *ADAM}
    assert {run.data.params["lr"], run.data.params["lr.2"]} == {"1e-4", "0.02"}
    assert (run.data.tags["Mode"], run.data.metrics) == ("training", {"train_loss": 0.5})


def test_one_value_in_two_notations_is_no_conflict(
    machines: Machines, caplog: pytest.LogCaptureFixture
) -> None:
    launcher, script = machines(), machines()
    run_id = launched(launcher)
    caplog.set_level(logging.WARNING, "kaggleops")
    script.log_param(run_id, Param("lr", "0.0001"))
    for store in (script, launcher, script):
        store.flush()
    script.log_param(run_id, Param("lr", "0.0001"))
    script.log_param(run_id, Param("lr", "1e-4"))
    assert machines().get_run(run_id).data.params["lr"] in ("0.0001", "1e-4")
    assert caplog.messages == []


@pytest.mark.parametrize("tags", [PROJECT, []])
def test_who_gives_a_param_two_values_is_told(tags: list[RunTag], machines: Machines) -> None:
    store = machines()
    run_id = store.create_run("0", "ada", 0, tags, None).info.run_id
    store.log_param(run_id, Param("lr", "1"))
    for log in (
        lambda: store.log_param(run_id, Param("lr", "2")),
        lambda: store.log_batch(run_id, [], [Param("lr", "2"), Param("other", "1")], []),
    ):
        with pytest.raises(MlflowException, match="Changing param values") as caught:
            log()
        assert caught.value.error_code == "INVALID_PARAMETER_VALUE"
    assert store.get_run(run_id).data.params == {"lr": "1", "other": "1"}


def test_another_value_in_a_run_that_no_entry_point_began_is_refused(machines: Machines) -> None:
    here, there = machines(), machines()
    run_id = here.create_run("0", "ada", 0, [], None).info.run_id
    here.log_param(run_id, Param("lr", "1"))
    here.flush()
    with pytest.raises(MlflowException, match="Changing param values"):
        there.log_param(run_id, Param("lr", "2"))
