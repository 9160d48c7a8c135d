"""A run that takes longer than a session: exit code 42, its legs, and whether more follow."""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run

import kaggleops
from kaggleops.backends.local import Job
from kaggleops.errors import UsageError
from kaggleops.git.commits import find_commit
from kaggleops.launch.launcher import Launch, RunFailedError, launch
from kaggleops.launch.legs import Leg, legs_of, next_leg, table, to_tag
from kaggleops.launch.overrides import Overrides
from kaggleops.session_end import SESSION_ENDS
from kaggleops.tags import CANCELLED, JOB_ENDED, LEGS, NOTE, PRUNED, TO_BE_CONTINUED
from tests.command import kaggleops_here
from tests.fakes.git_server import Repository

MLPROJECT = """
name: long
entry_points:
  main:
    parameters:
      way: {type: string, default: steps}
    command: "python train.py {way}"
"""

# Makes two of six steps in a session that ends, and exits in each of the `ways` there are.
TRAIN = """
import os, sys
import kaggleops, mlflow
way = sys.argv[1]
run = mlflow.start_run()
points = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
begin = max((point.step for point in points), default=-1) + 1
flush = mlflow.tracking._tracking_service.utils._get_store().flush
if way == "killed":  # its checkpoint is from before step 2
    for step in range(2 if begin else 0, 6 if begin else 5):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
        mlflow.log_metric("noise", step + (begin > 0) / 2, step=step)
        mlflow.log_metric("constant", 1.0, timestamp=step + 10 * (begin > 0))
    if not begin:
        flush()
        os.kill(os.getpid(), 9)
    begin = 6
elif begin:
    {"vain": lambda: sys.exit(42), "error": lambda: sys.exit(1)}.get(way, str)()
for step in range(begin, 6):
    mlflow.log_metric("loss", 1 / (step + 1), step=step)
    if kaggleops.time_left() == 0 and step % 2:
        if way == "ended":
            mlflow.end_run("KILLED")
        if way == "open":
            flush()
            os._exit(42)
        with run:
            sys.exit(42)
"""


@pytest.fixture
def long(tmp_path: Path) -> Repository:
    """A repository whose training needs three sessions."""
    repository = Repository(tmp_path / "long")
    repository.write(MLproject=MLPROJECT, train_py=TRAIN)
    repository.commit("Train for long")
    return repository


def leg(
    repository: Repository, uri: str, run: Run | None = None, way: str = "", *, ends: bool = True
) -> Run:
    """Run a leg of the repository's commit here; its session is over from the beginning."""
    run_id = run.info.run_id if run else None
    given = Overrides([f"way={way}"] if way else [])
    what = Launch(uri, given, run_id=run_id, session_ends=0.0 if ends else None)
    return launch(find_commit(repository.folder), what)


@pytest.mark.parametrize("way", ["steps", "ended", "open"])
def test_a_run_in_three_legs_is_one_run(way: str, long: Repository, tmp_path: Path) -> None:
    uri = f"bucket+file://{tmp_path}/bucket/mlruns"
    first = leg(long, uri, way=way)
    assert first.info.status == "SCHEDULED"
    assert first.data.tags[TO_BE_CONTINUED].endswith("UTC, at step 1")
    second = leg(long, uri, first)
    assert [(each.first, each.last, each.how) for each in legs_of(second.data.tags)] == [
        (None, 1, "continued"),
        (1, 3, "continued"),
    ]
    third = leg(long, uri, second, ends=False)
    assert third.info.status == "FINISHED"
    assert TO_BE_CONTINUED not in third.data.tags
    legs = legs_of(third.data.tags)
    assert [each.number for each in legs] == [1, 2, 3]
    assert [each.how for each in legs] == ["continued", "continued", "finished"]
    assert {each.backend for each in legs} == {"local"}
    points = mlflow.MlflowClient(uri).get_metric_history(first.info.run_id, "loss")
    assert [point.step for point in points] == [0, 1, 2, 3, 4, 5]
    note = third.data.tags[NOTE]
    assert note.count("| Leg |") == 1
    assert "| 3 | local |" in note
    assert note.index("Commit ") < note.index("| Leg |") < note.index("[//]: # (What")


