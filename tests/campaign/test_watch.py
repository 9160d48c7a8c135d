"""The watcher's turns: what it makes, submits, ends and says."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import mlflow
import pytest

from kaggleops.backends.interface import Offer, RefusedError
from kaggleops.backends.lookup import resume
from kaggleops.campaign import children
from kaggleops.campaign.state import state_of
from kaggleops.campaign.sweep import fold_id, trial_id
from kaggleops.campaign.turn import Clock, Turn
from kaggleops.campaign.watch import Watcher
from kaggleops.cli.indexed import history_of
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.reports.html import data_in
from kaggleops.server.settings import default_index
from kaggleops.tags import DECISION, FOLD, PAUSED, POINT, PRUNED, SWEEP, TOLD
from kaggleops.tracking.store import BucketTrackingStore, cancel

from .platform import Somewhere, trains
from .world import World


class Stepped(Clock):
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.passed = 0.0
        self._began = datetime.now(UTC)

    def now(self) -> datetime:
        return self._began + timedelta(seconds=self.passed)

    def steady(self) -> float:
        return self.passed


class Watched:
    """A watcher of a world, over a platform of its own."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.clock = Stepped()
        self.platform = Somewhere(folder / "platform")
        self.watcher = self.another()

    def another(self) -> Watcher:
        """Return a watcher that begins now."""
        place = str(self.world.folder)
        return Watcher(
            place,
            index=default_index(place),
            bucket=self.world.bucket,
            clock=self.clock,
            backends=lambda name: self.platform,
        )

    def begin(self, *axes: str, **more: object) -> str:
        configs = {"somewhere": {}}
        return self.world.begin(*axes, backends=["somewhere"], configs=configs, **more)

    def turn(self, seconds: float = 61.0) -> Turn:
        self.clock.passed += seconds
        return self.watcher.turn()

    def run(self, run_id: str) -> mlflow.entities.Run:
        return mlflow.MlflowClient(self.world.uri).get_run(run_id)

    def send(self) -> None:
        """Send what this process has changed."""
        BucketTrackingStore(self.world.uri).flush()

    def sent(self) -> list[str]:
        """Return the jobs that the platform has and that have not ended."""
        return [each for each, job in self.platform.jobs.items() if job["status"] == "SCHEDULED"]

    def finish(self, **metrics: float) -> None:
        """Let all that the platform has run."""
        for run_id in self.sent():
            trains(self.world.uri, run_id, self.platform, **metrics)


@pytest.fixture
def watched(world: World, tmp_path: Path) -> Iterator[Watched]:
    made = Watched(world, tmp_path)
    yield made
    made.watcher.close()


def test_no_more_than_there_is_room_for_and_the_next_when_one_has_ended(watched: Watched) -> None:
    sweep_id = watched.begin("alpha=1,2,3")
    turn = watched.turn()
    assert len(watched.sent()) == 2
    assert turn.leading
    watched.turn()
    assert len(watched.sent()) == 2
    trains(watched.world.uri, watched.sent()[0], watched.platform, score=1)
    watched.turn()
    assert len(watched.platform.jobs) == 3
    watched.finish(score=1)
    watched.turn()
    assert watched.run(sweep_id).info.status == "FINISHED"
    assert '"live":false' in (watched.world.folder / "page/index.html").read_text()
    assert watched.turn().sweeps == []
    assert {job["sent"] for job in watched.platform.jobs.values()} == {1}
    assert "somewhere" in watched.run(next(iter(watched.platform.jobs))).data.tags[DECISION]


@pytest.mark.parametrize(
    ("axes", "deleted"),
    [
        (["alpha=1,2"], lambda sweep: trial_id(sweep, 1)),
        (["alpha=1,2", "fold=0,1"], lambda sweep: trial_id(sweep, 1)),
        (["alpha=1,2", "fold=0,1"], lambda sweep: fold_id(trial_id(sweep, 0), "1")),
        (["fold=0,1"], lambda sweep: fold_id(sweep, "1")),
    ],
)
def test_a_sweep_ends_though_somebody_deleted_a_run_of_it(
    watched: Watched, axes: list[str], deleted: Callable[[str], str]
) -> None:
    sweep_id = watched.begin(*axes, fold_axis="fold" if "fold=0,1" in axes else "")
    there = watched.world.bucket
    while not any(deleted(sweep_id) in entry.key for entry in there.list("mlruns/")):
        assert watched.turn().done
        watched.finish(score=1)
    mlflow.MlflowClient(watched.world.uri).delete_run(deleted(sweep_id))
    watched.send()
    for _ in range(4):
        turn = watched.turn()
        watched.finish(score=1)
    assert watched.run(sweep_id).info.status in ("FINISHED", "FAILED")
    assert turn.sweeps == []
    assert {job["sent"] for job in watched.platform.jobs.values()} == {1}


