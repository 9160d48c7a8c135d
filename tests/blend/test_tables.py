"""What members' tables hold, and which do not belong together."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from kaggleops.blend.members import Options
from kaggleops.blend.report import Blend, blend
from kaggleops.errors import UsageError
from kaggleops.reports.score import Score
from tests.blend.world import member, noisy, rows

ROWS = rows()
TRUTH = np.random.default_rng(0).normal(10, 3, len(ROWS))
RMSE = Score("rmse", lower=True)
MAE = Score("mae", lower=True)


def table(seed: int, spread: float = 1.0) -> pd.DataFrame:
    return ROWS.assign(target=TRUTH, prediction=noisy(TRUTH, spread, seed))


def blended(
    *tables: pd.DataFrame, score: Score | None = RMSE, options: Options | None = None
) -> Blend:
    members = [member(name, each) for name, each in zip("abc", tables, strict=False)]
    return blend(members, options or Options(), score)


def test_rows_in_another_order_and_folds_of_other_names_are_the_same_rows() -> None:
    other = (
        table(2)
        .sample(frac=1, random_state=3)
        .assign(fold=lambda each: "f" + each["fold"].astype(str))
    )
    found = blended(table(1), other)
    assert found.nested.weights.values == pytest.approx([0.5, 0.5], abs=0.1)
    assert found.mean == pytest.approx(0.7, abs=0.1)  # 1 / sqrt(2) of two that err by 1 alone
    assert found.verdict == "better"
    assert found.answer.startswith("The blend is better than ")
    assert abs(found.correlation[0, 1] - 0.9) < 0.05
    assert list(found.oof) == ["id", "fold", "target", "prediction"]
    assert found.notes == (
        "There is no submission: a has no predictions.csv, submission.csv or (with --sample) "
        "test.npy, and no run that predicted with its models.",
    )


def change(**columns: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def make(found: pd.DataFrame) -> pd.DataFrame:
        for name, value in columns.items():
            found[name] = found[name].astype(object)
            found.loc[7, name] = value
        return found

    return make


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (
            lambda t: pd.concat([t, t[3:5]]),
            r"reading the oof\.csv of b: 2 rows are there twice, id 'r3' for one\. Each row",
        ),
        (
            lambda t: t[:-2],
            r"blending a and b: oof\.csv of a has 2 rows that b has not, 'r198' for one\.",
        ),
        (
            change(id="s7"),
            r"blending a and b: oof\.csv of a has 1 rows that b has not, 'r7' for one",
        ),
        (
            change(fold=4),
            r"blending a and b: their folds differ: 'r7' is in fold 2 of a and in fold 4 of b",
        ),
        (
            change(target=99.5),
            r"blending a and b: they differ in what is right of 1 rows: of 'r7' .* '99\.5'",
        ),
        (
            change(prediction="nan"),
            r"the oof\.csv of b: 'nan' in the column prediction is no number, in the row 'r7'",
        ),
        (
            change(prediction="1_000"),  # which Python reads as a number, and pandas does not
            r"the oof\.csv of b: '1_000' in the column prediction is no number, in the row 'r7'",
        ),
        (
            lambda t: t.rename(columns={"prediction": "model"}),
            r"the oof\.csv of b: no column holds predictions: model\. .*--prediction COL",
        ),
    ],
)
def test_what_does_not_belong_together_is_refused_by_its_name(
    make: Callable[[pd.DataFrame], pd.DataFrame], line: str
) -> None:
    with pytest.raises(UsageError, match=line):
        blended(table(1), make(table(2)))


def test_numbers_are_no_classes() -> None:
    line = r"reading the column target: it has 200 different numbers, which are no classes\. Name a"
    with pytest.raises(UsageError, match=line):
        blended(table(1), table(2), score=Score("f1", lower=False))
    unknown = [table(seed).assign(target=[*TRUTH[1:], "nan"]) for seed in (1, 2)]
    for score in (RMSE, Score("f1", lower=False)):
        with pytest.raises(UsageError, match=r"'nan' of 'r199' is no number\. Leave such rows"):
            blended(*unknown, score=score)


def test_columns_that_are_named_have_to_fit() -> None:
    for names, line in (
        (("prediction", "nope"), "it has no column nope of predictions: prediction"),
        (("prediction", "prediction"), "2 columns of predictions are named, and there are no cl"),
    ):
        with pytest.raises(UsageError, match=line):
            blended(table(1), table(2), options=Options(prediction=names))


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_huge_numbers_are_scored_without_warnings() -> None:
    found = blended(*(table(1).assign(prediction=scale * TRUTH) for scale in (1, 1e300)), score=MAE)
    assert found.nested.weights.values.tolist() == [1, 0]


def test_a_class_that_a_fold_lacks_is_named() -> None:
    rare = ROWS.assign(target=np.where(ROWS["fold"] == 0, "c", np.where(TRUTH > 10, "a", "b")))
    rare[["probability_a", "probability_b", "probability_c"]] = 0.25, 0.25, 0.5
    with pytest.raises(UsageError, match="scoring auc: a fold has no row of 'c': Number"):
        blended(rare, rare, score=Score("auc", lower=False))
    empty = rare.assign(probability_c=[0.0, *rare["probability_c"][1:]])
    empty.loc[0, ["probability_a", "probability_b"]] = 0.0
    with pytest.raises(UsageError, match="scoring logloss: the probabilities of a row add up to 0"):
        blended(rare, empty, score=Score("logloss", lower=True))


def test_what_a_table_lacks_is_named_and_can_be_given() -> None:
    bare = [table(seed).drop(columns=["target", "fold"]) for seed in (1, 2)]
    with pytest.raises(
        UsageError, match=r"no column says what is right: prediction\. .*--truth FILE"
    ):
        blended(*bare)
    options = Options(truth=ROWS.assign(price=TRUTH)[["id", "price"]].astype(str))
    with pytest.raises(UsageError, match=r"it has no column fold\. .*--folds FILE"):
        blended(*bare, options=options)
    folds = ROWS.astype(str).sample(frac=1, random_state=0)
    found = blended(*bare, options=Options(truth=options.truth, folds=folds))
    assert found.mean == pytest.approx(blended(table(1), table(2)).mean)
    with pytest.raises(
        UsageError, match=r"the file of --folds: it lacks 5 rows of the members, 'r0'"
    ):
        blended(*bare, options=Options(truth=options.truth, folds=ROWS.astype(str)[5:]))
    one = [each.assign(fold="0") for each in (table(1), table(2))]
    with pytest.raises(UsageError, match=r"the rows are of 1 fold\. An honest score needs 2 to 50"):
        blended(*one)
    with pytest.raises(UsageError, match=r"its runs declare no score\. Name a metric"):
        blended(table(1), table(2), score=None)


def test_a_fold_that_was_trained_on_and_a_score_of_other_rows_are_told() -> None:
    seen = table(2)
    seen.loc[seen["fold"] == 3, "prediction"] = TRUTH[seen["fold"] == 3] + 0.01
    members = [member("a", table(1), rmse=0.92), member("b", seen, rmse=0.5), member("c", table(3))]
    notes = blend(members, Options(), RMSE).notes
    assert len(notes) == 3, notes
    assert notes[0].startswith("b looks as if it was trained on fold 3: it scores 0.01 there")
    assert notes[1].startswith("b logged rmse 0.5000, and its table scores 0.8")


def test_two_classes_are_blended_as_probabilities_and_handed_in_as_answers() -> None:
    right = np.random.default_rng(1).integers(0, 2, len(ROWS))

    def of(seed: int, spread: float = 0.5) -> pd.DataFrame:
        shares = 1 / (1 + np.exp(-noisy(4.0 * right - 2, 4 * spread, seed)))
        return ROWS.assign(
            keyword="fire", target=right, probability=shares, prediction=(shares > 0.5).astype(int)
        )

    test = of(9)[["id", "probability", "prediction"]]
    members = [member("a", of(1), test), member("b", of(2), test), member("c", of(3, 5.0), test)]
    found = blend(members, Options(), Score("accuracy", lower=False))
    assert found.scores.keys() == {(str(fold), "") for fold in range(5)}
    assert found.nested.weights.values[2] < 0.15  # it knows next to nothing
    assert found.submission is not None
    assert found.submission.columns.tolist() == ["id", "target"]
    assert found.submission["target"].tolist() == test["prediction"].astype(str).tolist()
    assert found.notes == ()
    # Another threshold calls other rows disasters.
    strict = blend(members[:2], Options(threshold=0.99), Score("accuracy", lower=False))
    assert (strict.oof["prediction"] == "1").sum() < (found.oof["prediction"] == "1").sum()
    # Where the answers are all there is, the members vote; that has no probability.
    answers = [member(n, of(s).drop(columns="probability")) for n, s in (("a", 1), ("b", 2))]
    voted = blend(answers, Options(), Score("accuracy", lower=False))
    assert "the members vote" in voted.notes[0]
    assert list(voted.oof) == ["id", "fold", "target", "prediction"]
    assert set(voted.oof["prediction"]) == {"0", "1"}
    with pytest.raises(UsageError, match="blending a: it has answers, and auc needs probabilities"):
        blend(answers, Options(metric="auc"), None)
    # Of the test rows alone: the same for a metric of answers; for another, no submission.
    handed_in = [
        replace(each, predictions=None, submission=test[["id", "prediction"]].astype(str))
        for each in members[:2]
    ]
    assert (
        "the members vote" in blend(handed_in, Options(), Score("accuracy", lower=False)).notes[0]
    )
    alone = blend(handed_in, Options(metric="auc"), None)
    assert alone.submission is None
    assert "that of a holds answers, and auc needs probabilities" in alone.notes[0]


def test_the_rows_of_queries() -> None:
    draw = np.random.default_rng(5)
    many = rows(600)
    queries, relevance = np.arange(600) // 10, draw.integers(0, 3, 600)
    many = many.assign(fold=queries % 4, query=queries, target=relevance)

    def ranked(seed: int) -> pd.DataFrame:
        return many.assign(score=noisy(relevance, 1.5, seed))

    best = blended(ranked(1), ranked(2), score=Score("ndcg@5", lower=False))
    assert len(best.scores) == 4
    assert best.mean > max(np.mean(list(each.values())) for each in best.alone)
    with pytest.raises(UsageError, match=r"no member's oof\.csv has the column asked"):
        blended(ranked(1), ranked(2), options=Options(group="asked"))


def test_several_classes_are_blended_as_probabilities() -> None:
    draw = np.random.default_rng(2)
    right = draw.integers(0, 3, len(ROWS))
    names = np.array(["cat", "dog", "eel"])

    def of(seed: int) -> pd.DataFrame:
        logits = 2 * np.eye(3)[right] + np.random.default_rng(seed).normal(0, 1.5, (len(ROWS), 3))
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        columns = {f"proba_{name}": shares[:, at] for at, name in enumerate(names)}
        return ROWS.assign(label=names[right], **columns)

    found = blended(of(1), of(2), score=Score("log_loss", lower=True))
    assert found.mean < min(np.mean(list(each.values())) for each in found.alone)
    assert list(found.oof)[3:] == [
        "probability_cat",
        "probability_dog",
        "probability_eel",
        "prediction",
    ]
    assert found.oof.iloc[:, 3:6].sum(axis=1).to_numpy() == pytest.approx(1)


def test_text_has_no_mean() -> None:
    text = ROWS.assign(selected_text=[f"words {at}" for at in range(len(ROWS))])
    text["prediction"] = text["selected_text"]
    options = Options(target="selected_text")
    line = r"column selected_text: it has 200 different texts, which are .* keep numbers in oof.npy"
    with pytest.raises(UsageError, match=line):
        blended(text, text, score=Score("jaccard", lower=False), options=options)
    with pytest.raises(UsageError, match=r"'words 0' of 'r0' is no number"):
        blended(text, text, options=options)