def test_steps_that_are_made_again_are_no_other_points(long: Repository, tmp_path: Path) -> None:
    uri = f"bucket+file://{tmp_path}/bucket/mlruns"
    with pytest.raises(RunFailedError, match="with an error"):
        leg(long, uri, way="killed")
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("long").experiment_id])
    run = leg(long, uri, run)
    assert [each.how for each in legs_of(run.data.tags)] == ["failed", "finished"]
    history = partial(client.get_metric_history, run.info.run_id)
    assert [point.step for point in history("loss")] == [0, 1, 2, 3, 4, 5]
    # What came out otherwise is there, too; and what has no steps has nothing to tell it by.
    assert sorted(point.value for point in history("noise") if point.step == 3) == [3, 3.5]
    assert len(history("constant")) == 9


def test_a_submitted_run_is_resumed_where_its_leg_ended(
    long: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SESSION_ENDS, "0")  # what a job of this machine inherits
    place = ("--bucket", tmp_path / "bucket")
    done = kaggleops_here("run", "-b", "local", *place, "--json", cwd=long.folder)
    run_id = done.json["run_id"]
    Job.of(run_id).wait()
    shown = kaggleops_here("status", run_id, *place, "--json").json["runs"][0]
    assert shown["status"] == "SCHEDULED"
    assert shown["to_be_continued"].endswith("at step 1")
    config, src = long.folder / "config/backend/local.yaml", long.folder / "src"
    long.write(**{"config/backend/local.yaml": "slots: 2", "src/here": ""})
    refused = kaggleops_here("resume", run_id, *place, cwd=src)
    assert f"reading {config}: there is no field 'slots'" in refused.error
    config.unlink()
    assert kaggleops_here("resume", run_id, *place, cwd=src).code == 0
    Job.of(run_id).wait()
    monkeypatch.delenv(SESSION_ENDS)
    assert kaggleops_here("resume", run_id, *place).code == 0
    Job.of(run_id).wait()
    shown = kaggleops_here("status", run_id, *place, "--json").json["runs"][0]
    assert (shown["status"], shown["to_be_continued"]) == ("FINISHED", "")
    client = mlflow.MlflowClient(f"bucket+file://{tmp_path}/bucket/mlruns")
    assert len(legs_of(client.get_run(run_id).data.tags)) == 3
    assert [each.step for each in client.get_metric_history(run_id, "loss")] == [*range(6)]


def test_the_command_that_runs_a_leg_here_says_so(long: Repository, tmp_path: Path) -> None:
    given = ("run", "--bucket", tmp_path / "bucket", "--hours", "0.0000001")
    done = kaggleops_here(*given, cwd=long.folder)
    assert done.code == 42
    assert "to be continued: kaggleops resume" in " ".join(done.errors.split())
    refused = kaggleops_here(*given, "-b", "manual", cwd=long.folder)
    assert refused.code == 2
    assert "it is for a run here" in refused.error
    refused = kaggleops_here(*given[:-1], "nan", cwd=long.folder)
    assert (refused.code, "nan is not in the range x>0" in refused.errors) == (2, True)
    judged = kaggleops_here(*given, "--require", "loss<=1", cwd=long.folder)
    assert judged.code == 125
    assert "is not done: it is to be continued" in judged.error


def test_a_run_of_uncommitted_changes_is_not_gone_on_with_as_its_commit(
    long: Repository, tmp_path: Path
) -> None:
    (long.folder / "train.py").write_text(f"{TRAIN}\n# changed")
    place = ("--bucket", tmp_path / "bucket")
    given = ("run", *place, "--hours", "0.0000001", "--uncommitted", "--json")
    done = kaggleops_here(*given, cwd=long.folder)
    assert done.code == 42
    assert "kaggleops resume" not in done.errors
    uri = f"bucket+file://{tmp_path}/bucket/mlruns"
    run = mlflow.MlflowClient(uri).get_run(done.json["run_id"])
    said = "it ran uncommitted changes, which no commit has"
    refused = kaggleops_here("resume", run.info.run_id, "-b", "local", *place, cwd=long.folder)
    assert (refused.code, said in refused.error) == (2, True)
    with pytest.raises(UsageError, match=said):  # in a notebook
        leg(long, uri, run)


@pytest.mark.parametrize(
    ("way", "reached"), [("vain", "no step after 1"), ("error", "with an error")]
)
def test_a_leg_that_comes_no_further_has_failed(
    way: str, reached: str, long: Repository, tmp_path: Path
) -> None:
    uri = f"bucket+file://{tmp_path}/bucket/mlruns"
    run = leg(long, uri, way=way)
    with pytest.raises(RunFailedError, match=reached):
        leg(long, uri, run)
    run = mlflow.MlflowClient(uri).get_run(run.info.run_id)
    assert run.info.status == "FAILED"
    assert legs_of(run.data.tags)[-1].how == "failed"
    assert TO_BE_CONTINUED not in run.data.tags


