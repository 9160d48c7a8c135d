"""Did it help? `compare` and the leaderboard rest on the same evidence, and say the same."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner, Result

from kaggleops.cli import main
from kaggleops.errors import UsageError
from kaggleops.reports.comparison import Comparison, compare
from kaggleops.reports.comparison_text import metric_rows, to_json
from kaggleops.reports.leaderboard import Entry, leaderboard
from kaggleops.reports.score import named
from kaggleops.reports.selection import Side
from kaggleops.reports.trainings import Run, with_folds
from kaggleops.tags import COMMIT, ENTRY_POINT, SETTINGS, SUBJECT
from kaggleops.tracking.store import BucketTrackingStore
from tests.reports.lab import Lab

_clock = iter(range(1, 10**6))


def run(
    sha: str,
    score: float | Mapping[str, float],
    launched: str | None = None,
    steps: Mapping[str, int] | None = None,
    **params: str,
) -> Run:
    """Return a run of a commit; `launched`: what was set for it by `kaggleops run`."""
    number = next(_clock)
    found = Run(f"{sha}-{number}", f"{sha}-{number}", "tweets", "1", "FINISHED", number, "")
    found.metrics.update(score if isinstance(score, Mapping) else {"auc": score})
    found.steps.update(dict.fromkeys(found.metrics, 0) | dict(steps or {}))
    found.params.update(params)
    found.tags[COMMIT] = sha
    if launched is not None:
        found.tags.update({ENTRY_POINT: "main", SUBJECT: "a commit"})
        found.tags.update({SETTINGS: launched} if launched else {})
    return found


def folds(
    sha: str, scores: Sequence[float], launched: str | None = None, **params: str
) -> list[Run]:
    return [run(sha, score, launched, fold=str(k), **params) for k, score in enumerate(scores)]


def compared(*sides: Sequence[Run], **options: object) -> Comparison:
    named_sides = [Side(runs[0].sha, runs[0].sha, tuple(runs)) for runs in sides]
    return compare(named_sides, None, **options)  # type: ignore[arg-type]


def board(*sides: Sequence[Run], metric: str = "auc") -> dict[str, Entry]:
    """Return the leaderboard's rows by their commits, each compared with the one before."""
    runs = [each for runs in sides for each in runs]
    shas = [each[0].sha for each in sides]
    before = dict(zip(shas[1:], shas, strict=False))
    return {entry.sha: entry for entry in leaderboard(runs, named(metric), before)}


def test_the_trainings_that_both_have_are_the_answer_in_compare_and_on_the_board() -> None:
    first = [
        run("a", 0.612, "", fold="0", seed="42", epochs="1", lr="0.1"),
        run("a", 0.660, "seed=7 epochs=3", fold="0", seed="7", epochs="3", lr="0.1"),
        *folds("a", (0.50, 0.52, 0.55, 0.51, 0.53), "fold=all epochs=2", epochs="2", lr="0.1"),
    ]
    # What the commit itself changed is no setting: its learning rate is logged, too.
    second = [run("b", 0.609, "", fold="0", seed="42", epochs="1", lr="0.2")]
    found = compared(first, second)
    [line] = found.metrics
    [difference] = line.differences
    assert difference is not None
    assert difference.mean == pytest.approx(-0.003)
    assert [each.mean for each in line.sides if each] == [0.612, 0.609]
    assert found.answers == (
        "Cannot tell whether b is better than a: one run per side."
        " 5 folds per side would be a start.",
    )
    assert found.params == {"lr": ("0.1", "0.2")}
    assert [note for note in found.notes if "Not compared" in note] == [
        "Not compared: auc of a with other settings: epochs=2 (0.522), epochs=3 (0.66)."
    ]
    entry = board(first, second)["b"]
    assert entry.change is not None
    assert entry.change.mean == difference.mean
    assert not entry.regression
    assert board(first, second)["a"].score.mean == 0.660  # ranked by its best


