"""Which trials are ended as hopeless, and what is said of it."""

import random
from typing import Any

import optuna
import pytest

from kaggleops.campaign.pruning import PRUNERS, Pruner
from kaggleops.campaign.search import Search
from kaggleops.campaign.sweep import Direction, Sweep, Trial, trial_id
from kaggleops.errors import UsageError

optuna.logging.set_verbosity(optuna.logging.WARNING)


def trial(number: int, values: list[float], status: str = "FINISHED", every: int = 100) -> Trial:
    reports = [(every * (at + 1), value) for at, value in enumerate(values)]
    run_id = trial_id("0" * 32, number)
    last = [values[-1]] if status == "FINISHED" else None
    return Trial(number, run_id, {"a": str(number)}, (), last, status, reports)


def why(text: str, trials: list[Trial], direction: Direction = "maximize") -> dict[int, str]:
    found = Pruner(text).hopeless(trials, "jaccard", direction)
    return {each.number: said for each, said in found}


FINISHED = [trial(n, [0.3, 0.5, 0.50 + n / 100]) for n in range(7)]


def test_a_trial_below_the_median_is_ended_and_says_so() -> None:
    low, high = trial(7, [0.2, 0.3, 0.41], "RUNNING"), trial(8, [0.4, 0.5, 0.6], "RUNNING")
    said = "step 300: jaccard 0.41, the median of 7 trials was 0.53"
    assert why("median", [*FINISHED, low, high]) == {7: said}
    # Less is better: now it is the other one, if it was never low.
    high = trial(8, [0.6, 0.7, 0.6], "RUNNING")
    assert list(why("median", [*FINISHED, low, high], "minimize")) == [8]


def test_only_what_runs_is_judged_and_only_by_what_finished() -> None:
    low = [0.2, 0.3, 0.41]
    for status in ("SCHEDULED", "FAILED", "KILLED", "LOST", "PRUNED", "FINISHED"):
        assert why("median", [*FINISHED, trial(7, low, status)]) == {}
    failed = [trial(n, [0.3, 0.5, 0.9], "FAILED") for n in range(7)]
    assert why("median", [*failed, trial(7, low, "RUNNING")]) == {}
    assert why("median", [*FINISHED, trial(7, [], "RUNNING")]) == {}


def test_nobody_is_ended_before_there_is_something_to_compare_with() -> None:
    low = trial(7, [0.2, 0.3, 0.41], "RUNNING")
    assert why("median", [*FINISHED[:4], low]) == {}
    assert list(why("median(startup=3)", [*FINISHED[:4], low])) == [7]
    assert why("median(warmup=400)", [*FINISHED, low]) == {}
    # Nobody was at this step.
    assert why("median", [*FINISHED, trial(7, [0.1], "RUNNING", every=50)]) == {}


def test_the_best_that_it_was_counts() -> None:
    better_before = trial(7, [0.9, 0.3, 0.41], "RUNNING")
    assert why("median", [*FINISHED, better_before]) == {}
    best = trial(7, [0.45, 0.3, 0.41], "RUNNING")
    assert "jaccard 0.41, 0.45 at best, the median" in why("median", [*FINISHED, best])[7]


def test_a_trial_that_gets_no_better_is_ended() -> None:
    flat = trial(7, [0.6, *[0.5] * 5], "RUNNING")
    assert why("patient(patience=3)", [flat]) == {
        7: "step 600: jaccard 0.5, no better for 3 reports"
    }
    assert why("patient(patience=7)", [flat]) == {}


def test_of_those_at_a_rung_the_best_go_on() -> None:
    every = [trial(n, [n / 10] * 4, "RUNNING") for n in range(8)]
    said = why("asha(min=100, factor=4)", every)
    # All stand at the rung of step 400, and a quarter goes on.
    assert sorted(said) == [0, 1, 2, 3, 4, 5]
    assert said[0] == "step 400: jaccard 0, the best 2 of 8 had 0.6 or better"
    # One that has come further is judged where it stands.
    ahead = trial(0, [0.0] * 16, "RUNNING")
    assert 0 not in why("asha(min=100, factor=4)", [ahead, *every[1:]])
    # Without `min`, nobody knows the first rung before a trial has ended.
    assert why("asha", every) == {}
    assert sorted(why("asha", [*every, trial(8, [0.9] * 4)])) == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("asha(min=2, factor=3)", optuna.pruners.SuccessiveHalvingPruner(2, 3)),
        ("median(startup=3)", optuna.pruners.MedianPruner(3)),
        ("patient(patience=4, delta=0.3)", optuna.pruners.PatientPruner(None, 4, 0.3)),
    ],
)
def test_it_is_what_optuna_does_where_it_is_there_at_every_report(
    ours: str, theirs: optuna.pruners.BasePruner, direction: Direction, seed: int
) -> None:
    draw = random.Random(seed)
    study = optuna.create_study(direction=direction, pruner=theirs)
    done: list[Trial] = []
    for number in range(25):
        asked = study.ask()
        values = [draw.random() for _ in range(30)]
        ended = ""
        for step in range(1, 31):
            asked.report(values[step - 1], step)
            mine = trial(number, values[:step], "RUNNING", every=1)
            found = Pruner(ours).hopeless([*done, mine], "x", direction)
            assert bool(found) == asked.should_prune()
            if found:
                ended = "PRUNED"
                break
        state = optuna.trial.TrialState.PRUNED if ended else optuna.trial.TrialState.COMPLETE
        study.tell(asked, None if ended else values[-1], state=state)
        done.append(trial(number, values[:step], ended or "FINISHED", every=1))
    assert {each.status for each in done} == {"PRUNED", "FINISHED"}


def test_a_search_passes_its_metric_on() -> None:
    asked = Sweep(
        ["a=range(9)"], metrics=["jaccard"], directions=["maximize"], pruner="median(startup=3)"
    )
    low = trial(7, [0.2, 0.3, 0.41], "RUNNING")
    assert [each.number for each, _ in Search(asked).hopeless([*FINISHED, low])] == [7]
    assert Search(Sweep(["a=range(9)"])).hopeless([*FINISHED, low]) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("medain", "no pruner 'medain'. Did you mean median?"),
        ("median(startup=5", "no pruner 'median(startup=5'"),
        ("__import__('os')", "no pruner '__import__'"),
        ("median(5)", "median has no argument '5'. It takes: startup, warmup, trials"),
        ("median(startup=1.5)", "startup has to be a whole number"),
        ("median(startup=x)", "startup has to be a whole number"),
        ("median(startup=-1)", "startup has to be a whole number, at least 0"),
        ("asha(factor=1)", "factor has to be a whole number, at least 2"),
        (f"patient(delta={10**400})", "delta has to be a number"),
    ],
)
def test_what_is_no_pruner_gets_one_line(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        Pruner(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", PRUNERS)
def test_a_trial_that_logs_no_number_ends_no_watcher(name: str) -> None:
    odd: list[Any] = [trial(7, [float("nan")] * 3, "RUNNING"), trial(8, [float("inf")], "RUNNING")]
    why(name, [*FINISHED, *odd, trial(9, [float("nan")])])
