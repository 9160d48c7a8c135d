"""What a metric's name tells of it."""

import pytest

from kaggleops.reports.statistics import higher_is_better

LOW = """
loss eval_loss val/loss train.log_loss trainloss Logloss binary_logloss mlogloss hamming_loss
error merror error@0.5 mean_absolute_error max-error error_rate rmse RMSE valid_0-rmse rmse_fold2
rmsle RMSLE val_rmsle msle mse mcrmse wrmsse rmspe mae mae_fold_0 mae_public mae2 mape smape SMAPE
wape medae crps brier brier_score wer eval/cer deviance gamma_deviance CrossEntropy perplexity ppl
negative_log_likelihood gamma-nloglik l1 l2 kl_divergence false_negative_rate fid train_runtime
inference_time duration
"""
HIGH = """
accuracy jaccard jaccard_negative f1 roc_auc ndcg@10 map mAP map_50 r2 mcc iou dice precision recall
bleu rouge1 kappa sentiment_acc public_score explained_variance train_samples_per_second
neg_log_loss mean_test_neg_rmse neg_mean_squared_error log_likelihood brier_skill_score
maestro_accuracy remaining answer_em water_iou lossless_ratio
"""


@pytest.mark.parametrize("name", LOW.split())
def test_less_of_an_error_is_better(name: str) -> None:
    assert not higher_is_better(name)


@pytest.mark.parametrize("name", HIGH.split())
def test_more_of_a_score_is_better(name: str) -> None:
    assert higher_is_better(name)


def test_what_somebody_says_of_a_metric_counts_more_than_its_name() -> None:
    assert higher_is_better("loss", lower_is_better=False)
    assert not higher_is_better("jaccard", lower_is_better=True)
