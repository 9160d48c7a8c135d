"""What `compare`, `leaderboard` and `reproduce` are asked with, in this process."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from click.testing import CliRunner, Result

from kaggleops.cli import main
from tests.reports.lab import Lab

Ask = Callable[..., Result]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    yield Lab(tmp_path)
    mlflow.set_tracking_uri(None)


@pytest.fixture
def ask(lab: Lab, tmp_path: Path, empty_index: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Calls a command in the lab's repository."""
    database = tmp_path / "ask.db"
    database.write_bytes(empty_index.read_bytes())
    monkeypatch.setenv("KAGGLEOPS_INDEX", f"sqlite:///{database}")
    monkeypatch.chdir(lab.repository.folder)

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(main, [*map(str, arguments), "--bucket", str(lab.bucket)])

    return call


def plain(done: Result) -> Any:
    """Return the JSON that was printed, which has to be JSON to others than Python, too."""
    assert done.exit_code == 0, done.output

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(done.stdout, parse_constant=refuse)


def refused(done: Result) -> str:
    """Return the one line of a call that was refused."""
    assert done.exit_code == 2, done.output
    [line] = done.stderr.strip().splitlines()
    return line


def test_somebody_says_whether_less_of_a_metric_is_better(lab: Lab, ask: Ask) -> None:
    low = ("--metric", "jaccard", "--lower-is-better")
    board = plain(ask("leaderboard", *low, "--json"))
    assert [each["commit"] for each in board["commits"]] == [lab.worse, lab.base, lab.better]
    assert {each["commit"] for each in board["commits"] if each["regression"]} == {lab.better}
    [line] = plain(ask("compare", "v1", "idea", *low, "--json"))["metrics"]
    assert not line["higher_is_better"]
    assert line["differences"][0]["verdict"] == "worse"
    found = plain(ask("compare", "v1", "best", *low, "--json"))
    assert found["sides"][1]["runs"] == [lab.runs[lab.worse][0]]
    assert "Add --metric" in refused(ask("compare", "v1", "idea", "--lower-is-better"))


def test_what_came_to_no_number_is_shown_and_never_the_best(lab: Lab, ask: Ask) -> None:
    for fold, score in enumerate((math.inf, math.inf, 0.6)):
        lab.log(lab.merged, f"diverged-{fold}", {"lr": "1", "fold": str(fold)}, score)
    lab.log(lab.merged, "all signs", {"lr": "2", "fold": "0"}, math.inf)
    lab.log(lab.merged, "all signs", {"lr": "2", "fold": "1"}, -math.inf)
    ids = [
        lab.log(lab.empty, "nan", {"lr": "1", "fold": str(fold)}, score)
        for fold, score in enumerate((0.9, 0.9, math.nan))
    ]
    board = plain(ask("leaderboard", "--json"))["commits"]
    assert [each["commit"] for each in board][:3] == [lab.better, lab.base, lab.worse]
    assert {each["commit"]: each["score"] for each in board[3:]} == {
        lab.merged: None,
        lab.empty: None,
    }
    assert "nan (2 folds)" in ask("leaderboard").output
    assert plain(ask("leaderboard", "--metric", "loss", "--json"))["commits"]
    found = plain(ask("compare", "idea", "HEAD~1", "--metric", "jaccard", "--json"))
    none = {"mean": None, "spread": None, "runs": 2, "folds": 2, "seeds": 1}
    assert found["metrics"][0]["sides"][1] == none
    shown = ask("compare", "idea", "HEAD~1", "--metric", "loss", "--metric", "jaccard")
    assert shown.exit_code == 0, shown.output
    assert "nan (2 folds)" in shown.output
    odd = ask("compare", "v1", "diverged-0", "--metric", "jaccard")
    assert "inf" in odd.output
    best = plain(ask("compare", "v1", "best", "--metric", "jaccard", "--json"))
    assert best["sides"][1]["runs"] == [ids[1]]


def test_a_run_is_found_however_it_ended_and_by_what_its_commit_is_called(
    lab: Lab, ask: Ask
) -> None:
    failed = lab.log(lab.merged, "broken", {"lr": "3"}, 0.0, status="FAILED")
    assert plain(ask("reproduce", "broken", "--json"))["status"] == "FAILED"
    for word, run_id in (
        ("HEAD~1", failed),  # of which there is no other
        ("idea", lab.runs[lab.better][2]),
        ("v1", lab.runs[lab.base][2]),
        ("best", lab.runs[lab.better][2]),
    ):
        assert plain(ask("reproduce", word, "--metric", "jaccard", "--json"))["run_id"] == run_id
    again = lab.log(lab.merged, "again", {"lr": "3"}, 0.5)
    done = ask("reproduce", "broken", "--against", again)
    assert done.exit_code == 1
    assert "status: FAILED and FINISHED\nmetrics: jaccard is 0.0 and 0.5" in done.stdout
    lab.log(lab.base, "going on", {"lr": "3"}, 0.5, status="RUNNING")
    assert "has not ended (RUNNING). Wait" in refused(
        ask("reproduce", again, "--against", "going on")
    )


def test_what_cannot_be_is_refused_before_the_work_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bucket = ("--bucket", str(tmp_path / "bucket"))  # there is none: nobody asks it
    for command in (("compare", "a", "b", "--html"), ("leaderboard", "--html")):
        for file, problem in (
            ("nowhere/page", "there is no folder nowhere. Create it first."),
            (".", ". cannot be written."),
        ):
            line = refused(CliRunner().invoke(main, [*command, file, *bucket]))
            assert f"reading {command[-1]}: {problem}" in line
    for tolerance in ("nan", "inf", "-0.1"):
        done = CliRunner().invoke(main, ["reproduce", "a", "--tolerance", tolerance, *bucket])
        assert (done.exit_code, "--tolerance" in done.stderr) == (2, True)
