"""Tweet Sentiment Extraction (Kaggle, 2020): the words of a tweet that carry its sentiment.

The sentiment is the question and the tweet the context, as in question answering: a model gives
each token a logit for being the first and one for being the last of the answer. The prediction is
the exact piece of the tweet between the best two. Score: word-level Jaccard, averaged over tweets.

https://www.kaggle.com/competitions/tweet-sentiment-extraction
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
from omegaconf import MISSING

from competitions.schema import check_max_length, check_range
from competitions.tables import check_values, leave_out_blank, reading
from competitions.tasks import Examples, Logits, Task, encode_pairs
from competitions.tweet_sentiment.sample import sample
from competitions.tweet_sentiment.spans import (
    Offsets,
    as_vectors,
    best_span,
    cover_tokens,
    expected_best_span,
    find_selected_words,
    find_selection,
    jaccard,
    move_as_published,
    range_of,
    span_logits,
)
from kaggleops.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

SENTIMENTS = ("positive", "negative", "neutral")
# SQuAD 2's way to say "no answer", for a selection of which no token is left: the first token.
NO_ANSWER = (0, 0)


@dataclass
class TweetSentimentConfig:
    """The keys of config/task/tweet_sentiment.yaml."""

    name: str = MISSING
    max_length: int | float = MISSING
    neutral_whole_text: bool = MISSING
    max_span: int | None = MISSING
    repair_blanks: bool = MISSING
    jaccard_loss: float = 0.0

    def check(self) -> None:
        check_max_length(self.max_length)
        valid = self.max_span is None or self.max_span > 0
        check_range("task.max_span", self.max_span, valid, "more than 0")
        check_range("task.jaccard_loss", self.jaccard_loss, self.jaccard_loss >= 0, "0 or more")


class TweetSentiment(Task):
    """Span extraction from tweets."""

    competition: ClassVar[str] = "tweet-sentiment-extraction"
    config_class: ClassVar[type] = TweetSentimentConfig
    model_class: ClassVar[str] = "AutoModelForQuestionAnswering"
    score_name: ClassVar[str] = "jaccard"
    row_score: ClassVar[str] = "jaccard"
    id_column: ClassVar[str] = "textID"
    target_column: ClassVar[str] = "selected_text"

    config: TweetSentimentConfig

    def read_train(self, folder: str) -> pd.DataFrame:
        """The labelled tweets; those without text (one in the competition) are left out."""
        rows = self._read(folder, "train.csv", "textID", "text", "selected_text")
        rows = leave_out_blank(rows, "text", f"{folder}/train.csv")
        pairs = zip(rows["text"], rows["selected_text"], strict=True)
        lost = rows.index[[find_selection(text, selected) is None for text, selected in pairs]]
        if len(lost):
            # Loud, and before any time is spent: a file that was saved in another encoding trains
            # into a model that is quietly wrong.
            problem = (
                f"{len(lost)} selected texts are not in their text, the first on line {lost[0]}"
            )
            hint = "Correct or remove these rows"
            raise UsageError(reading(folder, "train.csv"), problem, hint)
        return rows

    def read_test(self, folder: str) -> pd.DataFrame:
        return self._read(folder, "test.csv", "textID", "text")

    def sample(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        return sample()

    def texts(self, rows: pd.DataFrame) -> list[str]:
        """The tweets and the three questions."""
        return [*SENTIMENTS, *rows["text"]]

    def labels(self, rows: pd.DataFrame) -> pd.Series:
        return rows["sentiment"]

    def encode(self, rows: pd.DataFrame, tokenizer: "PreTrainedTokenizerBase") -> Examples:
        """Pairs of sentiment and tweet, with the first and last token as `labels`."""
        if self.config.neutral_whole_text:
            rows = rows[rows["sentiment"] != "neutral"]
        questions, texts = rows["sentiment"].tolist(), rows["text"].tolist()
        features, offsets = encode_pairs(tokenizer, questions, texts, self.config.max_length)
        if "selected_text" in rows:
            labelled = zip(features, offsets, rows["text"], rows["selected_text"], strict=True)
            for feature, spans, text, selected in labelled:
                selection = find_selection(text, selected)
                if selection and self.config.repair_blanks:
                    selection = find_selected_words(text, *selection)
                tokens = cover_tokens(spans, *selection) if selection else None
                feature["labels"] = list(tokens or NO_ANSWER)
        return Examples(rows, features, offsets)

    def decode(self, rows: pd.DataFrame, examples: Examples, logits: Logits) -> pd.DataFrame:
        """The predicted piece of each tweet, and how probable its first and last token are.

        A tweet that the model is not asked about, or has no tokens for, is predicted whole.
        """
        asked = zip(examples.rows["text"], examples.offsets, *logits, strict=True)
        answers = pd.DataFrame(
            [self._answer(text, offsets, start, end) for text, offsets, start, end in asked],
            index=examples.rows.index,
            columns=["prediction", "start_score", "end_score"],
        )
        table = rows.join(answers)
        table["prediction"] = table["prediction"].fillna(table["text"])
        if "selected_text" in table:
            pairs = zip(table["selected_text"], table["prediction"], strict=True)
            table["jaccard"] = [jaccard(selected, predicted) for selected, predicted in pairs]
        return table

    def _answer(
        self, text: str, offsets: Offsets, start: np.ndarray, end: np.ndarray
    ) -> tuple[str, float, float]:
        """The best piece of `text`, and the probabilities of its first and last token."""
        context = [token for token, (a, b) in enumerate(offsets) if b > a]
        if not context:
            return text, math.nan, math.nan
        logits = span_logits(start[context], end[context], self.config.max_span)
        probable = np.exp(logits - logits.max())
        probable /= probable.sum()
        # Where tokens are chosen one by one, a span is not as probable as their product says, and
        # the likeliest one scores better (docs/lab-notes.md).
        first, last = expected_best_span(probable) if start.ndim == 2 else best_span(logits)
        span = range_of(text, offsets, context[first], context[last])
        if self.config.repair_blanks and span[0] < span[1]:
            span = move_as_published(text, *span)
        chosen = float(probable[first].sum()), float(probable[:, last].sum())
        return text[slice(*span)], *chosen

    def loss(
        self, logits: Sequence["Tensor"], labels: Sequence["Tensor"], smoothing: float
    ) -> "Tensor":
        """The mean cross entropy, and `jaccard_loss` times what the score is expected to lack.

        With vectors instead of logits (`model.head_pairs`) it is the cross entropy of the span,
        halved: so it is as large as the mean of its two ends'.
        """
        from competitions.tweet_sentiment.losses import expected_jaccard, pair_logits, span_entropy

        paired, weight = logits[0].dim() == 3, self.config.jaccard_loss
        if not paired and not weight:
            return super().loss(logits, labels, smoothing)
        pairs = pair_logits(*logits)
        if paired:
            loss = span_entropy(pairs, *labels).mean() / 2
        else:
            loss = super().loss(logits, labels, smoothing)
        return loss + weight * (1 - expected_jaccard(pairs, *labels).mean())

    def mean(self, outputs: Sequence[Logits]) -> Logits:
        """What several models put out, averaged; the products of vectors, not the vectors."""
        if all(array.ndim == 2 for arrays in outputs for array in arrays):
            return super().mean(outputs)
        vectors = (as_vectors(*arrays) for arrays in outputs)
        first, last = (np.concatenate(arrays, axis=-1) for arrays in zip(*vectors, strict=True))
        return first / len(outputs), last

    def scores(self, predicted: pd.DataFrame) -> dict[str, float]:
        """The mean `jaccard`, and the same by sentiment (`jaccard_positive`)."""
        by_sentiment = predicted.groupby("sentiment")["jaccard"].mean()
        named = {f"jaccard_{name}": float(by_sentiment[name]) for name in by_sentiment.index}
        return {"jaccard": float(predicted["jaccard"].mean()), **named}

    def baseline(self, rows: pd.DataFrame) -> dict[str, float]:
        """What predicting the whole text scores."""
        pairs = zip(rows["selected_text"], rows["text"], strict=True)
        return {"baseline_jaccard": float(np.mean([jaccard(*pair) for pair in pairs]))}

    def plots(self, predicted: pd.DataFrame) -> dict[str, "Figure"]:
        """Jaccard by sentiment, beside what predicting the whole text scores there."""
        from competitions.plots import scores_by_label

        groups = [("all", predicted), *predicted.groupby("sentiment")]
        bars = {
            str(name): (len(rows), rows["jaccard"].mean(), *self.baseline(rows).values())
            for name, rows in groups
        }
        figure = scores_by_label(bars, "Jaccard by sentiment", "whole text")
        return {"score_by_sentiment.png": figure}

    def _read(self, folder: str, name: str, *columns: str) -> pd.DataFrame:
        rows = self.read(folder, name, *columns, "sentiment")
        check_values(reading(folder, name), rows["sentiment"], SENTIMENTS)
        return rows


TASK = TweetSentiment
