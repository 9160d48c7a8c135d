"""All folds in one command, or one a run and gathered afterwards: the same table."""

import re
from pathlib import Path

import pandas as pd
import pytest
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT

from competitions import runs
from competitions.config import compose
from competitions.console import Stopped
from competitions.gather import check_folds, gather
from competitions.gather import main as gather_command
from competitions.predict import main as predict_command
from competitions.train import train_all_folds, train_fold
from kaggleops.errors import UsageError
from kaggleops.session_end import SESSION_ENDS
from tests.competitions.launching import artifacts, client

OVERRIDES = [
    "task=disaster_tweets",
    "trainer=fast",
    "data.rows=40",
    "folds=3",
    "model.build.hidden_size=16",
    "model.build.layers=1",
]


def train_together(*more: str) -> dict[str, float]:
    given = [*OVERRIDES, "fold=all", *more]
    return train_all_folds(compose(given), given)


def newest(tracking: Path) -> str:
    first, *_ = client(tracking).search_runs(["0"], order_by=["attributes.start_time DESC"])
    return str(first.info.run_id)


def test_folds_trained_one_by_one_make_the_table_of_all_folds(
    tracking: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Interrupted after its first step, continued, and interrupted never again.
    parent = client(tracking).create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", parent)
    monkeypatch.setenv(SESSION_ENDS, "0")
    with pytest.raises(Stopped, match=f"start the same again with MLFLOW_RUN_ID={parent}$"):
        train_together("trainer.checkpoints=epoch")
    monkeypatch.delenv(SESSION_ENDS)
    left = client(tracking).get_run(parent)
    assert (left.info.status, left.data.metrics["steps"]) == ("SCHEDULED", 1)
    stopped = runs.fold_runs(parent)[0].info.run_id
    for names in (stopped, f"{stopped},{stopped}"):
        with pytest.raises(UsageError, match=r"is KILLED.*\. Finish it first"):
            gather_command.main(["--runs", names], standalone_mode=False)
    assert len(client(tracking).search_runs(["0"])) == 2  # no run is made of a mistake
    with pytest.raises(UsageError, match="none of them is finished"):
        runs.single_runs(parent)
    monkeypatch.setenv("MLFLOW_RUN_ID", parent)
    scores = train_together("trainer.checkpoints=epoch")
    assert "continuing run" in capsys.readouterr().out

    run = client(tracking).get_run(parent)
    assert run.info.status == "FINISHED"
    assert scores.items() <= run.data.metrics.items()
    below = runs.fold_runs(parent)
    assert sorted(below) == [0, 1, 2]
    of_folds = [below[fold].data.metrics["f1"] for fold in range(3)]
    assert scores["f1_mean"] == pytest.approx(sum(of_folds) / 3)
    table = pd.read_csv(artifacts(tracking, parent) / "oof.csv", dtype=str)
    assert len(table) == table["id"].nunique() == 40
    assert (artifacts(tracking, parent) / "confusion_matrix.png").is_file()

    # Its models are those of its folds.
    predict_command.main(["--runs", parent], standalone_mode=False)
    assert "with 3 models for disaster_tweets" in capsys.readouterr().out
    assert len(pd.read_csv("submission.csv")) == 100

    # Started again, nothing is trained a second time.
    monkeypatch.setenv("MLFLOW_RUN_ID", parent)
    assert train_together("trainer.checkpoints=epoch") == scores
    assert capsys.readouterr().out.count("is finished already") == 3

    alone = []
    for fold in (2, 0):
        train_fold(compose([*OVERRIDES, f"fold={fold}"]))
        alone.append(one := newest(tracking))
    with pytest.raises(
        UsageError, match=r"there is no finished run of fold 1\. Train it .* fold=1"
    ):
        check_folds(alone)
    train_fold(compose([*OVERRIDES, "fold=1"]))
    alone.append(newest(tracking))
    train_fold(compose([*OVERRIDES, "fold=1", "seed=3"]))
    other = newest(tracking)
    with pytest.raises(UsageError, match=r"data\.digest is .* in run "):
        check_folds([*alone, other])
    with pytest.raises(UsageError, match="fold 0 is there twice"):
        check_folds([one, one])
    with pytest.raises(UsageError, match="it is no run of one fold"):
        check_folds([parent])
    assert runs.single_runs(one) == [one]
    assert runs.single_runs(parent) == [below[fold].info.run_id for fold in range(3)]
    with runs.active_run() as gathering:
        assert gather(check_folds(alone)) == scores
    assert (artifacts(tracking, gathering) / "oof.csv").read_bytes() == (
        artifacts(tracking, parent) / "oof.csv"
    ).read_bytes()

    # Folds of different code are told, and mixed only by who asks for it.
    for number, run_id in enumerate(alone):
        commit = ("a" if number < 2 else "b") * 40
        client(tracking).set_tag(run_id, MLFLOW_GIT_COMMIT, commit)
    mixed = r"the folds are of different code \(aaaaaaaaaa: fold 0, 2; bbbbbbbbbb: fold 1\)"
    with pytest.raises(UsageError, match=rf"{mixed}\. To mix them .*: --any-commit true"):
        gather_command.main(["--runs", ",".join(alone)], standalone_mode=False)
    assert len(check_folds(alone, any_commit=True)) == 3
    assert re.search(mixed, capsys.readouterr().err)
