"""From runs to a submission."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from competitions import offline
from competitions.config import compose
from competitions.offline import make_folder
from competitions.predict import main, predict_file
from competitions.train import train_fold
from competitions.tweet_sentiment import TweetSentiment
from competitions.tweet_sentiment.sample import TEST_ROWS
from kaggleops.errors import UsageError
from tests.competitions.conftest import Training
from tests.competitions.launching import (
    ROOT,
    artifacts,
    client,
    environment,
    launch,
    only_run,
)


@pytest.fixture(scope="session")
def competition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the competition's, with test.csv and sample_submission.csv."""
    folder = tmp_path_factory.mktemp("competition")
    TweetSentiment(None).write_sample(folder)
    return folder


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def test_a_run_makes_a_valid_submission(
    trained: Training, tmp_path: Path, competition: Path
) -> None:
    shutil.copytree(trained.cwd / "mlruns", tmp_path / "mlruns")
    arguments = ["--runs", trained.run_id, "--output", "out/submission.csv"]
    overrides = f"data=folder data.dir={competition}"
    done = launch("predict", *arguments, "--overrides", overrides, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    submission = read(tmp_path / "out" / "submission.csv")
    assert submission.columns.tolist() == ["textID", "selected_text"]
    assert (
        submission["textID"].tolist()
        == read(competition / "sample_submission.csv")["textID"].tolist()
    )
    texts = read(competition / "test.csv").set_index("textID")
    assert all(row.selected_text in texts["text"][row.textID] for row in submission.itertuples())
    assert (tmp_path / "out" / "submission.csv").read_text().splitlines()[1].startswith('"')
    # By hand and from a finished run, no run is made.
    assert only_run(tmp_path) == trained.run_id


def test_predictions_are_those_of_the_training(trained: Training, tracking: Path) -> None:
    validated = read(trained.artifacts / "oof.csv")
    validated[["textID", "text", "sentiment"]].to_csv(tracking / "test.csv", index=False)
    config = compose(["data=folder", f"data.dir={tracking}"]).config
    predict_file(config, [trained.artifacts / "model"], tracking / "submission.csv")
    submission = read(tracking / "submission.csv")
    assert submission["textID"].tolist() == validated["textID"].tolist()
    assert submission["selected_text"].tolist() == validated["prediction"].tolist()


def test_launched_by_mlflow_the_submission_becomes_an_artifact(
    trained: Training, tracking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = client(tracking).create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    arguments = ["--runs", str(trained.artifacts), "--output", "submission.csv", "--overrides", ""]
    main.main(arguments, standalone_mode=False)
    assert len(read(artifacts(tracking, run_id) / "submission.csv")) == TEST_ROWS
    kept = read(artifacts(tracking, run_id) / "predictions.csv")
    assert len(kept) == TEST_ROWS
    assert kept.columns[:2].tolist() == ["textID", "prediction"]
    assert client(tracking).get_run(run_id).info.status == "FINISHED"


def test_shards_by_parts_make_the_same_and_one_that_was_killed_goes_on(
    trained: Training, tracking: Path, competition: Path
) -> None:
    overrides = f"data=folder data.dir={competition}"
    given = ["--runs", str(trained.artifacts), "--part", "2", "--overrides", overrides]
    whole = launch("predict", *given, "--output", "whole.csv", cwd=tracking)
    assert whole.returncode == 0, whole.stderr
    made = []
    for shard in ("0", "1"):
        run_id = client(tracking).create_run("0").info.run_id
        arguments = [*given, "--shard", shard, "--shards", "2", "--output", f"{shard}.csv"]
        again: list[str] = []
        with subprocess.Popen(
            [sys.executable, "-m", "competitions.predict", *arguments],
            cwd=tracking,
            env=environment(tracking / "mlruns") | {"MLFLOW_RUN_ID": run_id},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as first:
            for line in first.stdout or ():
                again.append(line)
                if "predicted 4 of" in line:
                    first.kill()
        assert first.returncode not in (0, 1), again
        parts = artifacts(tracking, run_id) / "parts"
        there = {each.name: each.stat().st_mtime_ns for each in parts.iterdir()}
        assert "000000002-000000004.csv" in there
        done = launch("predict", *arguments, cwd=tracking, MLFLOW_RUN_ID=run_id)
        assert done.returncode == 0, done.stderr
        assert f"going on behind {len(there)} parts" in done.stdout + done.stderr
        assert (
            there.items()
            <= {each.name: each.stat().st_mtime_ns for each in parts.iterdir()}.items()
        )
        made.append(read(artifacts(tracking, run_id) / f"{shard}.csv"))
    assert pd.concat(made, ignore_index=True).equals(read(tracking / "whole.csv"))
    assert len(made[0]) == len(made[1]) == TEST_ROWS // 2


def test_folds_are_averaged(tracking: Path, competition: Path) -> None:
    folders = []
    for fold in range(2):
        settings = compose(["trainer=fast", f"fold={fold}"])
        train_fold(settings)
        newest, *_ = client(tracking).search_runs(["0"], order_by=["attributes.start_time DESC"])
        folders.append(artifacts(tracking, newest.info.run_id) / "model")
    config = compose(["data=folder", f"data.dir={competition}"]).config
    tables = []
    for models in ([folders[0]], [folders[1]], folders, folders[::-1], [folders[0]] * 2):
        predict_file(config, models, tracking / "submission.csv")
        tables.append(read(tracking / "submission.csv")["selected_text"].tolist())
    first, second, both, reversed_, twice_first = tables
    assert both == reversed_
    assert twice_first == first
    assert first != second


def test_models_with_other_tokens_are_not_averaged(
    trained: Training, tracking: Path, competition: Path
) -> None:
    train_fold(compose(["trainer=fast", "model.build.vocab_size=80"]))
    other = artifacts(tracking, only_run(tracking)) / "model"
    config = compose(["data=folder", f"data.dir={competition}"]).config
    with pytest.raises(UsageError, match="splits the texts into other tokens"):
        predict_file(config, [trained.artifacts / "model", other], tracking / "submission.csv")
    assert not (tracking / "submission.csv").exists()


# Neither MLflow nor any address can be reached from here.
CUT_OFF = """
import socket, sys
def refuse(*arguments): raise OSError("the internet is off")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
sys.modules["mlflow"] = None
from competitions.predict import main
from competitions.console import run_command
run_command(main)
"""


def test_a_folder_that_predicts_with_the_internet_off(
    trained: Training, tmp_path: Path, competition: Path
) -> None:
    folder, code = tmp_path / "my-models", tmp_path / "my-models/code"
    make_folder([str(trained.artifacts)] * 2, folder)
    # The code is the commit's; what is tested is the code that stands here.
    shutil.copytree(ROOT / "src", code / "src", dirs_exist_ok=True)
    shutil.copytree(ROOT / "config", code / "config", dirs_exist_ok=True)
    (tmp_path / "cut_off.py").write_text(CUT_OFF)
    (tmp_path / "bin").mkdir()
    python = f'#!/bin/sh\nshift 2\nexec {sys.executable} {tmp_path}/cut_off.py "$@"\n'
    (tmp_path / "bin" / "python").write_text(python)
    (tmp_path / "bin" / "python").chmod(0o755)
    done = subprocess.run(
        ["bash", str(folder / "predict.sh"), str(competition)],
        cwd=tmp_path,
        env=environment(tmp_path / "mlruns") | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "with 2 models" in done.stdout
    assert len(read(tmp_path / "submission.csv")) == TEST_ROWS


def test_the_folder_becomes_an_artifact(
    trained: Training, tracking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = client(tracking).create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    arguments = ["--runs", str(trained.artifacts), "--output", "mine", "--no-wheels"]
    offline.main(arguments, standalone_mode=False)
    kept = artifacts(tracking, run_id) / "mine"
    assert {path.name for path in kept.iterdir()} == {"code", "models", "predict.sh"}


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    for output, said in (
        (tmp_path, "it is not empty. Name a new folder"),
        (tmp_path / "mine", "Name another place with --output"),
        (tmp_path / "mine" / "below", "Not a directory: .*Name another place with --output"),
    ):
        with pytest.raises(UsageError, match=said):
            offline.main(["--runs", "a", "--output", str(output)], standalone_mode=False)


def test_a_submission_that_cannot_be_written(trained: Training, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    arguments = ["--runs", str(trained.artifacts), "--output", str(tmp_path / "mine" / "s.csv")]
    with pytest.raises(UsageError, match="Name another place with --output"):
        main.main(arguments, standalone_mode=False)
