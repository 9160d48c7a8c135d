"""What a user sees who gives bad input: one line on standard error, exit code 2, no stack trace."""

import csv
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from competitions.console import run_command
from competitions.predict import main as predict
from competitions.train import main as train
from competitions.tweet_sentiment import TweetSentiment
from kaggleops.errors import UsageError
from tests.competitions.launching import launch

HEADER = ["textID", "text", "selected_text", "sentiment"]


def rows(count: int, sentiment: str = "positive") -> list[list[str]]:
    return [[f"{sentiment}{i}", f"a good day {i}", "good", sentiment] for i in range(count)]


BALANCED = rows(6) + rows(6, "negative") + rows(6, "neutral")


def write(folder: Path, lines: list[list[str]], header: list[str] = HEADER) -> None:
    with (folder / "train.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *lines])


def the_line(output: str, errors: str) -> str:
    assert "Traceback" not in errors + output
    (line,) = errors.splitlines()
    assert line.startswith("error: ")
    return line


def complaint(cwd: Path, *arguments: str, code: int = 2) -> str:
    """The one line that a launch fails with."""
    done = launch("train", *arguments, cwd=cwd, HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == code, done.stderr
    return the_line(done.stdout, done.stderr)


Complain = Callable[..., str]


@pytest.fixture
def complain(
    tracking: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Complain:
    """The same of what is called in this process."""
    gcsfs = logging.getLogger("gcsfs")
    monkeypatch.setattr(gcsfs, "level", gcsfs.level)  # afterwards it is as it was

    def called(*arguments: str, command: click.Command = train) -> str:
        monkeypatch.setattr(sys, "argv", ["called", *arguments])
        with pytest.raises(SystemExit) as ended:
            run_command(command)
        output, errors = capsys.readouterr()
        assert ended.value.code == 2, errors
        return the_line(output, errors)

    return called


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["task=nope"], "Choose task=<one of: disaster_tweets, tweet_sentiment"),
        (["model=nope"], "Choose model=<one of: deberta-v3-base, deberta-v3-large, hub, minilm, "),
        (["--overrides", "trainer.bath_size=3"], "there is no key trainer.bath_size"),
        (["--overrides", "trainer.epochs=many"], "trainer.epochs: value 'many'"),
        (["--overrides", "task.max_length=many"], "task.max_length: value 'many'"),
        (["--overrides", "'unclosed"], "No closing quotation"),
        (["fold=0", "--overrides", "fold=1"], "fold is given twice"),
        (["fold=7"], "fold=7, but it must be from 0 to 4"),
        (["--nope"], "No such option"),
        (["--overrides", "data=folder data.dir=nowhere"], "kaggle competitions download -c tweet"),
        (["--overrides", "data=folder data.dir=gs2://b/x"], "Protocol not known: gs2"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_call(complain: Complain, tmp_path: Path, arguments: list[str], said: str) -> None:
    assert said in complain(*arguments)
    assert not (tmp_path / "mlruns").exists()  # no run is made of a mistake


@pytest.mark.parametrize(
    ("lines", "header", "said"),
    [
        (BALANCED, ["textID", "text", "selected_text", "mood"], "line 1 has no column 'sentiment'"),
        ([*BALANCED, ["x", "a, b"]], HEADER, "line 20 has 2 fields instead of 4"),
        ([*BALANCED, ["x", "a", "a", "angry"]], HEADER, "line 20 has the sentiment 'angry'"),
        ([*BALANCED, BALANCED[1]], HEADER, "line 20 has the same textID as line 3: 'positive1'"),
        (
            [*BALANCED, ["x", "a", "b", "neutral"], ["y", "a", "", "neutral"]],
            HEADER,
            "2 selected texts are not in their text, the first on line 20",
        ),
        ([], HEADER, "a header and no rows"),
        ([["x", "", "", "neutral"]], HEADER, "there are 0 rows for 5 folds"),
        (rows(3), HEADER, "there are 3 rows for 5 folds"),
        ([*BALANCED[:12], *rows(2, "neutral")], HEADER, "'neutral' has 2 rows for 5 folds"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_cannot_be_trained_on(
    complain: Complain, tmp_path: Path, lines: list[list[str]], header: list[str], said: str
) -> None:
    write(tmp_path, lines, header)
    line = complain("--overrides", "data=folder data.dir=.")
    assert said in line
    assert not (tmp_path / "mlruns").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"textID,text,selected_text,sentiment\nx,caf\xe9,a,neutral\n", "line 2 is not UTF-8"),
        (b'textID,text,selected_text,sentiment\nx,"a,a,neutral\n', "line 2 is not CSV"),
    ],
    ids=["empty", "latin-1", "open quote"],
)
def test_a_file_that_is_not_csv(
    complain: Complain, tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "train.csv").write_bytes(content)
    assert said in complain("--overrides", "data=folder data.dir=.")


def test_a_folder_without_the_file(tmp_path: Path) -> None:
    line = complaint(tmp_path, "--overrides", "data=folder data.dir=.")
    assert "reading ./train.csv: there is no such file" in line
    assert "unzip <dir>/tweet-sentiment-extraction.zip" in line


def test_a_hub_that_cannot_be_reached_fails_with_what_to_do(tmp_path: Path) -> None:
    line = complaint(tmp_path, "model=roberta-squad2", code=1)
    assert "the Hugging Face hub cannot be reached" in line
    assert "model.pretrained=<folder>" in line


def test_predicting_with_no_run(complain: Complain, tmp_path: Path) -> None:
    assert "--runs" in complain(command=predict)
    assert "no run is given" in complain("--runs", ",", command=predict)
    (tmp_path / "empty").mkdir()
    line = complain("--runs", "empty", command=predict)
    assert "there is no model folder" in line


def test_one_of_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(key, value)
    with pytest.raises(UsageError, match=r"one of 2 processes, .* one process uses every GPU"):
        predict.main(["--runs", "a"], standalone_mode=False)


def test_a_sample_is_no_bad_input(complain: Complain, tmp_path: Path) -> None:
    """The files that the cases above break are good to begin with: it goes on to the model."""
    TweetSentiment(None).write_sample(tmp_path)
    line = complain("data=folder", "data.dir=.", "model.pretrained=./nowhere")
    assert "loading ./nowhere: there is no such folder" in line
    assert not (tmp_path / "mlruns").exists()
