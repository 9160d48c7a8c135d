"""What the parents of a sweep say of their children."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from kaggleops.bucket import Bucket, open_bucket
from kaggleops.campaign.out_of_fold import TableError, put_together
from kaggleops.campaign.parents import keep
from kaggleops.campaign.state import SweepState
from kaggleops.campaign.sweep import Job, Sweep, Trial, progress
from kaggleops.mlruns.ui import run_page
from kaggleops.tags import BEST, NOTE, PARENT, SCORE, SUMMARY
from kaggleops.tracking.store import BucketTrackingStore


class World:
    """A bucket, and runs in it."""

    def __init__(self, folder: Path) -> None:
        self.uri = f"bucket+file://{folder}/bucket/mlruns"
        self.client = MlflowClient(self.uri)
        self.bucket: Bucket = open_bucket(str(folder / "bucket"))
        self.experiment_id = self.client.create_experiment("digits")
        self._clock = 1_700_000_000_000

    def run(self, parent: str = "") -> str:
        tags = {PARENT: parent} if parent else {}
        found: str = self.client.create_run(self.experiment_id, tags=tags).info.run_id
        return found

    def job(
        self, number: int, parent: str, status: str = "FINISHED", *, fold: str = "",
        table: str = "", point: Mapping[str, str] | None = None, **metrics: float
    ) -> Job:  # fmt: skip
        run_id = self.run(parent)
        for name, value in metrics.items():
            self.client.log_metric(run_id, name, value)
        if table:
            self.client.log_text(run_id, table, "oof.csv")
        self._clock += 1000
        return Job(run_id, number, point or {}, fold, status, {}, metrics, 1, self._clock)

    def keep(self, state: SweepState) -> list[str]:
        return keep(state, self.client, self.bucket)

    def state(self, parent: str, sweep: Sweep, trials: Sequence[Trial]) -> SweepState:
        """What the next turn of a watcher reads."""
        BucketTrackingStore(self.uri).flush()
        trials = [replace(each, tags=self.get(each.run_id).data.tags) for each in trials]
        tags = self.get(parent).data.tags
        return SweepState(parent, self.experiment_id, "s", sweep, trials, tags=tags)

    def get(self, run_id: str) -> Run:
        return self.client.get_run(run_id)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


FOLDS = Sweep(["fold=0,1,2"], fold_axis="fold", folds=["0", "1", "2"])


def _fold_set(world: World, parent: str, tables: Sequence[str] | None = None) -> Trial:
    tables = tables or ["id,acc\na,1\nb,0\n", "id,acc\nc,1\n", 'id,acc\n"d\ne",0\n']
    values = (0.5, 1.0, 0.0)
    jobs = [
        world.job(0, parent, fold=str(at), table=table, acc=value, loss=0.1, **{"system/gpu": 1.0})
        for at, (value, table) in enumerate(zip(values, tables, strict=True))
    ]
    return Trial(0, parent, {}, jobs, status="FINISHED")


def test_a_fold_set_has_mean_spread_and_the_out_of_fold_table(world: World) -> None:
    parent = world.run()
    world.client.set_tag(parent, NOTE, "mine")
    trial = _fold_set(world, parent)
    assert world.keep(world.state(parent, FOLDS, [trial])) == [parent]
    run = world.get(parent)
    assert run.data.metrics == {"acc_mean": 0.5, "acc_std": 0.5, "oof_acc": 0.5}
    assert run.info.status == "FINISHED"
    assert run.info.end_time == trial.jobs[-1].ended_ms
    table = Path(world.client.download_artifacts(parent, "oof.csv")).read_text()
    assert table == 'id,acc\na,1\nb,0\nc,1\n"d\ne",0\n'
    note = run.data.tags[NOTE]
    assert "3 of 3 folds." in note
    page = run_page(world.experiment_id, trial.jobs[1].run_id)
    assert f"| [fold 1]({page}) | finished | 1 |" in note
    assert "| mean ± sd |  | 0.5000 ± 0.5000 (3) |" in note
    assert "Out of fold: acc 0.5000 (oof.csv)." in note
    assert note.endswith("mine")
    # Nothing has changed: nothing is asked or written.
    written = {entry.key: entry.version for entry in world.bucket.list()}
    assert world.keep(world.state(parent, FOLDS, [trial])) == []
    assert {entry.key: entry.version for entry in world.bucket.list()} == written


def test_shards_that_predict_make_one_submission(world: World) -> None:
    parent = world.run()
    jobs = []
    for shard, lines in enumerate(['"a","x, y"\n', '"b","two\nlines"\n"c",""']):
        jobs.append(world.job(0, parent, fold=str(shard)))
        text = f'"id","text"\n{lines}'
        world.client.log_text(jobs[-1].run_id, text, "submission.csv")
    trial = Trial(0, parent, {}, jobs, status="FINISHED")
    shards = Sweep(["shard=0,1"], fold_axis="shard", folds=["0", "1"], gather=True)
    assert world.keep(world.state(parent, shards, [trial])) == [parent]
    table = Path(world.client.download_artifacts(parent, "submission.csv")).read_text()
    assert table == 'id,text\na,"x, y"\nb,"two\nlines"\nc,\n'
    note = world.get(parent).data.tags[NOTE]
    assert "Of all shards: submission.csv." in note
    assert "gather" not in note


def test_until_every_fold_is_finished_there_is_no_mean(world: World) -> None:
    parent = world.run()
    first = world.job(0, parent, fold="0", acc=0.5)
    for status, jobs in (
        ("RUNNING", [first]),  # the others have no run yet
        ("RUNNING", [first, world.job(0, parent, "RUNNING", fold="1", acc=0.1)]),
        ("LOST", [first, world.job(0, parent, "LOST", fold="1")]),
        ("FAILED", [first, world.job(0, parent, "FAILED", fold="1"),
                    world.job(0, parent, "RUNNING", fold="2")]),
    ):  # fmt: skip
        world.keep(world.state(parent, FOLDS, [Trial(0, parent, {}, jobs, status=status)]))
        run = world.get(parent)
        assert (run.info.status, run.data.metrics) == ("RUNNING", {})
        assert "1 of 3 folds" in run.data.tags[NOTE]
    failed = [world.job(0, parent, "FAILED", fold="1"), world.job(0, parent, fold="2", acc=0.7)]
    trial = Trial(0, parent, {}, [first, *failed], status="FAILED")
    assert world.keep(world.state(parent, FOLDS, [trial])) == [parent]
    run = world.get(parent)
    assert (run.info.status, run.data.metrics) == ("FAILED", {})
    assert "2 of 3 folds, 1 failed." in run.data.tags[NOTE]
    assert "Mean and spread are left out: fold 1 failed." in run.data.tags[NOTE]
    # It was begun again, and that went well.
    again = replace(failed[0], status="FINISHED", metrics={"acc": 0.6})
    trial = Trial(0, parent, {}, [first, again, failed[1]], status="FINISHED")
    world.keep(world.state(parent, FOLDS, [trial]))
    run = world.get(parent)
    assert (run.info.status, run.data.metrics["acc_mean"]) == ("FINISHED", pytest.approx(0.6))
    assert "No out-of-fold table: fold 0 has no oof.csv." in run.data.tags[NOTE]


@pytest.mark.parametrize(
    ("tables", "why"),
    [
        (["id,acc\na,1\n", "", "id,acc\nc,1\n"], "fold 1 has no oof.csv"),
        (["id,acc\na,1\n", "id,f1\nb,1\n", "id,acc\nc,1\n"], "fold 1 has the columns id, f1, fold"),
        (["id,acc\na,1\n", 'id,acc\n"b,1\n', "id,acc\nc,1\n"], "that of fold 1 is not CSV"),
        (["id,acc\na,1\n", "id,acc\nb\n", "id,acc\nc,1\n"], "line 2 has 1 cells"),
        (
            ["id,acc\na,1\n", f"id,acc\n{'b,' * (1 << 19)}", "id,acc\nc,1\n"],
            "a line has 1,048,576 characters or more",
        ),
        (
            ["id,acc\na,1\n", f"id,acc\n{'b' * (1 << 18)}", "id,acc\nc,1\n"],
            "larger than field limit",
        ),
    ],
)
def test_tables_that_do_not_make_one_are_named_in_one_line(
    world: World, tables: list[str], why: str
) -> None:
    parent = world.run()
    trial = _fold_set(world, parent, tables)
    world.keep(world.state(parent, replace(FOLDS, gather=True), [trial]))
    run = world.get(parent)
    assert set(run.data.metrics) == {"acc_mean", "acc_std"}
    assert [each.path for each in world.client.list_artifacts(parent)] == []
    [said] = [line for line in run.data.tags[NOTE].splitlines() if "No out-of-fold" in line]
    assert why in said.replace("\\", "")
    ids = ",".join(job.run_id for job in trial.jobs)
    assert f"`kaggleops run -e gather runs={ids}`" in said


def test_only_a_column_whose_mean_is_the_folds_score_gives_that_of_all_rows(
    tmp_path: Path,
) -> None:
    tables = []
    for at, text in enumerate(("id,acc,rmse,f1\na,1,4,x\nb,0,2,1\n", "id,acc,rmse,f1\nc,1,1,1\n")):
        tables.append(tmp_path / f"{at}.csv")
        tables[-1].write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\xff,1,3,1\n")
    metrics = [{"acc": 2 / 3, "rmse": 2.5, "f1": 1.0}, {"acc": 1.0, "rmse": 2.0, "f1": 1.0}]
    folds = [Job(str(at), 0, {}, str(at), metrics=each) for at, each in enumerate(metrics)]
    into = tmp_path / "oof.csv"
    assert put_together(folds, tables, into) == {"acc": 4 / 5}
    assert into.read_bytes().count(b"\xff") == 2
    tables[1].write_text("")
    with pytest.raises(TableError, match="fold 1 has the columns none, fold 0 id, acc"):
        put_together(folds, tables, into)


SEARCH = Sweep(
    ["lr=interval(0,1)"], sampler="tpe", trials=4, metrics=["acc"], directions=["maximize"]
)


def test_a_search_names_its_best_trial_and_how_many_ended_how(world: World) -> None:
    parent = world.run()

    def trial(number: int, value: float, status: str = "FINISHED", model: str = "tiny") -> Trial:
        job = world.job(number, parent, status, acc=value, loss=-value)
        values = [value] if status == "FINISHED" else None
        point = {"model": model, "lr": f"0.{number}"}
        return Trial(number, job.run_id, point, [job], values, status)

    trials = [trial(0, 0.6), trial(1, 0.9, "PRUNED"), trial(2, 0.7, model="a|`<b>")]
    assert world.keep(world.state(parent, SEARCH, trials)) == [parent]
    run = world.get(parent)
    assert run.data.metrics == {"best_acc": 0.7}
    assert run.data.tags[BEST] == trials[2].run_id
    note = run.data.tags[NOTE]
    assert "2 of 4 trials, 1 pruned." in note
    best, second = (line for line in note.splitlines() if line.startswith("| [trial"))
    assert best.startswith("| [trial 2](#/experiments/")
    assert best.endswith("| 0.7000 | <code>model&#61;a&#124;&#96;&#60;b&#62;</code> `lr=0.2` |")
    assert second.startswith("| [trial 0]")
    assert run.info.status == "RUNNING"  # whether it goes on, the watcher knows
    # What only runs changes nothing; a better one does, and its step is how many have finished.
    trials.append(trial(3, 0.8, "RUNNING"))
    assert world.keep(world.state(parent, SEARCH, trials)) == [parent]
    trials[3] = replace(trials[3], status="LOST")
    assert world.keep(world.state(parent, SEARCH, trials)) == []
    trials[3] = replace(trials[3], status="FINISHED", values=[0.8])
    assert world.keep(world.state(parent, SEARCH, trials)) == [parent]
    history = world.client.get_metric_history(parent, "best_acc")
    assert [(point.step, point.value) for point in history] == [(2, 0.7), (3, 0.8)]
    least = replace(SEARCH, directions=["minimize"])
    world.keep(world.state(parent, replace(least, trials=5), trials))
    assert world.get(parent).data.metrics == {"best_acc": 0.6}


def test_a_grid_that_names_no_metric_is_ranked_by_the_score_that_its_trials_have(
    world: World,
) -> None:
    parent = world.run()
    trials = []
    for number, value in enumerate((0.9, 0.7, float("nan"))):
        job = world.job(number, parent, rmse=value, loss=1.0)
        trials.append(Trial(number, job.run_id, {}, [job], status="FINISHED"))
    world.keep(world.state(parent, Sweep(["lr=1,2,3"]), trials))
    run = world.get(parent)
    assert (run.data.metrics, run.data.tags[BEST]) == ({"best_rmse": 0.7}, trials[1].run_id)
    assert "3 trials." in run.data.tags[NOTE]


def test_a_grid_is_ranked_by_the_declared_score_in_its_direction(world: World) -> None:
    parent = world.run()
    trials = []
    for number, value in enumerate((0.9, 0.7)):
        job = replace(world.job(number, parent, gap=value, auc=0.5), tags={SCORE: "gap lower"})
        trials.append(Trial(number, job.run_id, {}, [job], status="FINISHED"))
    world.keep(world.state(parent, Sweep(["lr=1,2"]), trials))
    run = world.get(parent)
    assert (run.data.metrics, run.data.tags[BEST]) == ({"best_gap": 0.7}, trials[1].run_id)


def test_of_several_objectives_the_trials_that_none_beats_are_shown(world: World) -> None:
    parent = world.run()
    sweep = replace(SEARCH, metrics=["acc", "mae"], directions=["maximize", "minimize"])
    trials = []
    for number, (acc, mae) in enumerate(((0.9, 0.5), (0.8, 0.1), (0.8, 0.6), (0.95, 0.7))):
        job = world.job(number, parent, acc=acc, mae=mae)
        trials.append(Trial(number, job.run_id, {}, [job], [acc, mae], "FINISHED"))
    world.keep(world.state(parent, sweep, trials))
    run = world.get(parent)
    assert run.data.metrics == {"best_acc": 0.95, "best_mae": 0.1}
    assert BEST not in run.data.tags
    shown = [line for line in run.data.tags[NOTE].splitlines() if line.startswith("| [trial")]
    assert [line[3:10] for line in shown] == ["trial 3", "trial 0", "trial 1"]


def test_the_fold_sets_of_a_search_are_trials_with_their_means(world: World) -> None:
    parent = world.run()
    sweep = replace(FOLDS, axes=["fold=0,1,2", "lr=1,2"], metrics=["acc"])
    done = _fold_set(world, world.run(parent))
    half = world.run(parent)
    begun = Trial(1, half, {"lr": "2"}, [world.job(1, half, fold="0", acc=0.9)], status="RUNNING")
    assert world.keep(world.state(parent, sweep, [done, begun])) == [done.run_id, parent]
    assert world.get(done.run_id).data.metrics["acc_mean"] == 0.5
    assert SUMMARY not in world.get(half).data.tags  # one of many: not before it has ended
    assert world.get(parent).data.metrics == {"best_acc": 0.5}
    assert world.keep(world.state(parent, sweep, [done, begun])) == []
    pruned = replace(begun, status="PRUNED", jobs=[replace(begun.jobs[0], status="KILLED")])
    assert world.keep(world.state(parent, sweep, [done, pruned])) == [half, parent]
    assert world.get(half).info.status == "KILLED"


def test_a_full_page_keeps_what_its_owner_wrote(world: World) -> None:
    parent = world.run()
    world.client.set_tag(parent, NOTE, "x" * 7600)
    trial = _fold_set(world, parent)
    world.keep(world.state(parent, FOLDS, [trial]))
    note = world.get(parent).data.tags[NOTE]
    assert note.startswith("[//]: # (sweep)\n\n3 of 3 folds.\n\n[//]")
    assert note.endswith("x" * 7600)


def test_progress_in_a_few_words() -> None:
    assert (
        progress(["FINISHED", "RUNNING", "", "PRUNED"], 40) == "1 of 40 trials, 1 running, 1 pruned"
    )
    assert progress([], None, "folds") == "0 folds"
