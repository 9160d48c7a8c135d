"""Whether two runs agree."""

import math

import pytest

from kaggleops.reports.comparison import Agreement, agreement
from kaggleops.reports.trainings import Run


def compared(
    first: dict[str, float], second: dict[str, float], tolerance: float = 0.0
) -> Agreement:
    one, other = (
        Run(name, name, "tweets", "1", "FINISHED", 0, "", metrics=metrics)
        for name, metrics in (("a", first), ("b", second))
    )
    return agreement(one, other, tolerance)


@pytest.mark.parametrize("name", ["sentiment_acc", "centimeters", "timeline_f1", "loss"])
def test_a_result_that_differs_is_named(name: str) -> None:
    found = compared({name: 0.9, "f1": 0.5}, {name: 0.8, "f1": 0.5})
    assert found.metrics == {name: (0.9, 0.8)}
    assert not found.agree


@pytest.mark.parametrize(
    "name", ["train_runtime", "eval_samples_per_second", "time", "epoch/time_s", "total_flos"]
)
def test_how_fast_it_was_is_no_result(name: str) -> None:
    found = compared({name: 1.0, "f1": 0.5}, {name: 2.0, "f1": 0.5})
    assert (found.metrics, found.equal, found.agree) == ({}, 1, True)


def test_what_is_no_number_agrees_with_itself_alone() -> None:
    odd = {"nan": math.nan, "inf": math.inf}
    assert compared(odd, odd).agree
    found = compared({"f1": math.nan, "loss": math.inf}, {"f1": 0.5, "loss": -math.inf}, 0.5)
    assert set(found.metrics) == {"f1", "loss"}
    assert set(compared({"f1": math.nan}, {}).metrics) == {"f1"}
