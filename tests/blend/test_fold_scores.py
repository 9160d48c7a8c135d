"""The scores of a run's folds, from the table of what it predicted out of fold."""

from pathlib import Path

import pandas as pd
import pytest

from kaggleops.blend.report import scores_by_fold
from kaggleops.reports.score import Score
from kaggleops.reports.trainings import Run

ROWS = pd.DataFrame({
    "id": ["a", "b", "c", "d"],
    "fold": [0, 0, 1, 1],
    "target": [1, 0, 1, 0],
    "prediction": [1, 1, 1, 0],
})  # fmt: skip
OF_ROWS = ROWS.assign(jaccard=[1.0, 0.5, 0.25, 0.25])
TEXT = pd.DataFrame({"id": "abcd", "fold": [0, 0, 1, 1], "target": "x", "prediction": "y"})
ACCURACY, JACCARD = Score("accuracy", lower=False), Score("jaccard", lower=False)


@pytest.mark.parametrize(
    ("table", "score", "logged", "told"),
    [
        (ROWS, ACCURACY, 0.75, {"0": 0.5, "1": 1.0}),
        (ROWS.assign(fold=["x", "x", "y", "y"]), ACCURACY, 0.75, {"0": 0.5, "1": 1.0}),
        (OF_ROWS, JACCARD, 0.5, {"0": 0.75, "1": 0.25}),
        (ROWS, ACCURACY, 0.9, {}),  # the table is of something else
        (OF_ROWS.assign(jaccard=["1", "", "1", "1"]), JACCARD, 0.5, {}),
        (ROWS.drop(columns="fold"), ACCURACY, 0.75, {}),
        (ROWS.assign(fold=0), ACCURACY, 0.75, {}),
        (ROWS, Score("gain", lower=False), 0.75, {}),  # nobody knows how that is computed
        (ROWS.drop(columns="target"), ACCURACY, 0.75, {}),
        (TEXT, ACCURACY, 0.75, {}),
        (ROWS.assign(id="a"), ACCURACY, 0.75, {}),
    ],
)
def test_folds_count_where_their_scores_can_be_told(
    table: pd.DataFrame, score: Score, logged: float, told: dict[str, float]
) -> None:
    run = Run("1" * 32, "mine", "e", "1", "FINISHED", 0, "", metrics={score.name: logged})
    assert scores_by_fold(run, table.to_csv(index=False), score) == told


def test_a_score_that_is_called_like_a_module_runs_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`val:accuracy` is the name of a metric; a repository may have a val.py."""
    (tmp_path / "val.py").write_text("raise SystemExit('val.py was run')")
    monkeypatch.chdir(tmp_path)
    score = Score("val:accuracy", lower=False)
    run = Run("1" * 32, "mine", "e", "1", "FINISHED", 0, "", metrics={score.name: 0.75})
    assert scores_by_fold(run, ROWS.to_csv(index=False), score) == {"0": 0.5, "1": 1.0}


def test_what_is_no_table_tells_nothing() -> None:
    run = Run("1" * 32, "mine", "e", "1", "FINISHED", 0, "", metrics={"accuracy": 1.0})
    for text in ("", "fold", "id,fold\n", 'id,fold\n"', "\0fold,x\n1,2,3\n"):
        assert scores_by_fold(run, text, ACCURACY) == {}
