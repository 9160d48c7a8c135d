"""`kaggleops leaderboard`: the commits of an experiment, the best first."""

import math
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from kaggleops.git.commits import nearest_before
from kaggleops.reports.html import data_in
from kaggleops.reports.leaderboard import leaderboard
from kaggleops.reports.score import named
from kaggleops.reports.trainings import Run
from kaggleops.tags import COMMIT
from kaggleops.tracking.store import BucketTrackingStore
from tests.command import Done, kaggleops, kaggleops_here
from tests.reports.lab import Lab


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    yield Lab(tmp_path)
    mlflow.set_tracking_uri(None)


def test_the_best_commit_stands_first_and_a_regression_is_marked(lab: Lab, tmp_path: Path) -> None:
    tags = {"backend": "kaggle", "git_branch": "idea"}
    merged = lab.log(lab.merged, "without folds", {"lr": "0.2"}, 0.67, **tags)
    here = {"cwd": lab.repository.folder, "KAGGLEOPS_HOME": str(tmp_path / "home")}
    # What Kaggle says of three of them, which it ranks otherwise.
    client = mlflow.MlflowClient(lab.tracking_uri)
    for run_id, score in (
        (merged, 0.70),
        (lab.runs[lab.better][0], 0.72),
        (lab.runs[lab.worse][0], 0.50),
    ):
        client.log_metric(run_id, "public_score", score)
    client.log_metric(merged, "private_score", math.inf)  # which no page can draw
    client.log_metric(lab.runs[lab.better][1], "public_score", math.nan)
    BucketTrackingStore(lab.tracking_uri).flush()
    page = tmp_path / "page.html"
    done = kaggleops("leaderboard", "--bucket", lab.bucket, "--json", "--html", page, **here)
    assert done.code == 0, done.errors
    assert done.json["metric"] == "jaccard"
    assert done.json["rank_correlation"] == {"public_score": pytest.approx(0.5)}
    shown = data_in(page.read_bytes())
    assert [each["label"].split(" ", 1)[1] for each in shown["groups"]] == [
        "Merge idea",
        "Learn faster",
        "Train",
        "Learn much faster",
    ]
    assert [len(each["points"]) for each in shown["groups"]] == [1, 3, 3, 3]
    assert [each["y"] for each in shown["submitted"]] == [0.70, 0.72, 0.50]
    commits = {each["commit"]: each for each in done.json["commits"]}
    assert list(commits) == [lab.merged, lab.better, lab.base, lab.worse]
    assert commits[lab.worse]["parent"] == lab.merged
    assert not commits[lab.worse]["regression"]  # of a single run nothing can be said
    assert commits[lab.better]["parent"] == lab.base
    assert commits[lab.better]["change"] == pytest.approx(0.14 / 3)
    done = kaggleops_here("leaderboard", "--bucket", lab.bucket, **here)
    assert "Learn much faster" in done.output
    assert "Rank correlation of jaccard and public_score: +0.50 over 3 commits." in done.output


def test_where_there_are_several_experiments_it_says_of_which_it_is(
    lab: Lab, tmp_path: Path
) -> None:
    def say(*words: str, home: str = "home") -> Done:
        named, here = (*words, "--bucket", lab.bucket), {"KAGGLEOPS_HOME": str(tmp_path / home)}
        return kaggleops_here(*named, cwd=lab.repository.folder, **here)

    assert say("leaderboard", home="another one").errors == ""
    lab.log(lab.better, "look at it", {}, 0.1, experiment="eda")
    BucketTrackingStore(lab.tracking_uri).flush()
    told = "Of the experiment eda, the one used last. --experiment NAME ranks another."
    assert told in say("leaderboard").errors
    assert "Of the experiment" not in say("leaderboard", "--experiment", "tweets").errors
    refused = say("compare", lab.better)
    assert "no commit before it has finished runs with jaccard in eda. Name two" in refused.error
    lab.log(lab.better, "look again", {}, 0.1, experiment="look", status="FAILED")
    BucketTrackingStore(lab.tracking_uri).flush()
    said = say("leaderboard", home="new").error
    assert "ranking the commits of look: no finished run has a metric" in said