def test_settings_that_both_have_are_lines_of_their_own() -> None:
    sides = [
        [*folds(sha, [score + up for score in (0.5, 0.52, 0.54)], "", lr="1"),
         *folds(sha, [score - up for score in (0.6, 0.61, 0.63)], "lr=2", lr="2")]
        for sha, up in (("a", 0.0), ("b", 0.001))
    ]  # fmt: skip
    found = compared(*sides)
    assert [(line.settings, line.is_marked) for line in found.metrics] == [
        ("", True),
        ("lr=2", False),
    ]
    changes = [line.differences[0].mean for line in found.metrics if line.differences[0]]
    assert changes == pytest.approx([0.001, -0.001])
    assert metric_rows(found)[1][0] == "auc, lr=2"
    change = board(*sides)["b"].change
    assert change is not None
    assert change.mean == pytest.approx(0.001)


def test_of_settings_that_both_have_most_folds_are_the_answer_then_the_newest() -> None:
    # What scored best is neither: the best of several is better by chance.
    sides = [
        [*folds(sha, (0.5, 0.52, 0.54), lr="1"), *folds(sha, (0.4, 0.43, 0.44), lr="2"),
         run(sha, 0.9, fold="0", lr="3")]
        for sha in "ab"
    ]  # fmt: skip
    found = compared(*sides)
    assert [line.settings for line in found.metrics] == ["", "lr=1", "lr=3"]
    assert found.sides[0].runs[0].params["lr"] == "2"
    assert board(*sides)["b"].settings == "lr=2"


def test_folds_in_one_process_are_more_than_a_few_seeds() -> None:
    sides = [
        [run(sha, {f"fold_{k}_auc": score for k, score in enumerate((0.5, 0.52, 0.54))}, lr="1"),
         *[run(sha, 0.6, lr="2", seed=str(seed)) for seed in range(2)]]
        for sha in "ab"
    ]  # fmt: skip
    assert [line.settings for line in compared(*sides).metrics] == ["", "lr=2"]
    assert board(*sides)["b"].settings == "lr=1"


def test_marks_of_a_board_hold_at_once() -> None:
    first = folds("a", (0.50, 0.52, 0.54))
    worse = folds("b", (0.48, 0.495, 0.51))
    # Changes that are chance: each has a mark of its own to lose.
    others = [folds("c", (0.49, 0.48, 0.52)), folds("d", (0.48, 0.50, 0.50))]
    alone, among = board(first, worse)["b"], board(first, worse, *others)["b"]
    assert alone.change is not None
    assert among.change is not None
    assert (alone.regression, among.regression) == (True, False)
    assert among.change.p == pytest.approx(3 * (alone.change.p or 0))


def test_where_no_settings_are_shared_it_is_said_and_nothing_is_marked() -> None:
    first = [*folds("a", (0.5, 0.52, 0.54), lr="1"), *folds("a", (0.5, 0.53, 0.54), lr="2")]
    second = folds("b", (0.7, 0.73, 0.74), lr="3")
    found = compared(first, second)
    assert found.notes[0].startswith(
        "The sides have no settings in common: a has lr=2; b has lr=3."
    )
    assert found.metrics[0].verdict(0) == ""
    assert "their settings differ" in found.answers[0]
    assert not board(second, first)["a"].regression
    assert board(first, second)["b"].settings == "lr=3 against lr=2"  # each its own
    # Nor is it "no difference" where they come to the same.
    same = compared(first, folds("b", (0.5, 0.53, 0.54), lr="3"))
    assert "their settings differ" in same.answers[0]
    assert metric_rows(same)[0][3] == "+0 (their settings differ)"
    # With one training a side, what differs follows from the commits.
    assert compared(first[:3], second).metrics[0].verdict(0) == "better"


def test_seeds_are_repetitions_of_one_training() -> None:
    sides = [
        [run(sha, score + up, random_state=str(seed), lr="1")
         for seed, score in enumerate((0.70, 0.71, 0.72))]
        for sha, up in (("a", 0.0), ("b", 0.1))
    ]  # fmt: skip
    [line] = compared(*sides).metrics
    [difference] = line.differences
    assert difference is not None
    assert (difference.how, difference.seeds) == ("by seed", (3, 3))
    assert line.verdict(0) == ""  # they may owe it to the same few rows
    assert metric_rows(compared(*sides))[0][2] == "0.8100 ± 0.0100 (3 seeds)"
    # Nor is one that was set a setting: the default training is what both have.
    found = compared(
        [run("a", 0.70, "+model.seed=7", lr="1"), run("a", 0.9, "lr=9", lr="9")],
        [run("b", 0.71, "", lr="2"), run("b", 0.9, "lr=8", lr="8")],
    )
    change = found.metrics[0].differences[0]
    assert change is not None
    assert (change.mean, change.why) == (pytest.approx(0.01), "one run per side")


