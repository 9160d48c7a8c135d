"""A metric by name: what scikit-learn says, whatever people call it."""

from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics

from kaggleops.blend.metrics import Truth, by_name, canonical, own, score_as, wants_numbers
from kaggleops.errors import UsageError
from kaggleops.reports.score import Score

DRAW = np.random.default_rng(0)
ROWS = np.arange(120)
VALUES = DRAW.random(120) + 0.1
BINARY = DRAW.integers(0, 2, 120)
CLASSES = DRAW.integers(0, 3, 120)
ONE = DRAW.random((120, 1))
THREE = DRAW.dirichlet(np.ones(3), 120)
GROUPS = np.sort(DRAW.integers(0, 12, 120))
LABELS = (ONE[:, 0] >= 0.5).astype(int)
BEST = THREE.argmax(axis=1)


@pytest.mark.parametrize(
    ("name", "expected", "lower"),
    [
        ("rmse", metrics.root_mean_squared_error(VALUES, ONE), True),
        ("cv_rmse", metrics.root_mean_squared_error(VALUES, ONE), True),
        ("val/mean_absolute_error", metrics.mean_absolute_error(VALUES, ONE), True),
        ("neg_mean_squared_error", -metrics.mean_squared_error(VALUES, ONE), False),
        ("RMSLE", metrics.root_mean_squared_log_error(VALUES, ONE), True),
        ("r2", metrics.r2_score(VALUES, ONE), False),
    ],
)
def test_of_numbers(name: str, expected: float, lower: bool) -> None:
    assert wants_numbers(name)
    found = by_name(name, Truth(VALUES))
    assert found(ONE, ROWS) == pytest.approx(expected)
    assert (found.lower, found.kind) == (lower, "values")
    assert found.worth(ONE, ROWS) == pytest.approx(-expected if lower else expected)


@pytest.mark.parametrize(
    ("name", "expected", "kind"),
    [
        ("oof_auc", metrics.roc_auc_score(BINARY, ONE), "probabilities"),
        ("logloss", metrics.log_loss(BINARY, ONE), "probabilities"),
        ("brier", metrics.brier_score_loss(BINARY, ONE), "probabilities"),
        ("average_precision", metrics.average_precision_score(BINARY, ONE), "probabilities"),
        ("f1", metrics.f1_score(BINARY, LABELS), "labels"),
        ("eval_accuracy", metrics.accuracy_score(BINARY, LABELS), "labels"),
        ("jaccard", metrics.jaccard_score(BINARY, LABELS), "labels"),
        ("mcc", metrics.matthews_corrcoef(BINARY, LABELS), "labels"),
    ],
)
def test_of_two_classes(name: str, expected: float, kind: str) -> None:
    assert not wants_numbers(name)
    found = by_name(name, Truth(BINARY.astype(float), ("no", "yes")))
    assert found(ONE, ROWS) == pytest.approx(expected)
    assert found.kind == kind


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("f1", metrics.f1_score(CLASSES, BEST, average="macro")),
        ("f1_micro", metrics.f1_score(CLASSES, BEST, average="micro")),
        ("auc", metrics.roc_auc_score(CLASSES, THREE, multi_class="ovr")),
        ("qwk", metrics.cohen_kappa_score(CLASSES, BEST, weights="quadratic")),
    ],
)
def test_of_three_classes(name: str, expected: float) -> None:
    found = by_name(name, Truth(CLASSES.astype(float), ("a", "b", "c")))
    assert found(THREE, ROWS) == pytest.approx(expected)
    assert found.lower is False


def test_a_fold_that_lacks_a_class_has_a_log_loss_all_the_same() -> None:
    rows = np.flatnonzero(CLASSES < 2)
    found = by_name("logloss", Truth(CLASSES.astype(float), ("a", "b", "c")))
    expected = metrics.log_loss(CLASSES[rows], THREE[rows], labels=[0, 1, 2])
    assert found(THREE[rows], rows) == pytest.approx(expected)


@pytest.mark.parametrize("most", [None, 3])
def test_of_the_rows_of_a_query(most: int | None) -> None:
    relevance = CLASSES.astype(float)
    suffix = f"@{most}" if most else ""
    found = by_name(f"val_ndcg{suffix}", Truth(relevance, groups=GROUPS))
    each = [np.flatnonzero(group == GROUPS) for group in np.unique(GROUPS)]
    expected = [metrics.ndcg_score([relevance[i]], [ONE[i, 0]], k=most) for i in each]
    assert found(ONE, ROWS) == pytest.approx(np.mean(expected))
    if most is None:
        precise = by_name("map", Truth(relevance, groups=GROUPS))
        scores = [metrics.average_precision_score(relevance[i] > 0, ONE[i, 0]) for i in each]
        assert precise(ONE, ROWS) == pytest.approx(np.mean(scores))
        some = np.concatenate(each[3:6])  # the groups of some rows alone
        assert precise(ONE[some], some) == pytest.approx(np.mean(scores[3:6]))


def test_a_function_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    code = "def gap(y_true, y_pred):\n    return abs(y_true.mean() - y_pred.mean())\nbroken = 3\n"
    (tmp_path / "our_metric.py").write_text(code)
    found = own("our_metric:gap", Truth(VALUES), lower=True)
    assert found(ONE, ROWS) == pytest.approx(abs(VALUES.mean() - ONE.mean()))
    assert score_as(found, Score("gap_score", True)) == Score("gap_score", True)
    assert score_as(found, Score("rmse", True)) == Score("gap", True)  # that is another metric
    for name, line in (
        ("our_metric:nothing", "module 'our_metric' has no attribute 'nothing'"),
        ("no_such_module:gap", "No module named 'no_such_module'"),
    ):
        with pytest.raises(UsageError, match=line):
            own(name, Truth(VALUES), None)
    with pytest.raises(UsageError, match="scoring broken: 'int' object is not callable"):
        own("our_metric:broken", Truth(VALUES), None)(ONE, ROWS)


def test_what_is_no_metric_of_these_rows_is_refused_by_name() -> None:
    assert canonical("house_points") == ""
    with pytest.raises(
        UsageError, match=r"reading the metric 'house_points': scikit-learn has none"
    ):
        by_name("house_points", Truth(VALUES))
    with pytest.raises(UsageError, match=r"no column says which query a row is of\. .*--group"):
        by_name("ndcg", Truth(VALUES))
    with pytest.raises(UsageError, match=r"scoring rmsle: .*cannot be used"):
        by_name("rmsle", Truth(VALUES))(-5 * ONE, ROWS)
