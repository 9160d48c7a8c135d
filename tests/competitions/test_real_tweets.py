"""The competition's own files, where they are at hand."""

from pathlib import Path

import pytest

from competitions.config import compose
from competitions.tasks import load_task
from competitions.train import train_fold
from competitions.tweet_sentiment.spans import (
    find_selected_words,
    find_selection,
    jaccard,
    move_as_published,
)


def test_the_real_file_is_read(tweets: str, capsys: pytest.CaptureFixture[str]) -> None:
    task = load_task(compose([]).config.task)
    rows = task.read_train(tweets)
    assert len(rows) == 27480
    assert "left out 1 with an empty text (line 316)" in capsys.readouterr().out
    assert task.baseline(rows)["baseline_jaccard"] == pytest.approx(0.5891, abs=1e-4)
    assert len(task.read_test(tweets)) == 3534


def test_real_tweets_train(tweets: str, tracking: Path) -> None:
    overrides = ["data=folder", f'data.dir="{tweets}"', "data.rows=200", "trainer=fast"]
    assert train_fold(compose(overrides))["jaccard_neutral"] > 0.9


def test_most_selections_are_whole_words_moved_by_runs_of_blanks(tweets: str) -> None:
    rows = load_task(compose([]).config.task).read_train(tweets)
    rows = rows[rows["sentiment"] != "neutral"]
    scores = {"as they stand": 0.0, "moved": 0.0}
    for text, selected in zip(rows["text"], rows["selected_text"], strict=True):
        span = find_selection(text, selected)
        assert span is not None
        for name, (start, end) in (
            ("as they stand", span),
            ("moved", find_selected_words(text, *span)),
        ):
            start -= len(text[:start].split(" ")[-1])
            end += len(text[end:].split(" ")[0])
            if name == "moved":
                start, end = move_as_published(text, start, end)
            scores[name] += jaccard(selected, text[start:end]) / len(rows)
    assert scores["as they stand"] == pytest.approx(0.9082, abs=1e-4)
    assert scores["moved"] == pytest.approx(0.9329, abs=1e-4)