@pytest.mark.parametrize(
    ("axes", "changed", "left_out"),
    [
        (["fold=0,1"], lambda sweep: {fold_id(sweep, "1"): (FOLD, "")}, []),
        (
            ["alpha=1,2", "fold=0,1"],
            lambda sweep: {
                fold_id(trial_id(sweep, 0), "0"): (FOLD, "7"),
                fold_id(trial_id(sweep, 0), "1"): (POINT, "7"),
            },
            [],
        ),
        (["alpha=1,2"], lambda sweep: {trial_id(sweep, 0): (POINT, "[" * 5000)}, [0]),
        (
            ["alpha=1,2", "fold=0,1"],
            lambda sweep: {trial_id(sweep, 0): (POINT, '{"alpha": 1}')},
            [0],
        ),
    ],
)
def test_a_tag_that_somebody_changed_leaves_out_its_own_trial_at_most(
    watched: Watched,
    axes: list[str],
    changed: Callable[[str], dict[str, tuple[str, str]]],
    left_out: list[int],
) -> None:
    sweep_id = watched.begin(
        *axes,
        fold_axis="fold" if "fold=0,1" in axes else "",
        metrics=["score"],
        directions=["maximize"],
    )
    watched.turn()
    for run_id, tag in changed(sweep_id).items():
        mlflow.MlflowClient(watched.world.uri).set_tag(run_id, *tag)
    watched.send()
    for _ in range(4):
        turn = watched.turn()
        assert turn.problems == []
        watched.finish(score=1)
    assert watched.turn().sweeps == []
    assert watched.run(sweep_id).info.status == "FINISHED"
    assert len(watched.platform.jobs) == 2 * len(axes)
    assert {job["sent"] for job in watched.platform.jobs.values()} == {1}
    with history_of(str(watched.world.folder), None, fresh_for=0) as history:
        (state,) = [state_of(history, each) for each in history.having(SWEEP)]
    assert [each.number for each in state.trials if each.values is None] == left_out


def test_a_trial_that_was_deleted_and_restored_goes_on(watched: Watched) -> None:
    watched.platform.sessions = 1
    sweep_id = watched.begin("alpha=1,2", "fold=0,1", fold_axis="fold")
    watched.turn()
    own = trial_id(sweep_id, 0)
    client = mlflow.MlflowClient(watched.world.uri)
    for change in (client.delete_run, client.restore_run):
        change(own)
        watched.send()
        for _ in range(2):
            watched.turn()
    for _ in range(8):
        watched.finish(score=1)
        if not watched.turn().sweeps:
            break
    assert len(watched.platform.jobs) == 4
    assert watched.run(own).info.status == "FINISHED"


def test_a_sweep_that_was_deleted_is_left_and_its_cancelling_refused(watched: Watched) -> None:
    sweep_id = watched.begin("alpha=1,2")
    mlflow.MlflowClient(watched.world.uri).delete_run(sweep_id)
    watched.send()
    assert watched.turn().sweeps == []
    with pytest.raises(UsageError, match="it was deleted"):
        cancel(watched.world.uri, sweep_id)


def test_folds_are_one_training_each(watched: Watched) -> None:
    sweep_id = watched.begin(
        "alpha=1,2", "fold=0,1", fold_axis="fold", metrics=["score"], directions=["maximize"]
    )
    for _ in range(6):
        watched.turn()
        watched.finish(score=3)
    watched.turn()
    assert watched.run(sweep_id).info.status == "FINISHED"
    assert len(watched.platform.jobs) == 4
    trial = watched.run(trial_id(sweep_id, 0))
    assert (trial.info.status, trial.data.metrics["score_mean"]) == ("FINISHED", 3)


