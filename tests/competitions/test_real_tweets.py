"""The competition's own files, where they are at hand."""

from pathlib import Path

import pytest

from competitions.config import compose
from competitions.tasks import load_task, task_config
from competitions.train import train_fold


def test_the_real_file_is_read(tweets: str, capsys: pytest.CaptureFixture[str]) -> None:
    task = load_task(compose([], task_config).config.task)
    rows = task.read_train(tweets)
    assert len(rows) == 27480
    assert "left out 1 with an empty text (line 316)" in capsys.readouterr().out
    assert task.baseline(rows)["baseline_jaccard"] == pytest.approx(0.5891, abs=1e-4)
    assert len(task.read_test(tweets)) == 3534


def test_real_tweets_train(tweets: str, tracking: Path) -> None:
    overrides = ["data=folder", f'data.dir="{tweets}"', "data.rows=200", "trainer=fast"]
    assert train_fold(compose(overrides, task_config))["jaccard_neutral"] > 0.9
