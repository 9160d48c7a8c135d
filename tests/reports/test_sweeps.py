"""Sweeps and fold sets, compared and ranked."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
import sqlalchemy as sa

from kaggleops.bucket import open_bucket
from kaggleops.campaign.sweep import Sweep
from kaggleops.errors import UsageError
from kaggleops.index.refresh import Index
from kaggleops.mlruns import EntityStore
from kaggleops.reports.comparison import compare
from kaggleops.reports.history import History
from kaggleops.reports.leaderboard import leaderboard, read_runs
from kaggleops.reports.score import named
from kaggleops.reports.selection import Selector, Side
from kaggleops.reports.trainings import Run, Training, trainings
from kaggleops.tags import (
    BEST,
    ENTRY_POINT,
    FOLD,
    PARENT,
    POINT,
    PRUNED,
    SETTINGS,
    SUBJECT,
    SWEEP,
    TRIAL,
)
from kaggleops.tracking.store import BucketTrackingStore
from tests.command import Done, kaggleops_here
from tests.reports.lab import Lab

SEARCH = Sweep(
    ["fold=0,1,2", "lr=tag(log, interval(1e-5, 1e-3))"], fold_axis="fold", folds=["0", "1", "2"],
    sampler="tpe", trials=4, metrics=["jaccard"], directions=["maximize"],
)  # fmt: skip


def run(name: str, parent: str = "", status: str = "FINISHED", **content: object) -> Run:
    """Return a run; its params, tags and metrics by name."""
    found = Run(name, name, "tweets", "1", status, int(content.pop("at", 1)), "")  # type: ignore[call-overload]
    found.tags.update({PARENT: parent} if parent else {})
    for key in ("params", "tags", "metrics"):
        getattr(found, key).update(content.get(key, {}))
    return found


def fold(number: int, parent: str, score: float, **params: str) -> Run:
    tags = {FOLD: str(number), TRIAL: "0", POINT: json.dumps({"data.fold": str(number), "lr": "1"})}
    params = {"data.fold": str(number), **params}
    return run(f"{parent}-{number}", parent, params=params, tags=tags, metrics={"acc": score})


def ids(found: list[Training]) -> list[list[str]]:
    return sorted(sorted(run.id for run in each.runs) for each in found)


def test_a_fold_set_is_one_training_whatever_its_folds_log_of_their_machines() -> None:
    places = [{"device": "T4"}, {"device": "P100", "threads": "2"}, {"device": "cpu"}]
    folds = [fold(at, "set", 0.5 + at / 10, **each) for at, each in enumerate(places)]
    parent = run("set", tags={TRIAL: "0"}, metrics={"acc_mean": 0.6})
    assert ids(trainings([*folds, parent])) == [["set", "set-0", "set-1", "set-2"]]
    # Another seed of it is more of the same training.
    other = [fold(at, "more", 0.5, seed="2", device="P100") for at in range(3)]
    [both] = trainings([*folds, *other])
    assert len(both.runs) == 6
    assert {each.repetition for each in both.runs} == {
        (str(at), seed) for at in range(3) for seed in ("", "2")
    }
    # One of which a single fold has finished, too: its key is none of the settings.
    assert len(trainings([*folds, other[0]])) == 1
    # A tag that tells nothing is in nobody's way.
    folds[0].tags[POINT] = "[1"
    assert len(trainings(folds)) == 1


def test_a_parent_and_what_is_nested_below_it_are_counted_once() -> None:
    # An Optuna search in one process: its parent says what came of it.
    search = run("search", metrics={"acc": 0.9, "system/gpu": 1.0})
    trials = [
        run(f"t{at}", "search", params={"lr": str(at)}, metrics={"acc": 0.8}) for at in (1, 2)
    ]
    assert ids(trainings([search, *trials])) == [["search"]]
    assert ids(trainings(trials)) == [["t1"], ["t2"]]  # they alone were asked for
    # Folds whose parent logs their mean under the same name.
    parent = run("cv", metrics={"acc": 0.5})
    folds = [run(f"f{k}", "cv", params={"fold": str(k)}, metrics={"acc": 0.5}) for k in range(2)]
    assert ids(trainings([parent, *folds])) == [["f0", "f1"]]
    # A parent that logs other things is as good as before.
    parent = run("all", params={"fold": "all"}, metrics={"acc_mean": 0.5, "system/gpu": 1.0})
    folds = [run(f"f{k}", "all", params={"fold": str(k)}, metrics={"acc": 0.5}) for k in range(2)]
    assert ids(trainings([parent, *folds])) == [["all", "f0", "f1"]]
    # The parent of a sweep is none, unless nothing else is there.
    sweep = run("sweep", tags={SWEEP: "{}"}, metrics={"best_acc": 0.9})
    trials = [run(f"t{at}", "sweep", params={"lr": str(at)}, metrics={"acc": 0.8}) for at in (1, 2)]
    assert ids(trainings([sweep, *trials])) == [["t1"], ["t2"]]
    assert ids(trainings([sweep])) == [["sweep"]]


def test_what_a_sweep_sets_is_a_setting_although_no_param_tells_it() -> None:
    points = [{"+lr": "1"}, {"+lr": "2"}]
    sides = []
    for word, point in zip("ab", points, strict=True):
        tags = {POINT: json.dumps(point), TRIAL: "0"}
        params = {"task": "t", "overrides": f"lr={point['+lr']}"}
        sides.append(
            Side(word, word * 40, (run(word, params=params, tags=tags, metrics={"f": 1}),))
        )
    assert compare(sides, None).params == {"lr": ("1", "2")}


def test_what_the_parents_of_sweeps_alone_have_is_no_line() -> None:
    sides = []
    for word in "ab":
        parent = run(f"s{word}", tags={SWEEP: "{}"}, metrics={"best_acc": 0.9})
        trial = run(f"t{word}", f"s{word}", params={"lr": "1"}, metrics={"acc": 0.8, "epoch": 3.0})
        sides.append(Side(word, word * 40, (parent, trial)))
    found, all_of_it = compare(sides, None), compare(sides, None, every_metric=True)
    assert ([line.name for line in found.metrics], found.hidden) == (["acc"], 1)
    assert [line.name for line in all_of_it.metrics] == ["acc", "epoch"]


def fold_set(name: str, launched: str, axis: str = "fold", **params: str) -> list[Run]:
    """Return the runs of a sweep over folds, its parent last; what it set, but for its folds."""
    of_all = {ENTRY_POINT: "main", SUBJECT: "a commit"}
    runs = []
    for at in range(3):
        told = {FOLD: str(at), TRIAL: "0", POINT: json.dumps({axis: str(at)})}
        tags = {**of_all, **told, SETTINGS: f"{launched} {axis}={at}"}
        scores = {"auc": 0.5 + at / 10, "fold_auc": 0.5}
        runs.append(
            run(f"{name}-{at}", name, params={axis: str(at), **params}, tags=tags, metrics=scores)
        )
    means = {"auc_mean": 0.6, "fold_auc_mean": 0.5}
    return [*runs, run(name, tags={**of_all, SWEEP: "{}"}, metrics=means)]


@pytest.mark.parametrize("axis", ["fold", "part"])
def test_two_sweeps_for_which_the_same_was_set_are_alike_whatever_their_commits_set(
    axis: str,
) -> None:
    sides = [
        Side(word, word * 40, tuple(fold_set(word, "epochs=4", axis, epochs="4", smoothing=said)))
        for word, said in (("a", "0.0"), ("b", "0.1"))
    ]
    # Each side has another training, so that they are not alike for being alone.
    sides = [
        replace(side, runs=(*side.runs, *fold_set(f"{side.word}2", "epochs=9", epochs=side.word)))
        for side in sides
    ]
    found = compare(sides, None, metrics=["auc"])
    assert not [each for each in found.notes if "no settings in common" in each]
    assert "their settings differ" not in found.answers[0]
    # A version that did not note what a sweep set is compared by what was logged, as before.
    for side in sides:
        for each in side.runs:
            each.tags.pop(SETTINGS, None)
    assert "their settings differ" in compare(sides, None, metrics=["auc"]).answers[0]


def test_the_parent_of_a_fold_set_does_not_make_its_settings_the_default() -> None:
    default = run("plain", tags={ENTRY_POINT: "main", SUBJECT: "one"}, metrics={"auc": 0.7})
    launched = [fold_set(word, "C=0.5", "seed", C="0.5") for word in "ab"]
    sides = [
        Side("a", "a" * 40, (default, *launched[0])),
        Side("b", "b" * 40, tuple(launched[1])),
    ]
    found = compare(sides, None, metrics=["auc"])
    assert [line.settings for line in found.metrics] == [""]
    assert [each.count for each in found.metrics[0].sides if each] == [3, 3]
    [training] = trainings(launched[1], "auc")
    assert training.launched == {frozenset({"\0main", "C=0.5"})}


class World:
    """A bucket with a sweep of one commit, beside runs of others."""

    def __init__(self, folder: Path, empty_index: Path) -> None:
        self.lab = Lab(folder)
        self.client = mlflow.MlflowClient(self.lab.tracking_uri)
        self.home = folder / "home"
        self._database = folder / "index.db"
        self._database.write_bytes(empty_index.read_bytes())
        tag = {SWEEP: SEARCH.to_tag()}
        self.sweep = self._parent("sweep", tag)
        self.trials = [
            self._trial(0, "1e-4", (0.71, 0.72, 0.73)),
            self._trial(1, "2e-4", (0.81, 0.80, 0.82)),
            self._trial(2, "3e-4", (0.99,), "KILLED", pruned=True),
            self._trial(3, "4e-4", (0.95, 0.96), "RUNNING"),
        ]
        self.client.set_tag(self.sweep, BEST, self.trials[1])
        BucketTrackingStore(self.lab.tracking_uri).flush()

    def _parent(self, name: str, tags: dict[str, str], status: str = "RUNNING") -> str:
        home = self.client.get_experiment_by_name("tweets").experiment_id
        tags = {"mlflow.source.git.commit": self.lab.merged, "mlflow.runName": name, **tags}
        found: str = self.client.create_run(home, tags=tags).info.run_id
        self.client.log_metric(found, "best_jaccard", 1.0)
        if status != "RUNNING":
            self.client.set_terminated(found, status)
        return found

    def _trial(
        self, number: int, lr: str, scores: tuple[float, ...], status: str = "FINISHED",
        *, pruned: bool = False,
    ) -> str:  # fmt: skip
        mark = {PRUNED: "hopeless"} if pruned else {}
        tags = {PARENT: self.sweep, TRIAL: str(number), POINT: json.dumps({"lr": lr})}
        trial = self._parent(f"trial {number}", {**tags, **mark}, status)
        for at, score in enumerate(scores):
            point = json.dumps({"lr": lr, "fold": str(at)})
            tags = {PARENT: trial, TRIAL: str(number), FOLD: str(at), POINT: point}
            params = {"fold": str(at), "overrides": f"lr={lr}", "device": f"machine {at}"}
            place = "kaggle" if at else "local"
            self.lab.log(self.lab.merged, f"fold {at}", params, score, backend=place, **tags)
        return trial

    def history(self) -> History:
        url = f"sqlite:///{self._database}"
        index = Index(url, EntityStore(open_bucket(str(self.lab.bucket))))
        assert index.refresh().problems == {}
        index.close()
        engine = sa.create_engine(url)
        return History(engine, lambda: EntityStore(open_bucket(str(self.lab.bucket))))

    def say(self, *words: str) -> Done:
        index = {"KAGGLEOPS_INDEX": f"sqlite:///{self._database}", "KAGGLEOPS_HOME": str(self.home)}
        command, *others = words
        named = (command, "--bucket", self.lab.bucket, *others)
        return kaggleops_here(*named, cwd=self.lab.repository.folder, **index, COLUMNS="200")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, empty_index: Path) -> Iterator[World]:
    """Nobody changes it."""
    yield World(tmp_path_factory.mktemp("sweeps"), empty_index)
    mlflow.set_tracking_uri(None)


def _scored(world: World, metric: str = "jaccard") -> list[Run]:
    history = world.history()
    return read_runs(history, history.experiments()["tweets"], metric)


def test_the_best_fold_set_of_a_sweep_stands_for_its_commit(world: World) -> None:
    first, *_ = leaderboard(_scored(world), named("jaccard"), {})
    assert first.sha == world.lab.merged
    assert (first.score.count, first.score.mean) == (3, pytest.approx(0.81))
    assert first.cells["backend"] == "kaggle, local"
    # The pruned trial's one fold scored more than all others.
    every = _scored(world)
    assert 0.99 not in {each.metrics["jaccard"] for each in every}
    history = world.history()
    last = history.scored(history.experiments()["tweets"], ["jaccard", "loss"], newest=4)
    newest = sorted(every, key=lambda run: -run.started_ms)
    assert {run.id for run in last} < {run.id for run in newest[:4]}  # two are of a trial pruned


def test_compare_takes_the_best_trial_of_a_sweep_and_its_folds_as_one_training(
    world: World,
) -> None:
    history = world.history()
    selector = Selector(history, world.lab.repository.folder)
    base, trial = selector.find(world.lab.base), selector.find(world.trials[0])
    found = compare([base, trial], world.lab.repository.folder, metrics=["jaccard"])
    [line] = found.metrics
    assert [each.count for each in line.sides if each] == [3, 3]
    [difference] = line.differences
    assert difference is not None
    assert (difference.how, difference.mean) == ("by fold", pytest.approx(0.1))
    with pytest.raises(UsageError, match="none of its runs finished"):
        selector.find(world.trials[2])
    # While the sweep goes on, the newest trial is taken; when it is over, its best one.
    sweep, trials = selector.sweep(world.sweep)
    assert [each.id for each in trials] == world.trials[::-1]
    side = selector.find(world.lab.merged)
    over = Side(side.word, side.sha, (sweep, *side.runs))
    found = compare([base, over], None, metrics=["jaccard"])
    assert {each.parent for each in found.sides[1].runs} == {world.trials[1], world.sweep}
    assert found.notes[0].startswith("The sides have no settings in common: ")
    assert found.answers[0].endswith(": their settings differ.")
    assert selector.run(world.sweep).parent == world.trials[1]
    assert selector.run(world.lab.merged).metrics["jaccard"] > 0.8
    with pytest.raises(UsageError, match=f"it is none. Name one by its id: {world.sweep}"):
        selector.sweep(world.lab.base)


def test_runs_that_are_said_to_be_nested_in_one_another_are_compared() -> None:
    sides = []
    for name in ("old", "new"):
        runs = [
            run(f"{name}-{at}", f"{name}-{3 - at}", params={"lr": str(at)}, metrics={"acc": at})
            for at in (1, 2)
        ]
        runs.append(run(f"{name}-3", f"{name}-3", params={"lr": "3"}, metrics={"acc": 3.0}, at=5))
        sides.append(Side(name, "", tuple(runs)))
    found = compare(sides, None, metrics=["acc"])
    assert [[each.id for each in side.runs] for side in found.sides] == [["old-3"], ["new-3"]]


def test_leaderboard_lists_the_trials_of_a_sweep(world: World) -> None:
    done = world.say("leaderboard", "--sweep", world.sweep, "--json")
    assert done.code == 0, done.errors
    best, second, third = done.json["trials"]
    assert (best["trial"], best["run_id"]) == ("1", world.trials[1])
    assert best["score"] == pytest.approx(0.81)
    assert best["settings"] == {"lr": "2e-4"}
    assert (second["trial"], len(third["runs"])) == ("0", 2)
    said = world.say("leaderboard", "--sweep", world.sweep).output
    assert "0.8100 ± 0.0100 (3 folds)" in said
    assert "lr=2e-4" in said
    assert "sweep: 2 of 4 trials, 1 running, 1 pruned." in said
    done = world.say("leaderboard", "--sweep", world.sweep, "--metric", "nothing")
    assert "No finished run of it has nothing." in done.output
    assert "it is none" in world.say("leaderboard", "--sweep", "v1").error


def test_status_says_how_far_a_sweep_is(world: World) -> None:
    for words in ((), (world.sweep,)):
        shown = {row["run_id"]: row for row in world.say("status", *words, "--json").json["runs"]}
        assert shown[world.sweep]["sweep"] == "sweep, 2 of 4 trials, 1 running, 1 pruned"
