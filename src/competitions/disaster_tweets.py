"""NLP with Disaster Tweets (Kaggle): does a tweet tell of a real disaster, or only sound like one?

The keyword, where a tweet has one, is put before it as the first of a pair, as a question is. The
model chooses between two answers. Score: F1 of "a disaster".

https://www.kaggle.com/competitions/nlp-getting-started
"""

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import unquote

import numpy as np
import pandas as pd
from omegaconf import MISSING

from competitions.schema import check_max_length, check_range
from competitions.tables import check_values, leave_out_blank, reading
from competitions.tasks import Examples, Logits, Task, encode_pairs

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from transformers import PreTrainedTokenizerBase

ANSWERS = {"0": "other", "1": "disaster"}


@dataclass
class DisasterTweetsConfig:
    """The keys of config/task/disaster_tweets.yaml."""

    name: str = MISSING
    max_length: int | float = MISSING
    threshold: float = MISSING

    def check(self) -> None:
        check_max_length(self.max_length)
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
        rows = self.read(folder, "train.csv", "id", "keyword", "text", "target")
        check_values(reading(folder, "train.csv"), rows["target"], list(ANSWERS))
        return leave_out_blank(rows, "text", f"{folder}/train.csv")

    def read_test(self, folder: str) -> pd.DataFrame:
        return self.read(folder, "test.csv", "id", "keyword", "text")

    def texts(self, rows: pd.DataFrame) -> list[str]:
        return [*self._keywords(rows), *rows["text"]]

    def labels(self, rows: pd.DataFrame) -> pd.Series:
        return rows["target"]

    def encode(self, rows: pd.DataFrame, tokenizer: "PreTrainedTokenizerBase") -> Examples:
        """Pairs of keyword and tweet, with the target as `labels`."""
        texts = rows["text"].tolist()
        features, _ = encode_pairs(tokenizer, self._keywords(rows), texts, self.config.max_length)
        if "target" in rows:
            for feature, target in zip(features, rows["target"], strict=True):
                feature["labels"] = int(target)
        return Examples(rows, features)

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
        from competitions.plots import confusion_matrix

        right = predicted["target"].map(ANSWERS)
        answered = predicted["prediction"].astype(str).map(ANSWERS)
        return {"confusion_matrix.png": confusion_matrix(right, answered, list(ANSWERS.values()))}

    def _keywords(self, rows: pd.DataFrame) -> list[str]:
        return [unquote(keyword) for keyword in rows["keyword"]]

    def sample(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Tweets put together from phrases written for this purpose; none is anybody's.

        Both kinds use the same keywords: what tells them apart is whether something happened to
        somebody. As in the competition, some have no keyword, and 43 % tell of a disaster. The rows
        are the same on every machine.
        """
        draw = random.Random(2019)  # noqa: S311 - no secret
        rows: dict[str, tuple[str, ...]] = {}
        while len(rows) < 700:
            target = draw.choices(["1", "0"], [43, 57])[0]
            keyword, real, other = draw.choice(TOPICS)
            phrase = draw.choice((real if target == "1" else other).split(" | "))
            opener, place, end = (draw.choice(each) for each in (OPENERS, PLACES, ENDS))
            text = f"{opener} {phrase.format(p=place)} {end}"
            if text not in rows:
                named = draw.random() < 0.95
                place = draw.choice(["", draw.choice(PLACES)])
                number = str(len(rows) + 1)
                rows[text] = (number, keyword if named else "", place, text.strip(), target)
        table = pd.DataFrame(rows.values(), columns=["id", "keyword", "location", "text", "target"])
        return table[:600], table[600:]


# Three lines each: a keyword, what is said of a real one, what is said of none. {p} is a place.
_TOPICS = """
fire
fire crews are at a warehouse in {p} | a fire in {p} has left ten families homeless
this new song is fire | my neighbour is on fire at darts tonight
flood
the flood has cut off the road to {p} | people in {p} wait on roofs as the flood rises
a flood of mail this morning | i got a flood of birthday wishes
earthquake
a strong earthquake shook {p} an hour ago | earthquake damage reported at {p} station
my phone on this desk is an earthquake | the bass tonight was an earthquake
crash
two hurt in a crash on the bridge near {p} | a crash has closed the motorway at {p}
i will crash on the sofa now | this app loves to crash when i save
storm%20damage
storm damage in {p}: no power for the second day | roofs gone, storm damage all over {p}
my hair shows storm damage again | storm damage is what my desk looks like
explosion
an explosion at the {p} plant, workers missing | windows broken by the explosion in {p}
an explosion of colour at the show | this cake is an explosion of taste
evacuate
police evacuate the market in {p} | they evacuate the hospital of {p} because of smoke
evacuate the kitchen, dad is cooking | time to evacuate this boring party
collapse
a wall came down in {p}, three under the collapse | bridge collapse near {p} confirmed
about to collapse after leg day | my exam plan is close to collapse
""".strip().splitlines()
TOPICS = list(zip(_TOPICS[::3], _TOPICS[1::3], _TOPICS[2::3], strict=True))
PLACES = ["Northport", "Elm Valley", "Kesten", "the old town", "Harrow Bay", "Lindau", "Rivermouth"]
OPENERS = ["just in:", "wow,", "update:", "so", "hearing that", "ok", "@friend", "morning all,"]
ENDS = ["", "!", "...", "#news", "http://t.co/x1y2z3", "right now", "today", "please share", "lol"]

TASK = DisasterTweets
