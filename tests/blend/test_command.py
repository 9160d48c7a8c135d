"""`kaggleops blend`, from the runs of a bucket to a run that is compared, ranked and submitted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kaggleops.campaign.sweep import Sweep
from tests.blend.world import Bucket, noisy, rows
from tests.command import Done, kaggleops_here
from tests.fakes.kaggle_server import KaggleServer

SHA = "a" * 40
ROWS, TEST = rows(), rows(50, first=200)
TRUTH = np.random.default_rng(0).normal(10, 3, len(ROWS))
TEST_TRUTH = np.random.default_rng(1).normal(10, 3, len(TEST))


@pytest.fixture
def bucket(tmp_path: Path, empty_index: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    database = tmp_path / "index.db"
    database.write_bytes(empty_index.read_bytes())
    monkeypatch.setenv("KAGGLEOPS_INDEX", f"sqlite:///{database}")
    return Bucket(tmp_path)


def ask(bucket: Bucket, *words: object) -> Done:
    return kaggleops_here(*words, "--bucket", bucket.folder)


def trained_silently(bucket: Bucket, name: str, spread: float, seed: int) -> str:
    """A training whose folds stand in the table alone."""
    predicted = noisy(TRUTH, spread, seed)
    table = ROWS.assign(target=TRUTH, pred=predicted)
    tags = {"mlflow.source.git.commit": SHA, "kaggleops.score": "rmse lower"}
    whole = float(np.mean((predicted - TRUTH) ** 2) ** 0.5)
    return bucket.run(name, {"oof.csv": table}, {"rmse": whole}, {"task": "houses"}, **tags)


def test_the_folds_of_an_out_of_fold_table_are_compared(bucket: Bucket) -> None:
    one, two = trained_silently(bucket, "one", 1.0, 1), trained_silently(bucket, "two", 1.1, 2)
    found = ask(bucket, "compare", two, one)
    assert found.code == 0, found.errors
    assert "(5 folds)" in found.output
    assert "over 5 folds" in found.output
    done = ask(bucket, "blend", one, two, "--json")
    assert done.code == 0, done.errors
    found = ask(bucket, "compare", one, done.json["run_id"])
    assert "over 5 folds ▲" in found.output


def trained(bucket: Bucket, name: str, spread: float, seed: int, **more: Any) -> str:
    """A training of five folds in one process, which logs and keeps what any repository would."""
    predicted = noisy(TRUTH, spread, seed)
    errors = (predicted - TRUTH) ** 2
    folds = {f"fold_{fold}_rmse": errors[ROWS["fold"] == fold].mean() ** 0.5 for fold in range(5)}
    files = {
        "oof.csv": ROWS.assign(target=TRUTH, pred=predicted),
        "submission.csv": pd.DataFrame(
            {"id": TEST["id"], "price": noisy(TEST_TRUTH, spread, seed + 100)}
        ),
    }
    metrics = {"rmse": float(np.mean(list(folds.values()))), **folds}
    tags = {"mlflow.source.git.commit": SHA, "kaggleops.score": "rmse lower", **more}
    return bucket.run(name, files, metrics, {"model": name, "task": "houses"}, **tags)


def test_the_best_runs_are_blended_compared_ranked_and_submitted(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = trained(bucket, "good", 1.0, 1)
    other = trained(bucket, "other", 1.1, 2)
    trained(bucket, "useless", 30.0, 3)
    bucket.run("no-table", {}, {"rmse": 0.1}, {"model": "x"}, **{"mlflow.source.git.commit": SHA})

    done = ask(bucket, "blend", "best:3", "--dry-run")
    assert done.code == 0, done.errors
    assert "The blend is better than good, the best single run, in rmse: -0." in done.output
    assert "nested: each fold is scored with weights found on the others" in done.output
    assert "no-table" in done.errors
    assert len(bucket.client.search_runs([bucket.experiment])) == 4

    done = ask(bucket, "blend", "best:3", "--json")
    assert done.code == 0, done.errors
    told = done.json
    weights = {each["name"]: each["weight"] for each in told["members"]}
    assert weights["good"] == pytest.approx(0.55, abs=0.1)
    assert weights["useless"] < 0.01
    run = bucket.client.get_run(told["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["rmse"] == pytest.approx(told["score"])
    assert run.data.metrics["rmse"] < 0.9
    assert run.data.metrics["fold_3_rmse"] == told["folds"]["3"]
    assert json.loads(run.data.tags["kaggleops.blend"]).keys() >= {good, other}
    assert f"/runs/{good}?" in run.data.tags["mlflow.note.content"]
    names = {each.path for each in bucket.client.list_artifacts(told["run_id"])}
    assert names >= {"oof.csv", "submission.csv", "weights.json", "members.json"}
    folder = bucket.client.download_artifacts(told["run_id"], "", str(tmp_path))
    submitted = pd.read_csv(Path(folder, "submission.csv"))
    assert submitted.columns.tolist() == ["id", "price"]
    error = np.sqrt(np.mean((submitted["price"] - TEST_TRUTH) ** 2))
    assert error == pytest.approx(told["score"], abs=0.15)  # as the honest score says

    board = ask(bucket, "leaderboard", "--json").json["commits"]
    assert [(each["commit"], each["members"]) for each in board] == [
        (SHA, 0),
        ("", 2),
    ]  # no-table is of it, too
    assert "blend of 2" in ask(bucket, "leaderboard").output
    found = ask(bucket, "compare", good, told["run_id"])
    assert found.code == 0, found.errors
    assert "over 5 folds ▲" in found.output

    # A blend is a member like any other, but not beside its own members.
    assert "Run again" not in ask(bucket, "reproduce", told["run_id"]).output  # of no commit
    again = ask(bucket, "blend", told["run_id"], good)
    assert again.code == 2
    assert again.error == (
        "error: blending blend of 2: it is a blend of good, which would count twice. "
        "Leave one of the two out."
    )
    upper = ask(bucket, "blend", told["run_id"], "useless", "--json")
    assert upper.code == 0, upper.errors
    for words in ([upper.json["run_id"], good], [good, upper.json["run_id"]]):
        assert (
            "it is a blend of good, which would count twice" in ask(bucket, "blend", *words).error
        )
    both = ask(bucket, "blend", upper.json["run_id"], told["run_id"])
    assert "it is a blend of blend of 2, which would count twice" in both.error

    with KaggleServer(tmp_path / "kaggle") as server:
        server.add_user("ada")
        server.api("ada")
        for name in ("HOME", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_ENVIRONMENT"):
            monkeypatch.setenv(name, server.environment("ada")[name])
        sample = TEST[["id"]].assign(price=0).to_csv(index=False).encode()
        files = {"sample_submission.csv": sample}
        made = server.add_competition("houses", "Houses", files, lambda content: 0.7)
        done = ask(bucket, "submit", told["run_id"], "--competition", "houses", "--json")
        assert done.code == 0, done.errors
        assert done.json["public_score"] == 0.7
        assert len(made.submissions) == 1
    assert "public_score" not in bucket.client.get_run(good).data.metrics  # it is the blend's


def test_folds_that_are_runs_of_their_own_are_one_member(bucket: Bucket) -> None:
    def folds(name: str, seed: int, **tags: str) -> None:
        predicted = noisy(TRUTH, 1.0, seed)
        for fold in range(5):
            these = ROWS["fold"] == fold
            table = ROWS[these].assign(target=TRUTH[these], prediction=predicted[these])
            error = float(np.mean((predicted[these] - TRUTH[these]) ** 2) ** 0.5)
            params = {"fold": str(fold), "model": name}
            if tags:
                tags |= {"sweep_fold": str(fold), "sweep_point": json.dumps({"model": name})}
            bucket.run(
                f"{name} {fold}", {"oof.csv": table}, {"rmse": error}, params, **commit, **tags
            )

    commit = {"mlflow.source.git.commit": SHA}
    folds("alone", 1)
    sweep = Sweep(["fold=0,1,2,3,4", "model=a,b"], fold_axis="fold", folds=list("01234"))
    top = bucket.run("search", {}, **commit, sweep=sweep.to_tag())
    for number, name in enumerate("ab"):
        tags = {"mlflow.parentRunId": top, "sweep_trial": str(number)}
        trial = bucket.run(f"trial {number}", {}, **commit, **tags)
        folds(name, number + 2, **(tags | {"mlflow.parentRunId": trial}))
    for words, count in (
        (("--sweep", "search"), 2),
        (("best:3",), 3),
        (("best:1", "--sweep", top), 1),
    ):
        done = ask(bucket, "blend", *words, "--dry-run", "--json")
        if count == 1:
            assert "that is 1 run" in done.error
            continue
        assert done.code == 0, done.errors
        assert len(done.json["members"]) == count
        assert done.json["verdict"] == "better"


def test_members_that_cannot_be_blended_are_named(bucket: Bucket) -> None:
    good = trained(bucket, "good", 1.0, 1)
    whole = bucket.run("whole", {}, {"rmse": 0.1}, {"fold": "all"})
    bucket.client.create_run(bucket.experiment, run_name="training")
    for name, array in (("empty", np.zeros((0, 2))), ("cube", np.zeros((2, 2, 2)))):
        bucket.run(name, {"oof.npy": array})
    bucket.run("{curly}", {"oof.csv": ROWS.head(0)})
    nothing = bucket.run("nothing", {})
    bucket.client.log_text(nothing, "", "oof.csv")
    rows_file = str(bucket.folder.parent / "rows.csv")
    ROWS.to_csv(rows_file, index=False)
    for words, line in (
        ([good, "empty", "--truth", rows_file], "no array of numbers, but float64 of shape (0, 2)"),
        ([good, "cube", "--truth", rows_file], "float64 of shape (2, 2, 2). Keep an array of "),
        ([good, "{curly}"], "reading oof.csv of run {curly}: it has no rows"),
        ([good, "nothing"], "reading oof.csv of run nothing: it is not CSV (No columns"),
        ([good, "whole"], "blending whole: it has neither oof.csv nor oof.npy: with fold=all and"),
        ([good, "training"], "blending training: it is RUNNING. Wait for it"),
        ([good], "blending: that is 1 run. A blend is of 2 to 100 runs."),
        ([good, good], "it is named twice, which would count twice"),
        (["best:3", good], "best:3 " + good + " names runs in two ways"),
        ([], "nothing is named"),
        ([good, "nobody"], "no run in "),
        (["best:2"], "that is 1 run. A blend is of 2 to 100 runs. `best` takes finished runs with"),
        (["--sweep", good], "it is none"),
    ):
        done = ask(bucket, "blend", *words)
        assert (done.code, line in done.error) == (2, True), (words, done.errors)
    assert bucket.client.get_run(whole).info.status == "FINISHED"


def test_arrays_of_several_classes_and_folds_of_runs_of_their_own(
    bucket: Bucket, tmp_path: Path
) -> None:
    draw = np.random.default_rng(4)
    right = draw.integers(0, 3, len(ROWS))

    def shares(answers: np.ndarray, seed: int) -> np.ndarray:
        logits = 2 * np.eye(3)[answers] + np.random.default_rng(seed).normal(
            0, 1.5, (len(answers), 3)
        )
        return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)

    test_right = draw.integers(0, 3, len(TEST))
    arrays = bucket.run(
        "arrays",
        {"oof.npy": shares(right, 1), "test.npy": shares(test_right, 11)},
        {"accuracy": 0.7},
    )
    # The other one is a run a fold below one that holds nothing, and a run that predicted.
    parent = bucket.run("folds", {})
    names = [f"prediction_{each}" for each in ("a", "b", "c")]
    for fold in range(5):
        these = np.flatnonzero(ROWS["fold"] == fold)
        table = ROWS.loc[these, ["id"]].reset_index(drop=True)
        table[names] = shares(right, 2)[these]
        below = {"mlflow.parentRunId": parent}
        bucket.run(
            f"fold {fold}", {"oof.csv": table}, {"accuracy": 0.7}, {"fold": str(fold)}, **below
        )
    submission = TEST[["id"]].copy()
    submission[names] = shares(test_right, 12)
    bucket.run("predicting", {"submission.csv": submission}, params={"runs": parent})

    ROWS.assign(kind=np.array(["a", "b", "c"])[right])[["id", "kind"]].to_csv(
        "train.csv", index=False
    )
    submission.to_csv("sample.csv", index=False)
    words = ["blend", arrays, "folds", "--metric", "accuracy", "--target", "kind"]
    assert "nothing says which rows it is of" in ask(bucket, *words).error
    words += ["--truth", "train.csv"]
    bare = ask(bucket, *words, "--json")
    assert bare.code == 0, bare.errors
    names_of = {each.path for each in bucket.client.list_artifacts(bare.json["run_id"])}
    assert "no submission: arrays has no predictions.csv" in bare.json["notes"][-1]
    assert "oof.csv" in names_of
    assert "submission.csv" not in names_of
    words += ["--sample", "sample.csv"]
    done = ask(bucket, *words, "--json")
    assert done.code == 0, done.errors
    assert done.json["metric"] == "accuracy"
    assert len(done.json["folds"]) == 5
    folder = bucket.client.download_artifacts(done.json["run_id"], "", str(tmp_path))
    found = pd.read_csv(Path(folder, "submission.csv"))
    assert found.columns.tolist() == ["id", *names]
    accuracy = (found[names].to_numpy().argmax(axis=1) == test_right).mean()
    assert accuracy == pytest.approx(done.json["score"], abs=0.15)

    Path("ours.py").write_text(
        "def share(y_true, y_pred):\n"
        "    return (y_true == y_pred.argmax(axis=1).astype(str).astype('U1')).mean()\n"
        "def certainty(y_true, y_pred):\n"
        "    return y_pred.max(axis=1).mean()\n"
    )
    own = ask(bucket, *words, "--metric", "ours:certainty", "--json", "--dry-run")
    assert own.code == 0, own.errors
    assert own.json["run_id"] is None
    assert own.json["metric"] == "certainty"
    lower = ask(
        bucket, *words, "--metric", "ours:certainty", "--lower-is-better", "--json", "--dry-run"
    )
    assert lower.json["lower_is_better"] is True