def test_a_run_of_uncommitted_changes_stands_for_no_commit(lab: Lab, tmp_path: Path) -> None:
    patched = lab.log(lab.worse, "patched", {}, 0.99, uncommitted="see uncommitted.patch")
    below = {"mlflow.parentRunId": patched}
    nested = lab.log(lab.worse, "nested", {"lr": "8"}, 0.98, **below)
    deleted = lab.log(lab.worse, "deleted", {}, 0.99, uncommitted="see uncommitted.patch")
    lab.log(lab.worse, "left", {}, 0.98, **{"mlflow.parentRunId": deleted})
    alone = lab.log(lab.empty, "alone", {}, 0.97, uncommitted="see uncommitted.patch")
    lab.log(lab.merged, "before", {}, 0.96, uncommitted="see uncommitted.patch")
    lab.log(lab.empty, "other", {}, 0.5, experiment="other", uncommitted="see uncommitted.patch")
    mlflow.MlflowClient(lab.tracking_uri).delete_run(deleted)
    BucketTrackingStore(lab.tracking_uri).flush()

    home = str(tmp_path / "home")

    def say(command: str, *words: str) -> Done:
        named = (command, *words, "--bucket", lab.bucket)
        return kaggleops_here(*named, cwd=lab.repository.folder, KAGGLEOPS_HOME=home)

    best, *_, last = say("leaderboard", "--experiment", "tweets", "--json").json["commits"]
    assert (best["commit"], last["commit"]) == (lab.better, lab.worse)
    assert sorted(last["runs"]) == sorted(lab.runs[lab.worse])
    (made,) = say("compare", lab.base, lab.worse, "--json").json["metrics"][:1]
    assert [each["runs"] for each in made["sides"]] == [3, 3]
    sides = say("compare", lab.worse, "--json").json["sides"]
    assert [each["commit"] for each in sides] == [lab.better, lab.worse]  # not what lies between
    assert last["parent"] == lab.better
    assert say("reproduce", lab.worse, "--json").json["run_id"] in lab.runs[lab.worse]
    best = say("reproduce", "best", "--metric", "jaccard", "--json").json
    assert best["run_id"] in lab.runs[lab.better]
    # Where there is none but those, a line says so, and which run may be named.
    refused = say("compare", lab.base, lab.empty)
    assert refused.code == 2
    assert "has none but of uncommitted changes" in refused.error
    assert say("compare", lab.empty, "--experiment", "tweets").error.endswith(f"run: {alone}.")
    said = say("leaderboard", "--experiment", "other").output
    assert "No commit to rank: 1 run of uncommitted changes with jaccard left out." in said
    assert "One of uncommitted changes" in say("reproduce", "best").error
    assert "uncommitted" not in say("reproduce", "best", "--metric", "nonsense").error
    # Itself named, it is a run as any other.
    for run_id in (patched, nested, alone):
        assert say("reproduce", run_id, "--json").json["run_id"] == run_id
    for sides in ((lab.worse, patched), (patched,), (nested,)):  # before it, its own commit is
        done = say("compare", *sides, "--json")
        assert [each["commit"] for each in done.json["sides"]] == [lab.worse, lab.worse]
        assert sorted(done.json["sides"][0]["runs"]) == sorted(lab.runs[lab.worse])
    assert [each["commit"] for each in say("compare", alone, "--json").json["sides"]] == [
        lab.base,
        lab.empty,
    ]
    (note,) = say("compare", lab.worse, patched, "--json").json["notes"]
    said = f"{patched} ({lab.worse[:10]}) ran uncommitted changes, which are not shown"
    assert note == f"{said}: see its uncommitted.patch."


def scored(sha: str, value: float, fold: int, started_ms: int = 1, **more: str) -> Run:
    return Run(
        f"{sha}{fold}", "", "tweets", "1", "FINISHED", started_ms, "",
        params={"fold": str(fold), "seed": "1", "lr": more.pop("lr", "1")},
        tags={COMMIT: sha},
        metrics={"jaccard": value, "loss": value, **{k: float(v) for k, v in more.items()}},
    )  # fmt: skip


def test_worse_than_the_commit_before_it_beyond_chance_is_a_regression() -> None:
    runs = [scored("a", 0.6 + fold / 100, fold) for fold in range(3)]
    runs += [scored("b", 0.5 + fold / 90, fold) for fold in range(3)]
    runs += [scored("b", 0.1, 0, lr="2")]  # not its best training
    runs += [scored("b", 0.2, 0, started_ms=0)]  # not its newest of that fold
    runs[0] = scored("a", 0.6, 0, public_score="0.71")
    first, second = leaderboard(runs, named("jaccard"), {"b": "a"})
    assert (first.sha, second.sha) == ("a", "b")
    assert second.regression
    assert second.score.mean == pytest.approx(0.5 + 1 / 90)
    assert first.cells["public_score"] == 0.71
    assert [entry.sha for entry in leaderboard(runs, named("loss"), {})] == ["b", "a"]
    assert not any(entry.regression for entry in leaderboard(runs, named("loss"), {"b": "a"}))


def test_the_commit_before_is_found_through_a_merge(lab: Lab) -> None:
    folder = lab.repository.folder
    assert nearest_before(folder, [lab.base, lab.worse]) == {lab.worse: lab.base}
    found = nearest_before(folder, [lab.base, lab.better, lab.merged, lab.worse, "0" * 40])
    assert found == {lab.worse: lab.merged, lab.merged: lab.better, lab.better: lab.base}