# -- whether another one follows -----------------------------------------------------------------


def tags(*legs: tuple[str, int | None], **more: str) -> Mapping[str, str]:
    """The tags of a run with legs that ended so, at that step."""
    made, before = [], None
    for number, (how, last) in enumerate(legs, 1):
        made.append(Leg(number, "kaggle", "none", 0, 1, before, last, how))  # type: ignore[arg-type]
        before = last
    return {LEGS: to_tag(made), **more}


@pytest.mark.parametrize(
    ("status", "known", "step", "what", "why"),
    [
        ("RUNNING", {}, 1, "none", ""),
        ("SCHEDULED", {}, None, "none", ""),
        ("FINISHED", {}, 1, "none", ""),
        ("SCHEDULED", {TO_BE_CONTINUED: "since then"}, 1, "continue", "since then"),
        # What somebody wanted.
        ("KILLED", {CANCELLED: "then"}, 1, "none", ""),
        ("KILLED", {PRUNED: "too bad"}, 1, "none", "too bad"),
        ("KILLED", {}, 1, "none", "stopped"),
        # What the platform did is free, as often as it does it.
        ("LOST", {}, 1, "continue", "nothing was heard"),
        ("FAILED", {JOB_ENDED: "ERROR"}, 1, "continue", "ERROR"),
        ("KILLED", {JOB_ENDED: "its time was up"}, 1, "continue", "its time"),
        ("LOST", tags(*[("lost", step) for step in range(20)]), 20, "continue", "nothing"),
        # Unless it comes no further.
        ("LOST", tags(("lost", 3), ("lost", 3)), 3, "continue", ""),
        ("LOST", tags(("lost", 3), ("lost", 3), ("lost", 3)), 3, "fail", "3 legs in a row"),
        ("FAILED", {**tags(("lost", None)), JOB_ENDED: "refused: full"}, None, "continue", "full"),
        ("FAILED", tags(("lost", None), ("lost", None)), None, "fail", "came no further"),
        # Its own failures are counted.
        ("FAILED", {}, 3, "continue", "ended with an error"),
        ("FAILED", {}, None, "continue", "ended with an error"),
        ("FAILED", tags(("failed", 3), ("failed", 5)), 5, "continue", ""),
        ("FAILED", tags(("failed", 3), ("lost", 5), ("failed", 5)), 5, "continue", ""),
        ("FAILED", tags(("failed", 3), ("failed", 5), ("", None)), 7, "fail", "failed 3 times"),
        ("LOST", tags(("failed", 3), ("failed", 5), ("", None)), 7, "continue", ""),
        # And one that repeats is repeated once.
        ("FAILED", tags(("failed", 3), ("", None)), 3, "fail", "failed twice at step 3"),
        ("FAILED", tags(("failed", None), ("", None)), None, "fail", "before its first step"),
        ("FAILED", {LEGS: "[1]"}, 3, "fail", "cannot be read"),
    ],
)
def test_whether_another_leg_follows(
    status: str, known: Mapping[str, str], step: int | None, what: str, why: str
) -> None:
    verdict = next_leg(known, status, step)
    assert verdict.what == what, verdict
    assert why in verdict.why


def test_the_tag_is_bounded_and_takes_any_text() -> None:
    many = [Leg(n, "kaggle", "2x Tesla T4", 1, 2, n, n + 1, "lost", "x" * 100) for n in range(99)]
    text = to_tag(many)
    assert len(text) < 8000
    assert legs_of({LEGS: text}) == many[-30:]
    hostile = Leg(1, "a|b", "<img src=x>", 10**18, 2, None, None, "lost", "[x](http://e.vil) |\n#")
    rows = table([hostile]).splitlines()
    assert len(rows) == 3
    assert rows[2].replace("\\|", "").count("|") == 7
    assert "<img" not in rows[2]
    endless = to_tag([Leg(1, "kaggle", "", 1, 10**400)])
    for nonsense in ("", "x", "{}", "[{}]", "[[]]", "null", '[{"number": "1"}]', endless):
        assert legs_of({LEGS: nonsense}) == []


def test_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kaggleops.time_left() is None
    for value, least, most in (("0", 0, 0), (str(time.time() + 60), 1, 60)):
        monkeypatch.setenv(SESSION_ENDS, value)
        left = kaggleops.time_left()
        assert left is not None
        assert least <= left <= most
    monkeypatch.setenv(SESSION_ENDS, "soon")
    assert kaggleops.time_left() is None
