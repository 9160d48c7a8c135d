"""Which runs count when a commit is looked for: those set as the runs at both ends were."""

from collections.abc import Sequence

import pytest

from kaggleops.reports.evidence import EntryPoint, Evidence, Training, evidence, training, trials
from kaggleops.reports.history import Run

MAIN = EntryPoint("main", {"model": "tiny", "fold": "0", "overrides": ""})
UNKNOWN = EntryPoint("")


def run(
    name: str,
    score: float | None = None,
    status: str = "FINISHED",
    at: int = 1,
    tags: dict[str, str] | None = None,
    **params: str,
) -> Run:
    """A run of the entry point `main`, or of none where `tags` says so."""
    return Run(
        id=name, name=name, experiment="tweets", experiment_id="1", status=status, started_ms=at,
        ended_ms=0, artifacts="", params=params,
        tags={"mlflow.project.entryPoint": "main", **(tags or {})},
        metrics={} if score is None else {"f1": score},
    )  # fmt: skip


def part(of: str, fold: int, score: float) -> Run:
    """A fold below another run."""
    tags = {"mlflow.parentRunId": of}
    return run(f"{of}-{fold}", score, tags=tags, fold=str(fold), seed="1", lr="0.1")


def found(good: Sequence[Run], bad: Sequence[Run], entry_point: EntryPoint = MAIN) -> Training:
    of = training(*(trials(each, entry_point, "f1") for each in (good, bad)), entry_point)
    assert of is not None
    return of


def said(of: Training, *runs: Run) -> Evidence:
    return evidence(of, trials(runs, of.entry_point, "f1"), "f1")


FOLDS = [run(f"g{fold}", 0.8, fold=str(fold), model="tiny") for fold in range(3)]
BAD = [run(f"b{fold}", 0.5, fold=str(fold), model="tiny", lr="9") for fold in range(2)]


def test_a_commit_has_a_score_once_all_folds_that_both_ends_have_are_there() -> None:
    of = found(FOLDS, BAD)
    assert [trial.run.id for trial in of.trials] == ["b0", "b1"]
    zero, one = (run(f"x{fold}", 0.6 + fold / 10, fold=str(fold)) for fold in range(2))
    assert said(of, zero, one, run("x2", 0.1, fold="2")).score == pytest.approx(0.65)
    assert said(of, zero) == Evidence(missing=(BAD[1],))
    assert said(of, zero, run("again", 0.7, at=2, fold="0"), one).score == pytest.approx(0.7)


def test_runs_that_were_set_otherwise_do_not_count() -> None:
    of = found(FOLDS, BAD)
    zero, one = (run(f"x{fold}", 0.6, fold=str(fold), model="large") for fold in range(2))
    assert said(of, zero, one) == Evidence(missing=tuple(BAD))
    changed = [run(f"x{fold}", 0.6, fold=str(fold), overrides="lr=1") for fold in range(2)]
    of = found(
        [*FOLDS, run("o", 0.9, fold="0", overrides="lr=2 seed=1", at=9)],
        [run("p", 0.4, fold="0", overrides="seed=1 lr=2", seed="1")],
    )
    assert said(of, *changed).missing == (of.like,)
    assert said(of, run("x", 0.6, fold="0", overrides="lr=2 seed=1", seed="1")).score == 0.6
    # Another entry point's, and what had changes that are in no commit.
    assert said(of, run("x", 0.6, tags={"mlflow.project.entryPoint": "gather"})).score is None
    assert said(of, run("x", 0.6, fold="0", tags={"uncommitted": "yes"})).score is None
    assert training(*(trials(each, MAIN, "f1") for each in ([zero], BAD)), MAIN) is None


def test_seeds_among_the_overrides_are_repetitions_of_one_training() -> None:
    good, bad = (
        [run(f"{name}{seed}", score, fold="0", overrides=f"seed={seed} lr=2") for seed in (1, 2)]
        for name, score in (("g", 0.8), ("b", 0.5))
    )
    of = found(good, bad)
    assert [trial.run.id for trial in of.trials] == ["b1", "b2"]
    assert said(of, run("x", 0.6, fold="0", overrides="lr=2 seed=2")).missing == (bad[0],)


def test_what_a_commit_changes_by_itself_is_no_setting() -> None:
    """`lr` and `seed` are logged, and nobody set them: they are what the code has."""
    of = found([run("g", 0.8, fold="0", lr="1", seed="1")], [run("b", 0.5, fold="0", seed="7")])
    assert said(of, run("x", 0.6, fold="0", lr="5", seed="3")).score == 0.6


def test_folds_that_are_parts_of_a_run_are_that_runs() -> None:
    of = found(
        [run("g", fold="all"), *(part("g", fold, 0.8) for fold in range(2))],
        [run("b", fold="all"), *(part("b", fold, 0.5) for fold in range(2))],
    )
    assert [trial.run.id for trial in of.trials] == ["b"]
    whole = said(of, run("x", fold="all"), part("x", 0, 0.6), part("x", 1, 0.7))
    assert whole.score == pytest.approx(0.65)
    assert said(of, run("x", fold="all", status="KILLED"), part("x", 0, 0.6)).missing == (of.like,)


def test_what_is_under_way_is_waited_for_and_what_failed_is_given_up() -> None:
    of = found(FOLDS, BAD[:1])
    for status in ("RUNNING", "SCHEDULED"):
        waiting = run("x", status=status, fold="0")
        assert said(of, waiting) == Evidence(pending=(waiting,))
    assert said(of, run("x", status="RUNNING", fold="1")).missing == (BAD[0],)
    failed = run("x", status="FAILED", fold="0")
    assert said(of, failed).trouble == "its run x failed"
    assert said(of, failed, run("y", status="RUNNING", fold="0", at=2)).trouble == ""
    assert said(of, run("x", fold="0")).trouble == "its run x has no f1"
    # A machine that went away and a platform that refused it say nothing of the commit.
    for tags in ({"lost": "last heard at 12:00"}, {"job_ended": "refused: no quota"}):
        assert said(of, run("x", status="FAILED", tags=tags, fold="0")).missing == (BAD[0],)


def test_without_an_entry_point_the_settings_are_what_both_ends_have_in_common() -> None:
    tags = {"mlflow.project.entryPoint": ""}
    of = found(
        [run("g", 0.8, tags=tags, lr="1", model="tiny", fold="0")],
        [
            run("b", 0.5, tags=tags, lr="9", model="tiny", fold="0"),
            run("c", 0.1, tags=tags, lr="10", model="tiny", fold="0", at=0),
        ],
        UNKNOWN,
    )
    assert of.like.id == "b"
    assert said(of, run("x", 0.6, tags=tags, lr="5", model="tiny", fold="0")).score == 0.6
    assert said(of, run("x", 0.6, tags=tags, lr="1", model="large", fold="0")).score is None