def test_one_run_a_side_has_no_mark_and_the_spread_of_other_seeds_beside_it() -> None:
    others = [run("a", score, lr="9", seed=str(at)) for at, score in enumerate((0.50, 0.52))]
    found = compared([run("a", 0.61, lr="1"), *others], [run("b", 0.65, lr="1")])
    assert found.metrics[0].verdict(0) == ""
    assert "one run per side; seeds alone change a score by ± 0.014" in found.answers[0]
    # They tell nothing of a metric on another scale.
    for each in (*others, *(one for side in found.sides for one in side.runs)):
        each.metrics["rmse"] = 100 * each.metrics["auc"]
    sides = [[found.sides[0].runs[0], *others], list(found.sides[1].runs)]
    score, other = compared(*sides, every_metric=True).metrics
    assert [line.differences[0] and line.differences[0].why for line in (score, other)] == [
        "one run per side; seeds alone change a score by ± 0.014",
        "one run per side",
    ]


def test_seeds_of_the_experiment_tell_what_chance_does_where_both_sides_have_one_run() -> None:
    sides = [[run("a", 0.61, lr="1")], [run("b", 0.65, lr="1")]]
    others = [run("c", score, lr="9", seed=str(at)) for at, score in enumerate((0.50, 0.52))]
    asked: list[tuple[str, str]] = []

    def spread(home: str, metric: str) -> float:
        asked.append((home, metric))
        return 0.0141

    found = compared(*sides, spread=spread)
    said = "one run per side; seeds alone change a score by ± 0.014"
    assert said in found.answers[0]
    assert "it takes at least" in found.answers[0].lower()
    change = board(*sides, others)["b"].change
    assert change is not None
    assert change.why == said
    # It is asked for in no other case.
    assert asked == [("1", "auc")]
    pairs = [folds(sha, (0.5, 0.52, 0.54)) for sha in "ab"]
    compared(*pairs, spread=spread)
    assert len(asked) == 1


def test_rows_of_several_seeds_are_averaged() -> None:
    # Of three seeds, the oldest is the one that got lucky.
    sides = [
        [run(sha, score, seed=str(at)) for at, score in enumerate(scores)]
        for sha, scores in (("a", (0.60,)), ("b", (0.70, 0.58, 0.58)))
    ]

    def rows(one: Run) -> dict[str, dict[str, float]]:
        return {"auc": {str(row): one.metrics["auc"] + row / 1e3 for row in range(30)}}

    found = compared(*sides, rows=rows)
    [difference] = found.metrics[0].differences
    assert difference is not None
    assert difference.mean == pytest.approx(0.02)
    assert (difference.how, difference.rows) == ("rows only", 30)
    assert "over 30 rows only" in metric_rows(found)[0][3]
    assert difference.low is not None
    assert difference.low == pytest.approx(0.02)  # of the newest alone it would be -0.02
    assert found.metrics[0].verdict(0) == ""

    def odd(one: Run) -> dict[str, dict[str, float]]:
        return {"auc": {"1": math.copysign(math.inf, one.metrics["auc"] - 0.6), "2": 0.5}}

    [difference] = compared(*sides, rows=odd).metrics[0].differences
    assert difference is not None
    assert (difference.how, difference.low) == ("", None)


def test_folds_that_only_one_side_has_are_left_out_of_means_and_difference() -> None:
    found = compared(folds("a", (0.5, 0.6, 0.9, 0.9)), folds("b", (0.52, 0.61)))
    first, second = found.metrics[0].sides
    assert first is not None
    assert second is not None
    assert (first.mean, second.mean) == pytest.approx((0.55, 0.565))
    assert found.metrics[0].differences[0].mean == pytest.approx(second.mean - first.mean)  # type: ignore[union-attr]
    assert "Left out of a: auc of fold 2, 3, missing on another side." in found.notes


