"""Of which experiment the runs of two commits are compared."""

import pytest

from kaggleops.errors import UsageError
from kaggleops.reports.comparison import compare
from kaggleops.reports.selection import Side
from kaggleops.reports.trainings import Run


def side(word: str, **scores: list[float]) -> Side:
    """Return a commit with runs of experiments, a fold for each score."""
    runs = [
        Run(f"{word}{name}{fold}", "", name, name, "FINISHED", 1 + fold, "",
            params={"fold": str(fold), "task": "tweets"}, metrics={name[:3]: score, "f1": score})
        for name, each in scores.items() for fold, score in enumerate(each)
    ]  # fmt: skip
    return Side(word, word * 40, tuple(runs))


def test_runs_of_other_experiments_are_left_out_and_named() -> None:
    first = side("a", full=[0.6, 0.7], small=[0.1])
    second = side("b", full=[0.8, 0.9], other=[0.2, 0.2, 0.2])
    found = compare([first, second], None, metrics=["f1"])
    [line] = found.metrics
    assert [round(each.mean, 4) for each in line.sides if each] == [0.65, 0.85]
    assert {run.experiment for each in found.sides for run in each.runs} == {"full"}
    assert "Only runs of full are compared, not those of other, small." in found.notes


def test_of_several_experiments_the_one_with_the_metric_and_most_runs_counts() -> None:
    sides = [side("a", full=[0.6], small=[0.1, 0.2]), side("b", full=[0.8], small=[0.3, 0.4])]
    for metric, chosen in (("f1", "small"), ("ful", "full")):
        found = compare(sides, None, metrics=[metric])
        assert {run.experiment for each in found.sides for run in each.runs} == {chosen}
        assert any("--experiment NAME compares others." in note for note in found.notes)


def test_runs_without_the_metric_do_not_choose_the_experiment() -> None:
    sides = [side(word, small=[0.1, 0.2], full=[0.6, 0.7, 0.8]) for word in "ab"]
    for run in (run for each in sides for run in each.runs if run.experiment == "full"):
        if run.params["fold"] != "0":
            del run.metrics["f1"]
    found = compare(sides, None, metrics=["f1"])
    assert {run.experiment for each in found.sides for run in each.runs} == {"small"}


def test_sides_that_share_no_experiment_are_compared_only_where_nothing_is_mixed() -> None:
    alone = compare([side("a", full=[0.6]), side("b", small=[0.8])], None, metrics=["f1"])
    assert all(alone.metrics[0].sides)
    mixed = side("b", small=[0.8], other=[0.2])
    with pytest.raises(UsageError, match=r"share no experiment: a has full; b has other, small"):
        compare([side("a", full=[0.6]), mixed], None)
