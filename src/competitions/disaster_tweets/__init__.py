"""NLP with Disaster Tweets (Kaggle): does a tweet tell of a real disaster, or only sound like one?

The keyword, where a tweet has one, is put before it as the first of a pair, as a question is. The
model chooses between two answers. Score: F1 of "a disaster".

https://www.kaggle.com/competitions/nlp-getting-started
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import unquote

import numpy as np
import pandas as pd
from omegaconf import MISSING

from competitions.disaster_tweets.sample import write_sample
from competitions.schema import check_range
from competitions.tables import check_unique, check_values, leave_out_blank, read_table
from competitions.tasks import Examples, Logits, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from transformers import PreTrainedTokenizerBase

ANSWERS = {"0": "other", "1": "disaster"}


@dataclass
class DisasterTweetsConfig:
    """The keys of config/task/disaster_tweets.yaml."""

    name: str = MISSING
    max_length: int = MISSING
    threshold: float = MISSING

    def check(self) -> None:
        """Raise `UsageError` for a value out of range."""
        check_range("task.max_length", self.max_length, self.max_length >= 16, "16 or more")
        valid = 0 < self.threshold < 1
        check_range("task.threshold", self.threshold, valid, "between 0 and 1")


class DisasterTweets(Task):
    """Binary classification of tweets."""

    competition: ClassVar[str] = "nlp-getting-started"
    config_class: ClassVar[type] = DisasterTweetsConfig
    model_class: ClassVar[str] = "AutoModelForSequenceClassification"
    score_name: ClassVar[str] = "f1"
    row_score: ClassVar[str] = "agreement"
    answer_type: ClassVar[type] = int
    id_column: ClassVar[str] = "id"
    target_column: ClassVar[str] = "target"

    config: DisasterTweetsConfig

    def read_train(self, folder: str) -> pd.DataFrame:
        """The labelled tweets."""
        doing, rows = self._read(folder, "train.csv", ["target"])
        check_values(doing, rows["target"], list(ANSWERS))
        return leave_out_blank(rows, "text", f"{folder}/train.csv")

    def read_test(self, folder: str) -> pd.DataFrame:
        """The tweets to predict."""
        return self._read(folder, "test.csv", [])[1]

    def write_sample(self, folder: Path) -> None:
        """Tweets that this project wrote itself."""
        write_sample(folder)

    def texts(self, rows: pd.DataFrame) -> list[str]:
        """The keywords and the tweets."""
        return [*self._keywords(rows), *rows["text"]]

    def labels(self, rows: pd.DataFrame) -> pd.Series:
        """0 or 1, as text."""
        return rows["target"]

    def encode(self, rows: pd.DataFrame, tokenizer: "PreTrainedTokenizerBase") -> Examples:
        """Pairs of keyword and tweet, with the target as `labels`."""
        if rows.empty:
            return Examples(rows, [], [])
        encoded = tokenizer(
            self._keywords(rows),
            rows["text"].tolist(),
            truncation="only_second",
            max_length=self.config.max_length,
        )
        names = [name for name in tokenizer.model_input_names if name in encoded]
        columns = zip(*(encoded[name] for name in names), strict=True)
        features = [dict(zip(names, values, strict=True)) for values in columns]
        if "target" in rows:
            for feature, target in zip(features, rows["target"], strict=True):
                feature["labels"] = int(target)
        return Examples(rows, features, [[] for _ in features])  # no answer lies in the text

    def decode(self, rows: pd.DataFrame, examples: Examples, logits: Logits) -> pd.DataFrame:
        """0 or 1 for each tweet, how probable 1 is, and how probable what was right is."""
        (scores,) = logits if logits else (np.zeros((0, 2)),)
        # In float64, and the larger score subtracted: large logits do not overflow.
        scores = scores.astype(float) - scores.max(axis=1, keepdims=True, initial=-np.inf)
        weights = np.exp(scores)
        probability = pd.Series(weights[:, 1] / weights.sum(axis=1), index=examples.rows.index)
        table = rows.assign(probability=probability)
        table["prediction"] = (table["probability"] >= self.config.threshold).astype(int)
        if "target" in table:
            right = table["target"] == "1"
            table["agreement"] = table["probability"].where(right, 1 - table["probability"])
        return table

    def scores(self, predicted: pd.DataFrame) -> dict[str, float]:
        """`f1` of the disasters and what it is made of; then F1 of the other tweets."""
        from sklearn.metrics import precision_recall_fscore_support

        found = precision_recall_fscore_support(
            predicted["target"].astype(int), predicted["prediction"], labels=[0, 1], zero_division=0
        )
        (_, precision), (_, recall), (f1_other, f1), _ = (values.tolist() for values in found)
        return {"f1": f1, "precision": precision, "recall": recall, "f1_other": f1_other}

    def baseline(self, rows: pd.DataFrame) -> dict[str, float]:
        """What calling every tweet a disaster scores."""
        share = float((rows["target"] == "1").mean())
        return {"baseline_f1": 2 * share / (1 + share)}

    def plots(self, predicted: pd.DataFrame) -> dict[str, "Figure"]:
        """The confusion matrix."""
        from competitions.plots import confusion_matrix

        right = predicted["target"].map(ANSWERS)
        answered = predicted["prediction"].astype(str).map(ANSWERS)
        return {"confusion_matrix.png": confusion_matrix(right, answered, list(ANSWERS.values()))}

    def _keywords(self, rows: pd.DataFrame) -> list[str]:
        return [unquote(keyword) for keyword in rows["keyword"]]

    def _read(self, folder: str, name: str, more: list[str]) -> tuple[str, pd.DataFrame]:
        columns = ["id", "keyword", "text", *more]
        rows = read_table(folder, name, columns, self.download_hint())
        doing = f"reading {folder.rstrip('/')}/{name}"
        check_unique(doing, rows["id"])
        return doing, rows


TASK = DisasterTweets