def test_folds_of_one_process_count_as_folds_under_names_of_their_own() -> None:
    sides = [
        [run(sha, {"rmse": 9.0, "fold_0/rmse": 0.5 - up, "fold_1/rmse": 0.6 - up * 1.1,
                   "fold_2/rmse": 0.7 - up, "lr": 0.1})]
        for sha, up in (("a", 0.0), ("b", 0.1))
    ]  # fmt: skip
    found = compared(*sides)
    [line] = found.metrics
    assert (line.name, line.higher_is_better, line.verdict(0)) == ("rmse", False, "better")
    assert line.sides[0] is not None
    assert (line.sides[0].mean, line.sides[0].folds) == (pytest.approx(0.6), 3)
    assert board(*sides, metric="rmse")["b"].score.folds == 3


def test_the_points_of_a_metric_are_folds_where_its_name_or_the_params_say_so() -> None:
    by_step = [(0, 0.5), (1, 0.6), (2, 0.7)]
    read: list[str] = []

    def points(ids: Sequence[str], metric: str) -> dict[str, list[tuple[int, float]]]:
        read.append(metric)
        return dict.fromkeys(ids, by_step)

    expected = {"0": 0.5, "1": 0.6, "2": 0.7}
    last = {"fold_rmse": 2, "rmse": 0}
    one = run("a", {"fold_rmse": 0.7, "rmse": 0.61}, steps=last)
    for metric in ("rmse", "fold_rmse", "mean_rmse"):
        assert with_folds([one], metric, points)[0].folds == expected
    from_one = {str(step): value for step, (_, value) in enumerate(by_step, 1)}
    by_step[:] = [(int(step), value) for step, value in from_one.items()]
    assert with_folds([one], "rmse", points)[0].folds == from_one
    by_step[:] = [(int(step), value) for step, value in expected.items()]
    rounds = {f"fold_{k}-rmse": 0.7 for k in range(3)}  # LightGBM's curves, a point a round
    of_rounds = run("a", {**rounds, **one.metrics}, steps={**dict.fromkeys(rounds, 30), **last})
    assert with_folds([of_rounds], "rmse", points)[0].folds == expected
    assert set(read) == {"fold_rmse"}
    one = run("a", {"auc": 0.7}, steps={"auc": 2}, n_splits="3")
    assert with_folds([one], "auc", points)[0].folds == expected
    asked = len(read)
    for steps, params in (
        ({"auc": 2}, {}),  # nothing says so
        ({"auc": 2}, {"n_splits": "5"}),  # as many points as epochs, say
        ({"auc": 2}, {"n_splits": "3", "epochs": "3"}),
        ({"auc": 2}, {"n_splits": "3", "fold": "1"}),  # the run is one fold
        ({"auc": 0}, {"n_splits": "3"}),
    ):
        assert (
            with_folds([run("a", {"auc": 0.7}, steps=steps, **params)], "auc", points)[0].folds
            == {}
        )
    assert len(read) == asked  # the bucket was not asked in vain
    by_step.append((5, 0.7))
    assert with_folds([one], "auc", points)[0].folds == {}
    by_step[:] = [(step, 0.7) for step in range(6)]  # of a single fold out of five, six epochs
    one = run("a", {"auc": 0.7}, steps={"auc": 5}, n_splits="5")
    assert with_folds([one], "auc", points)[0].folds == {}


