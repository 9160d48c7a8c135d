"""`kaggleops blend` reads what our own classifier keeps: probabilities, not answers alone."""

import numpy as np
import pandas as pd
import pytest

from competitions.disaster_tweets import DisasterTweets, DisasterTweetsConfig
from competitions.tasks import Examples
from kaggleops.blend.members import Member, Options
from kaggleops.blend.report import blend
from kaggleops.reports.score import declared
from kaggleops.reports.trainings import Run
from kaggleops.tags import SCORE


def test_disaster_tweets_are_blended_by_their_probabilities() -> None:
    task = DisasterTweets(DisasterTweetsConfig("disaster_tweets", 64, 0.5))
    train, test = task.sample()

    def predicted(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
        right = (rows["target"] == "1").to_numpy()
        noise = np.random.default_rng(seed).normal(0, 2, len(rows))
        logits = np.column_stack([0 * noise, 3.0 * right - 1.5 + noise])
        return task.decode(rows, Examples(rows, [{}] * len(rows)), (logits,))

    members, probabilities = [], []
    for seed in (1, 2):
        oof = predicted(train, seed)
        oof.insert(1, "fold", np.arange(len(oof)) % 5)  # as a training keeps it: the id, the fold
        of_test = predicted(test, seed + 10)
        kept = of_test[["id", "prediction", "probability"]]
        run = Run(str(seed) * 32, f"seed {seed}", "tweets", "1", "FINISHED", 0, "")
        tables = (each.astype(str) for each in (oof, kept, task.submission(of_test)))
        members.append(Member(run, *tables))
        probabilities.append(of_test["probability"].to_numpy())
    found = blend(members, Options(), declared({SCORE: task.score_name}))
    assert found.notes == ()
    assert (found.score.name, found.verdict) == ("f1", "better")
    scores = task.scores(found.oof.astype({"prediction": int}))
    assert found.whole == pytest.approx(scores["f1"])
    assert found.submission is not None
    assert found.submission.columns.tolist() == ["id", "target"]
    mean = np.tensordot(found.nested.weights.values, np.array(probabilities), axes=1)
    assert found.submission["target"].tolist() == [str(int(each >= 0.5)) for each in mean]
