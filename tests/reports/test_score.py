"""Which metric is the score: declared, or learnt from the names; never a rate, a time or a loss."""

from pathlib import Path

import pytest

from kaggleops.errors import UsageError
from kaggleops.git.project_files import declared_score
from kaggleops.reports.score import (
    Score,
    declared,
    fold_of,
    is_score,
    of_folds,
    require_score,
    score_among,
    score_of,
)
from kaggleops.tags import SCORE
from tests.fakes.git_server import Repository

NO_SCORES = """
lr lr-Adam lr-AdamW/pg1 lr0 learning_rate loss train_loss train/loss train_loss_epoch trainloss
training_accuracy_score training_score train-rmse training-auc learn_RMSE epoch best_epoch
best_iteration stopped_iteration n_estimators num_leaves grad_norm total_flos train_runtime
eval_runtime eval_samples_per_second fit_time_s seconds system/gpu_0_power rmse_std cv_std seed fold
n_folds public_score private_score fold_0_rmse rmse_fold_0 fold0/rmse val.rmse-split3 memory_gb
val_steps weight_decay huber/step
"""
SCORES = """
rmse RMSE val_rmse cv_rmse fold_rmse jaccard auc val_auc oof_auc f1_macro valid_0-rmse
validation_0-logloss val_loss eval_loss valLoss log_loss logloss val/acc val_acc_epoch dev.em
ndcg@10 r2 map_50
точность val_précision
mean_absolute_error neg_log_loss custom_metric test_score error_rate accuracy_score_X_val
"""


def test_what_is_a_score_and_what_is_none() -> None:
    assert [name for name in NO_SCORES.split() if is_score(name)] == []
    assert [name for name in SCORES.split() if not is_score(name)] == []


@pytest.mark.parametrize(
    ("names", "score"),
    [
        ("lr loss val_loss val_acc epoch", "val_acc"),
        ("loss accuracy val_loss val_accuracy", "val_accuracy"),  # Keras: accuracy is of training
        ("lr loss rmse seconds", "rmse"),
        ("lr train_loss val_loss", "val_loss"),
        ("loss progress jaccard jaccard_neutral system/gpu epoch", "jaccard"),
        ("fold_0_auc fold_1_auc train_auc", "auc"),
        ("fold_0_auc fold_1_auc cv_auc cv_auc_std", "cv_auc"),
        ("fold_rmse oof_rmse", "fold_rmse"),
        ("train_loss eval_loss eval_f1 eval_runtime grad_norm learning_rate", "eval_f1"),
        ("public_score competition_metric", "competition_metric"),
    ],
)
def test_the_score_is_learnt_from_names(names: str, score: str) -> None:
    found = score_among(dict.fromkeys(names.split(), 3))
    assert found is not None
    assert found.name == score


def test_nothing_is_a_score_where_nothing_looks_like_one() -> None:
    counted = {"lr": 5, "loss": 5, "epoch": 5, "system/cpu": 9}
    assert score_among(counted) is None
    with pytest.raises(UsageError) as told:
        require_score(counted, None, "ranking the commits")
    assert str(told.value) == (
        "ranking the commits: none of the metrics looks like a score: epoch, loss, lr, system/cpu. "
        "Name one with --metric, or write `score: NAME` into MLproject."
    )


def test_a_declared_score_counts_more_than_names_and_rare_metrics_less() -> None:
    counted = {"auc": 10, "gap": 4, "f1": 1}
    assert score_among(counted) == Score("auc", lower=False)
    gap = declared({SCORE: "gap lower"})
    assert gap == Score("gap", lower=True)
    assert score_among(counted, gap) == gap
    assert score_among({"auc": 10}, gap) == Score("auc", lower=False)  # no run has it
    assert declared({SCORE: "val loss"}) == Score("val loss", lower=True)
    assert declared({}) is None
    assert score_of({SCORE: "loss"}, {"auc": 0.5, "loss": 2.0}) == (Score("loss", lower=True), 2.0)


def test_the_values_of_folds_under_names_of_their_own_are_one_score() -> None:
    metrics = {"fold_0_rmse": 0.5, "fold_1_rmse": 0.7, "lr": 0.1, "fold_0_seconds": 3.0}
    assert score_of({}, metrics) == (Score("rmse", lower=True), 0.6)
    assert fold_of("val/fold_03/rmse") == ("val/rmse", "3")
    assert fold_of("cv5_auc") is None  # of five folds
    assert fold_of("threefold 2") is None
    assert of_folds("cv_rmse", metrics) == {"0": 0.5, "1": 0.7}
    assert of_folds("val_rmse", metrics) == {}
    by_step = {"fold_rmse": 0.9, "rmse": 0.6}  # the last fold's, and the mean
    assert score_of({}, by_step) == (Score("fold_rmse", lower=True), 0.6)


def test_a_commit_declares_its_score(tmp_path: Path) -> None:
    repository = Repository(tmp_path)

    def told(name: str, content: str) -> str:
        repository.write(**{name: content})
        return declared_score(repository.folder, repository.commit("Declare"))

    assert told("readme", "no score") == ""
    assert told("config/config.yaml", "score: jaccard\n") == "jaccard"
    assert told("config/config.yaml", "score: {weights: [1, 2]}\n") == ""
    assert told("conf/config.yaml", "score: {metric: gap, better: higher}\n") == "gap higher"
    assert told("MLproject", "score: {metric: rmse, better: lower}\n") == "rmse lower"
    with pytest.raises(UsageError, match=r"its score names no metric. Write `score: NAME`"):
        told("MLproject", "score: [auc]\n")