def test_only_scores_are_listed_and_only_the_score_is_marked() -> None:
    extra = {f"f1_class_{k}": k / 300 for k in range(200)} | {"lr": 0.1, "loss": 2.0, "epoch": 3.0}
    sides = [
        [run(sha, {"auc": score, "f1": score, **extra}, fold=str(k))
         for k, score in enumerate(scores)]
        for sha, scores in (("a", (0.5, 0.52, 0.54)), ("b", (0.7, 0.72, 0.75)))
    ]  # fmt: skip
    found = compared(*sides)
    names = [line.name for line in found.metrics]
    assert names[:2] == ["f1", "auc"]
    assert (len(names), found.hidden) == (6, 199)
    assert [line.verdict(0) for line in found.metrics] == ["better", *[""] * 5]
    every = compared(*sides, every_metric=True)
    assert (len(every.metrics), every.hidden) == (205, 0)
    two = compared(*sides, metrics=["auc", "f1"])
    assert [line.verdict(0) for line in two.metrics] == ["better", "better"]
    p = [
        line.differences[0].p for line in (two.metrics[0], found.metrics[0]) if line.differences[0]
    ]
    assert p[0] == pytest.approx(2 * (p[1] or 0))  # of two that are marked, each is held to more
    assert to_json(two)["answers"] == ["b is better than a in auc."]
    with pytest.raises(UsageError, match="none of the metrics looks like a score: epoch, loss, lr"):
        compared(
            [run("a", {"lr": 1, "loss": 1, "epoch": 1})],
            [run("b", {"lr": 1, "loss": 1, "epoch": 1})],
        )


def test_the_usual_script_is_compared_by_its_folds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_index: Path
) -> None:
    lab = Lab(tmp_path)
    client = mlflow.MlflowClient(lab.tracking_uri)
    for sha, scores in ((lab.base, (0.50, 0.52, 0.55)), (lab.worse, (0.70, 0.71, 0.75))):
        run_id = lab.log(sha, "script", {}, 0.0, experiment="house")
        for step, score in enumerate(scores):
            client.log_metric(run_id, "fold_rmse", score, step=step)
        client.log_metric(run_id, "lr", 0.1)
    BucketTrackingStore(lab.tracking_uri).flush()
    mlflow.set_tracking_uri(None)
    database = tmp_path / "index.db"
    database.write_bytes(empty_index.read_bytes())
    monkeypatch.setenv("KAGGLEOPS_INDEX", f"sqlite:///{database}")
    monkeypatch.setenv("KAGGLEOPS_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(lab.repository.folder)

    def ask(*words: str) -> Result:
        command, *others = words
        options = ("--bucket", str(lab.bucket), "--experiment", "house", *others)
        done = CliRunner().invoke(main, [command, *options])
        assert done.exit_code == 0, done.output
        return done

    # Without names: this commit and the one before it that has the score.
    page = tmp_path / "page.html"
    said = ask("compare", "HEAD", "--metric", "fold_rmse", "--html", str(page)).stdout
    assert r'[0.75,"fold 2 \u00b7 seed 1"]' in page.read_text().replace(", ", ",")
    assert "0.5233 ± 0.0252 (3 folds)" in said
    assert "+0.1967" in said
    assert "over 3 folds ▼" in said
    assert f"HEAD ({lab.worse[:10]}) is worse than {lab.base[:10]} in fold_rmse." in said
    # The best run is that with the best mean, whatever its last fold came to.
    for name, scores in (("good", (0.5, 0.52, 0.61)), ("bad", (0.7, 0.71, 0.6))):
        run_id = lab.log(lab.base, name, {"kind": name}, 0.0, experiment="folds")
        for step, score in enumerate(scores):
            client.log_metric(run_id, "fold_rmse", score, step=step)
            client.log_metric(run_id, f"fold_{step}_mae", score)
    BucketTrackingStore(lab.tracking_uri).flush()
    for metric in ("fold_rmse", "mae"):
        options = ("--experiment", "folds", "--metric", metric)
        assert "good" in ask("compare", "bad", "best", *options).stdout
    for sha, seed, score in (
        (lab.base, "1", 0.61),
        (lab.better, "1", 0.65),
        (lab.worse, "1", 0.50),
        (lab.worse, "2", 0.52),
    ):
        lab.log(sha, "seeds", {"seed": seed}, score, experiment="seeds")
    BucketTrackingStore(lab.tracking_uri).flush()
    for words in (("compare", "v1", "idea"), ("leaderboard",)):
        said = ask(*words, "--metric", "jaccard", "--experiment", "seeds").stdout
        assert "seeds alone change a score by ± 0.014" in " ".join(said.split())
    board = ask("leaderboard", "--metric", "fold_rmse").stdout
    assert "0.7200 ± 0.0265 (3 folds)" in board
    assert "+0.1967" in board
    assert "REGRESSION" in board
