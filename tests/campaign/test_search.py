"""What a sweep tries next: a sequence, or what Optuna makes of the trials there are."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaggleops.campaign.search import LEARNERS, SAMPLERS, Search, blind
from kaggleops.campaign.space import split_of
from kaggleops.campaign.sweep import Job, Point, Sweep, Trial, next_number, trial_id
from kaggleops.errors import UsageError

NUMBERS = ("x=interval(-5,5)", "y=interval(-5,5)")
MIXED = ("model=tiny,minilm", "lr=tag(log,interval(1e-5,1e-3))", "rank=range(1,17)")


def sweep(*axes: str, **options: Any) -> Sweep:
    if options.get("sampler", "grid") != "grid":
        options = {"metrics": ["loss"], "directions": ["minimize"], "trials": 40, **options}
    return Sweep(axes, **options)


def trial(number: int, point: Point, value: float | None = None, **more: Any) -> Trial:
    values = None if value is None else [value]
    status = "RUNNING" if value is None else "FINISHED"
    run_id = trial_id("0" * 32, number)
    return Trial(number, run_id, point, **{"jobs": (), "values": values, "status": status, **more})


def run(search: Search, objective: Callable[[Point], float], at_once: int = 1) -> list[Trial]:
    """Return all trials of a search whose jobs end at once, `at_once` of them together."""
    trials: list[Trial] = []
    while not search.exhausted(trials):
        points = search.ask(trials, at_once)
        assert points
        for point in points:
            kept = dict(sorted(point.items()))  # as its tag has it
            trials.append(trial(next_number(trials), kept, objective(point)))
    return trials


def bowl(point: Point) -> float:
    return (float(point["x"]) - 2) ** 2 + (float(point["y"]) + 1) ** 2


def test_a_grid_is_tried_in_order_and_ends() -> None:
    search = Search(sweep("a=1,2", "b=x,y"))
    trials = run(search, lambda _: 1.0, at_once=3)
    assert [dict(each.point) for each in trials] == [
        {"a": "1", "b": "x"},
        {"a": "1", "b": "y"},
        {"a": "2", "b": "x"},
        {"a": "2", "b": "y"},
    ]
    assert search.ask(trials, 1) == []
    assert Search(sweep("a=1,2", "b=x,y", trials=3)).total == 3


def test_folds_alone_are_one_trial_without_a_point() -> None:
    folds = sweep("fold=0,1,2", fold_axis="fold")
    search = Search(folds)
    assert split_of(folds)[1] == ["0", "1", "2"]
    assert (search.ask([], 5), search.total) == ([{}], 1)
    assert search.exhausted([trial(0, {})])


@pytest.mark.parametrize("sampler", SAMPLERS[1:])
def test_two_watchers_propose_the_same_and_no_point_twice(sampler: str) -> None:
    asked = sweep(*MIXED, sampler=sampler, trials=14 if sampler == "gp" else 30)
    trials: list[Trial] = []
    first = Search(asked)
    while not first.exhausted(trials):
        points = first.ask(trials, 4)
        assert points == Search(asked).ask(trials, 4)
        # Some are done, some fail, some are lost, some go on.
        for point in points:
            number = next_number(trials)
            status = ("FINISHED", "FAILED", "RUNNING", "FINISHED", "LOST")[number % 5]
            value = float(number % 7) if status == "FINISHED" else None
            # Its tag does not keep the order of the axes.
            point = dict(sorted(point.items()))
            trials.append(trial(number, point, value, status=status))
    tried = [tuple(each.point.values()) for each in trials]
    assert len(set(tried)) == len(tried) == first.total


@pytest.mark.parametrize("sampler", SAMPLERS[1:])
def test_another_seed_is_another_search(sampler: str) -> None:
    one, other = (Search(sweep(*NUMBERS, sampler=sampler, seed=seed)) for seed in (0, 1))
    assert one.ask([], 3) != other.ask([], 3)


def test_a_sampler_learns_from_the_trials() -> None:
    def found(name: str) -> list[float]:
        asked = sweep(*NUMBERS, sampler=name, trials=60)
        return [each.values[0] for each in run(Search(asked), bowl, at_once=2) if each.values]

    assert sum(found("tpe")[30:]) < 0.7 * sum(found("random")[30:])


@pytest.mark.parametrize("sampler", LEARNERS)
def test_several_metrics_have_a_front(sampler: str) -> None:
    several = sweep(
        *NUMBERS,
        sampler=sampler,
        metrics=["loss", "size"],
        directions=["minimize", "maximize"],
        trials=12 if sampler == "gp" else 40,
    )
    search = Search(several)
    trials: list[Trial] = []
    while not search.exhausted(trials):
        for point in search.ask(trials, 2):
            values = [bowl(point), float(point["x"])]
            number = next_number(trials)
            # A pruned one has no values of several metrics.
            status = "PRUNED" if number == 3 else "FINISHED"
            trials.append(trial(number, point, status=status, values=values))
    assert len(trials) == search.total


def test_trials_under_way_keep_others_away() -> None:
    """Else all that run together would be tried at the best place there is."""
    search = Search(sweep("x=interval(0,1)", sampler="tpe", trials=1000))
    trials = [trial(n, {"x": f"{n / 40}"}, abs(n / 40 - 0.5)) for n in range(41)]
    numbers = [float(each["x"]) for each in search.ask(trials, 12)]
    near = [each for each in numbers if abs(each - numbers[0]) < 1e-4]
    assert len(near) == 1


def test_a_space_that_is_tried_out_ends_before_its_trials() -> None:
    for sampler in ("random", "tpe"):
        search = Search(sweep("b=int(interval(0,2))", "a=1,2,3", sampler=sampler, trials=40))
        trials = run(search, lambda point: float(point["b"]), at_once=2)
        assert len({tuple(each.point.values()) for each in trials}) == len(trials) == 9


def test_a_space_may_have_more_points_than_can_be_counted_off() -> None:
    search = Search(sweep(*(f"{key}=range(10000)" for key in "abcde"), sampler="random"))
    points = [tuple(each.values()) for each in search.ask([], 40)]
    assert len(set(points)) == 40
    assert Search(search.sweep).ask([], 40) == search.ask([], 40)
    assert len({point[0] for point in points}) > 30


def test_what_the_bucket_says_of_no_point_is_passed_over() -> None:
    search = Search(sweep(*MIXED, sampler="tpe"))
    good = [trial(n, each, n) for n, each in enumerate(search.ask([], 12))]
    hostile = [
        trial(12, {}, 1.0),
        trial(13, {"model": "evil", "lr": "1e-4", "rank": "3"}, 1.0),
        trial(14, {"model": "tiny", "lr": "x", "rank": "3"}, 1.0),
        trial(15, {"model": "tiny", "lr": "nan", "rank": "3"}, 1.0),
        trial(16, {"model": "tiny", "lr": "1", "rank": "99"}, 1.0),
        trial(17, {"model": "tiny", "lr": "1e-4", "rank": "3"}, math.nan),
        trial(18, {"model": "tiny", "lr": "1e-4", "rank": "4"}, values=[1.0, 2.0]),
        trial(19, {"model": "tiny", "lr": "1e-4", "rank": "5"}, 1.0, status="ODD"),
    ]
    assert len(search.ask([*good, *hostile], 2)) == 2


def test_a_search_whose_trials_log_another_metric_is_blind() -> None:
    asked = sweep(*NUMBERS, sampler="tpe")

    def ended(number: int, at_ms: int, value: float | None = None) -> Trial:
        jobs = [Job(str(number), number, {}, metrics={"f1": 1.0, "step": 2.0}, ended_ms=at_ms)]
        return trial(number, {}, value, status="FINISHED", jobs=jobs)

    three = [ended(number, 1000 + number) for number in range(3)]
    said = "3 trials finished without loss; they logged f1, step"
    assert blind(asked, three) == said
    assert blind(asked, three[:2]) == ""
    assert blind(asked, [*three, ended(3, 2000, 1.0)]) == ""
    # Whoever resumed it knows.
    assert blind(asked, three, since_ms=1500) == ""
    # A grid is no worse for it.
    assert blind(sweep("a=1,2", metrics=["loss"], directions=["minimize"]), three) == ""
    assert blind(replace(asked, sampler="grid", pruner="median"), three) == said


def test_a_thousand_trials_are_no_matter() -> None:
    search = Search(sweep(*MIXED, sampler="tpe", trials=1002))
    points = Search(sweep(*MIXED, sampler="random", trials=1000)).ask([], 1000)
    trials = [trial(number, point, float(number % 13)) for number, point in enumerate(points)]
    assert len(search.ask(trials, 2)) == 2


@settings(max_examples=20)
@given(
    st.integers(2, 4), st.integers(2, 4), st.sampled_from(["grid", "random", "tpe"]),
    st.lists(st.integers(1, 5), min_size=1, max_size=30), st.integers(1, 30),
)  # fmt: skip
def test_however_many_are_asked_for_at_once(
    wide: int, high: int, sampler: str, sizes: Sequence[int], most: int
) -> None:
    asked = sweep(f"a=range({wide})", f"b=range({high})", sampler=sampler, trials=most)
    trials: list[Trial] = []
    for size in sizes:
        points = Search(asked).ask(trials, size)
        assert len(points) <= size
        trials += [trial(len(trials) + at, point, 1.0) for at, point in enumerate(points)]
    tried = {tuple(each.point.values()) for each in trials}
    assert len(tried) == len(trials) == min(sum(sizes), most, wide * high)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (sweep("a=choice(1)"), "the space has one point"),
        (sweep("a=1"), "nothing is swept"),
        (sweep("a=interval(0,1)"), "a=interval(0,1) is an interval, and has no grid"),
        (sweep("a=int(interval(0,9))"), "is an interval, and has no grid"),
        (sweep("a=1,2", sampler="tpee"), "no sampler 'tpee'. Did you mean tpe?"),
        (sweep("a=1,2", sampler="tpe", trials=None), "Add --trials N"),
        (sweep("a=1,2", sampler="qmc"), "no sampler 'qmc'. There are: grid, random, tpe, gp"),
        (sweep("a=1,2", sampler="tpe", trials=0), "0 runs would be made"),
        (sweep("a=1,2", sampler="tpe", trials=10_001), "10,001 runs would be made"),
        (sweep("a=range(100)", "b=range(101)"), "10,100 runs would be made, and 10,000"),
        (sweep("a=range(4000)", "f=0,1,2", fold_axis="f"), "12,000 runs would be made"),
        (sweep("a=1,2", sampler="tpe", metrics=[], directions=[]), "Add --metric NAME"),
        (sweep("a=1,2", sampler="tpe", directions=[]), "0 directions are given for 1 metrics"),
        (sweep("a=1,2", metrics=["m", "m"], directions=["minimize"] * 2), "is given twice"),
        (sweep("a=1,2", metrics=[" "], directions=["minimize"]), "or has no name"),
        (sweep("a=1,2", pruner="median"), "--pruner needs a metric"),
        (
            sweep("a=1,2", pruner="median", metrics=["a", "b"], directions=["minimize"] * 2),
            "--pruner takes one metric",
        ),
    ],
)
def test_what_cannot_be_searched_gets_one_line(asked: Sweep, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        Search(asked)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_sweep_goes_on_from_its_tag() -> None:
    asked = sweep(*MIXED, sampler="tpe", literal=["model"], budget=2.5, needs={"gpu": "T4"})
    again = Sweep.from_tag(asked.to_tag())
    assert again.to_tag() == asked.to_tag()
    assert Search(again).ask([], 3) == Search(asked).ask([], 3)
    assert replace(again, seed=1).to_tag() != asked.to_tag()
