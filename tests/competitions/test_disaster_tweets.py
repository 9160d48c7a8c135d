"""The second competition: from its files to a submission, and its model in MLflow's format."""

import csv
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from competitions.config import compose
from competitions.predict import predict_file
from competitions.runs import digest
from competitions.tasks import Examples, load_task
from competitions.train import train_fold
from kaggleops.errors import UsageError
from kaggleops.reports.score import Score, score_of
from tests.competitions.launching import artifacts, client, only_run

TASK = load_task(compose(["task=disaster_tweets"]).config.task)


def test_a_run_of_it(tracking: Path) -> None:
    overrides = ["task=disaster_tweets", "trainer.epochs=3"]
    settings = compose(overrides)
    scores = train_fold(settings)
    assert scores["f1"] > scores["baseline_f1"] + 0.1
    run_id = only_run(tracking)
    kept = {path.name for path in artifacts(tracking, run_id).iterdir()}
    assert kept >= {"confusion_matrix.png", "oof.csv"}

    run = client(tracking).get_run(run_id)
    inputs = {each.tags[0].value: each.dataset for each in run.inputs.dataset_inputs}
    assert set(inputs) == {"training", "validation"}
    assert inputs["training"].name == TASK.competition
    assert inputs["training"].digest != inputs["validation"].digest
    assert run.data.tags["version.torch"]
    assert score_of(run.data.tags, run.data.metrics) == (Score("f1", lower=False), scores["f1"])
    points = client(tracking).get_metric_history(run_id, "eval_f1")
    assert len(points) == 3

    worst = mlflow.load_table("worst_answers.json", run_ids=[run_id])
    assert worst["agreement"].is_monotonic_increasing

    TASK.write_sample(tracking)
    asked = pd.read_csv(tracking / "test.csv", dtype=str, keep_default_na=False)
    model = mlflow.pyfunc.load_model(f"runs:/{run_id}/model")
    assert [column.name for column in model.metadata.signature.inputs] == ["id", "keyword", "text"]
    answered = model.predict(asked)

    config = compose([*overrides, "data=folder", f"data.dir={tracking}"]).config
    predict_file(config, [artifacts(tracking, run_id) / "model"], tracking / "submission.csv")
    submission = pd.read_csv(tracking / "submission.csv", dtype={"id": str})
    assert submission.columns.tolist() == ["id", "target"]
    assert len(submission) == 100
    assert answered.to_dict("list") == submission.to_dict("list")


def test_the_sample_holds_both_answers_for_every_keyword(tmp_path: Path) -> None:
    TASK.write_sample(tmp_path)
    rows = TASK.read_train(str(tmp_path))
    assert len(rows) == 600
    assert set(rows.groupby("keyword")["target"].nunique()) == {2}
    assert rows["text"].is_unique


@pytest.mark.parametrize(
    ("line", "said"),
    [(["9", "fire", "", "a text", "2"], "line 2 has the target '2'"), (["9", "fire"], "fields")],
)
def test_a_file_that_cannot_be_trained_on(tmp_path: Path, line: list[str], said: str) -> None:
    with (tmp_path / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "keyword", "location", "text", "target"], line])
    with pytest.raises(UsageError, match=said):
        TASK.read_train(str(tmp_path))


def test_answers_and_scores() -> None:
    rows = pd.DataFrame(
        {"id": list("abcd"), "keyword": "", "text": "x", "target": ["1", "1", "0", "0"]}
    )
    logits = np.array([[0, 2000], [3, 0], [3, 0], [0, 3]], dtype=np.float32)
    table = TASK.decode(rows, Examples(rows, [], []), (logits,))
    assert table["prediction"].tolist() == [1, 0, 0, 1]
    assert table["probability"][0] == 1
    assert table["agreement"][1] == pytest.approx(1 / (1 + np.exp(3)))
    assert TASK.scores(table) == {"f1": 0.5, "precision": 0.5, "recall": 0.5, "f1_other": 0.5}
    assert TASK.baseline(rows)["baseline_f1"] == pytest.approx(2 / 3)


def test_a_digest_is_of_every_value_and_the_order() -> None:
    rows = pd.DataFrame({"a": ["x", "y"]}, index=[2, 3])
    assert digest(rows) == digest(rows.set_axis([5, 9]))
    changed = {digest(rows), digest(rows[::-1]), digest(rows.replace("y", "z")), digest(rows[:1])}
    assert len(changed) == 4