def test_two_watchers_at_once_are_one(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    watched.begin("alpha=1,2,3,4")
    monkeypatch.setenv("KAGGLEOPS_HOME", str(watched.world.folder.parent / "other"))
    other = watched.another()
    assert watched.turn().leading
    standby = other.turn()
    assert not standby.leading
    assert "process" in standby.holder
    assert standby.done == []
    watched.watcher.close()
    assert other.turn().leading
    watched.watcher = other
    watched.finish(score=1)
    watched.turn()
    assert len(watched.platform.jobs) == 4


def test_one_that_was_handed_over_and_not_noted_is_found(watched: Watched) -> None:
    """The platform took it, and nobody got the answer."""
    watched.platform.sessions = 1
    watched.begin("alpha=1,2")
    sent = watched.platform._note
    lost = [KaggleOpsError("handing it over", "the answer was lost")]

    def take_and_fail(run_id: str, status: str, times: int) -> None:
        sent(run_id, status, times)
        if lost:
            raise lost.pop()

    watched.platform._note = take_and_fail  # type: ignore[method-assign]
    turn = watched.turn()
    assert "left alone" in turn.problems[0]
    watched.turn()
    watched.turn(300)
    (job,) = watched.platform.jobs.values()
    assert job["sent"] == 1


def test_one_that_never_got_there_is_sent_again(watched: Watched) -> None:
    watched.platform.sessions = 1
    watched.begin("alpha=1,2")
    watched.platform.problems.append(KaggleOpsError("sending", "no answer"))
    watched.turn()
    assert watched.platform.jobs == {}
    watched.turn()
    watched.turn(300)
    (job,) = watched.platform.jobs.values()
    assert job["sent"] == 1


def test_one_that_is_sent_again_leaves_a_quota_to_what_runs(watched: Watched) -> None:
    hours = 2.0
    watched.platform.offers = lambda *_: [  # type: ignore[method-assign]
        Offer("somewhere", 2, hours=hours, total_hours=9.0, session_hours=1.0)
    ]
    watched.begin("alpha=1,2")
    send = watched.platform.send

    def no_more(*given: Any) -> None:
        send(*given)
        watched.platform.problems.append(KaggleOpsError("sending", "no answer"))

    watched.platform.send = no_more  # type: ignore[method-assign]
    watched.turn()
    hours = 1.0  # what runs may need it
    watched.turn(700)
    watched.turn(700)
    assert len(watched.platform.jobs) == 1
    hours = 2.0
    watched.turn(700)
    assert len(watched.platform.jobs) == 2


def test_a_platform_that_does_not_answer_is_named_and_left_alone_for_longer_and_longer(
    watched: Watched,
) -> None:
    watched.begin("alpha=1,2")
    watched.platform.problems += [KaggleOpsError("sending", "no answer")] * 100
    asked = []
    for _ in range(20):
        turn = watched.turn(10)
        asked.append(watched.platform.asked)
    assert asked[-1] <= 8
    assert turn.problems == [] or "left alone" in turn.problems[0]


def test_a_refusal_is_told_and_another_job_waits(watched: Watched) -> None:
    watched.begin("alpha=1,2,3")
    watched.platform.problems.append(RefusedError("sending", "the quota is used up"))
    turn = watched.turn()
    assert any("the quota is used up" in each for each in turn.problems)


def test_a_job_that_ended_without_a_word_ends_its_run(watched: Watched) -> None:
    watched.begin("alpha=1,2")
    watched.turn()
    run_id = watched.sent()[0]
    watched.platform.end(run_id, "FAILED")
    watched.turn(700)
    assert watched.run(run_id).info.status == "FAILED"
    watched.turn()
    watched.turn(600)
    assert watched.run(run_id).info.status == "SCHEDULED"  # that was none of its doing
    assert watched.platform.jobs[run_id]["sent"] == 2


def test_one_that_failed_is_sent_again_once_its_job_has_ended(watched: Watched) -> None:
    watched.begin("alpha=1,2")
    watched.turn()
    run_id = watched.sent()[0]
    trains(watched.world.uri, run_id, status="FAILED", score=1)  # its process is at its end
    watched.turn()
    assert watched.run(run_id).info.status == "FAILED"
    watched.platform.end(run_id, "FAILED")
    watched.turn()
    assert watched.run(run_id).info.status == "SCHEDULED"
    assert watched.platform.jobs[run_id]["sent"] == 2


def test_one_that_was_cancelled_is_resumed_once_its_job_has_ended(watched: Watched) -> None:
    watched.begin("alpha=1,2")
    watched.turn()
    run_id = watched.sent()[0]
    trains(watched.world.uri, run_id, status="")
    watched.platform.end(run_id, "RUNNING")
    cancel(watched.world.uri, run_id)
    here = (watched.platform, watched.world.uri, run_id, watched.platform.config_type())
    with pytest.raises(UsageError, match="its job has not ended yet"):
        resume(*here)
    watched.platform.end(run_id, "KILLED")
    assert resume(*here).get_status() == "SCHEDULED"
    assert watched.platform.jobs[run_id]["sent"] == 2


def test_three_that_fail_pause_the_sweep_until_somebody_resumes_it(watched: Watched) -> None:
    sweep_id = watched.begin("alpha=1,2,3,4,5,6")
    for _ in range(2):
        watched.turn()
        watched.turn()
        for run_id in watched.sent():
            trains(watched.world.uri, run_id, watched.platform, status="FAILED")
    turn = watched.turn()
    assert "and none has succeeded" in turn.waiting[sweep_id]
    assert "kaggleops resume" in watched.run(sweep_id).data.tags[TOLD]
    count = len(watched.platform.jobs)
    watched.turn()
    assert len(watched.platform.jobs) == count
    children.resume_sweep(watched.world.uri, sweep_id)
    watched.turn()
    assert watched.run(sweep_id).data.tags[PAUSED] == ""
    assert len(watched.platform.jobs) > count


def test_what_is_hopeless_is_ended_and_says_why(watched: Watched) -> None:
    goal = {"metrics": ["score"], "directions": ["maximize"]}
    watched.begin("alpha=1,2,3,4", **goal, pruner="median(startup=1)")
    watched.turn()
    first, second = watched.sent()
    trains(watched.world.uri, first, watched.platform, score=0.9)
    trains(watched.world.uri, second, status="", score=0.2)
    turn = watched.turn()
    ended = watched.run(second)
    assert ended.info.status == "KILLED"
    assert ended.data.tags[PRUNED] == "step 0: score 0.2, the median of 1 trial was 0.9"
    assert any(ended.data.tags[PRUNED] in each for each in turn.done)
    watched.platform.end(second, "KILLED")
    watched.turn()
    assert len(watched.platform.jobs) == 4


def test_a_search_for_a_metric_that_no_child_logs_is_paused(watched: Watched) -> None:
    more = {"sampler": "tpe", "trials": 9, "metrics": ["jaccard"], "directions": ["maximize"]}
    sweep_id = watched.begin("alpha=interval(0,1)", **more)
    for _ in range(2):
        watched.turn()
        watched.turn()
        for run_id in watched.sent():
            trains(watched.world.uri, run_id, watched.platform, score=1.0)
    said = watched.turn().waiting[sweep_id]
    assert "trials finished without jaccard; they logged score" in said
    assert f"kaggleops cancel {sweep_id}" in said


def test_a_grid_whose_metric_nobody_logged_says_so_at_its_end(watched: Watched) -> None:
    watched.begin("alpha=1,2", metrics=["jaccard"], directions=["maximize"])
    watched.turn()
    watched.finish(score=1)
    done = watched.turn().done
    assert done[-1].endswith("FINISHED; 2 trials finished without jaccard; they logged score")


def test_a_sweep_that_is_cancelled_has_no_jobs_any_more(watched: Watched) -> None:
    sweep_id = watched.begin("alpha=1,2,3,4")
    watched.turn()
    mlflow.MlflowClient(watched.world.uri).set_terminated(sweep_id, "KILLED")
    watched.turn()
    assert {watched.run(each).info.status for each in watched.platform.jobs} == {"KILLED"}
    assert watched.turn().sweeps == []


@pytest.mark.parametrize(
    "content", ["", "[]", '{"version": 2}', '{"version": 1, "axes": 3}', "[" * 5000]
)
def test_a_sweep_whose_tag_is_broken_is_named_and_the_others_go_on(
    watched: Watched, content: str
) -> None:
    sweep_id = watched.begin("alpha=1,2")
    broken = watched.begin("alpha=1,2")
    children.set_tags(watched.world.uri, broken, {"sweep": content})
    turn = watched.turn()
    assert [each for each in turn.problems if broken in each]
    assert len(watched.platform.jobs) == 2
    assert [state.id for state in turn.sweeps] == [sweep_id]


def test_a_bucket_out_of_reach_is_waited_for(watched: Watched) -> None:
    watched.begin("alpha=1,2,3")
    watched.turn()
    away = watched.world.folder.with_name("away")
    watched.world.folder.rename(away)
    turn = watched.turn()
    assert turn.problems
    assert not turn.read
    assert turn.pause > 5
    away.rename(watched.world.folder)
    watched.finish(score=1)
    assert watched.turn().problems == []
    assert len(watched.platform.jobs) == 3


def test_the_page_keeps_what_a_platform_said_while_nobody_asks_it(watched: Watched) -> None:
    asked = []

    def offers(*_: object) -> list[Offer]:
        asked.append(watched.clock.now())
        return [Offer("somewhere", 2, hours=7.5, total_hours=30.0, session_hours=1.0)]

    watched.platform.offers = offers  # type: ignore[method-assign]
    watched.begin("alpha=1,2")

    def shown() -> list[tuple[float, int | None]]:
        content = data_in((watched.world.folder / "page/index.html").read_bytes())
        return [(each["hours"], each["told"]) for each in content["offers"]]

    watched.turn()
    assert shown() == [(7.5, None)]
    for _ in range(20):
        watched.turn()
    assert len(asked) == 1  # both jobs run, and there will be no other
    assert shown() == [(7.5, int(asked[0].timestamp() * 1000))]


def test_a_turn_that_finds_nothing_does_nothing(watched: Watched) -> None:
    watched.begin("alpha=1,2")
    watched.turn()
    watched.turn()
    quiet = [watched.turn() for _ in range(12)]
    # What the parent says is brought up to date every five minutes.
    assert sum(len(turn.done) for turn in quiet) <= 1
    assert quiet[-1].pause == 60
    for failed in (0, 2000):  # of a day and more
        watched.watcher._quiet, watched.watcher._failed = 2000, failed
        assert watched.turn().problems == []
