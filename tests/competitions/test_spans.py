"""Words, characters and tokens of a tweet."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from competitions.models import learn_tokenizer
from competitions.tweet_sentiment import TweetSentiment, TweetSentimentConfig
from competitions.tweet_sentiment.losses import expected_jaccard, pair_logits, span_entropy
from competitions.tweet_sentiment.spans import (
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

TASK = TweetSentiment(TweetSentimentConfig("tweet_sentiment", 128, False, None, False))
TOKENIZER = learn_tokenizer(TASK.texts(pd.DataFrame({"text": ["so happy about it, yay!"]})), 200)


@pytest.mark.parametrize(
    ("left", "right", "score"),
    [
        ("a b c", "a b c", 1.0),
        ("a b c", "A  B\tC ", 1.0),
        ("Sooo SAD", "sad", 1 / 2),
        ("a b", "b c", 1 / 3),
        ("good, day", "good day", 1 / 3),  # punctuation is part of a word
        ("a a a b", "a b b", 1.0),  # sets
        ("a", "b", 0.0),
        ("a", "", 0.0),
        ("", " ", 1.0),
    ],
)
def test_jaccard(left: str, right: str, score: float) -> None:
    assert jaccard(left, right) == pytest.approx(score)
    assert jaccard(right, left) == pytest.approx(score)


@pytest.mark.parametrize(
    ("text", "selection", "found"),
    [
        ("my boss is bullying me...", "bullying me", "bullying me"),
        (" leading blank", " leading", "leading"),
        ("now      gonna miss", "onna", "onna"),
        ("two  blanks between", "two  blanks", "two  blanks"),
    ],
)
def test_a_selection_is_found_without_its_blanks(text: str, selection: str, found: str) -> None:
    span = find_selection(text, selection)
    assert span is not None
    assert text[slice(*span)] == found


def test_of_several_occurrences_the_one_of_whole_words_is_found() -> None:
    assert find_selection("I know, no", "no") == (8, 10)
    assert find_selection("my casino no more", "no") == (10, 12)
    assert find_selection("knows nothing", "no") == (1, 3)


@pytest.mark.parametrize("selection", ["absent", "", "  "])
def test_a_selection_that_is_not_there(selection: str) -> None:
    assert find_selection("the text", selection) is None


def test_tokens_that_a_selection_cuts_belong_to_it() -> None:
    offsets = [(0, 0), (0, 3), (4, 9), (10, 12), (0, 0)]
    assert cover_tokens(offsets, 2, 5) == (1, 2)
    assert cover_tokens(offsets, 3, 4) is None
    assert cover_tokens(offsets, 12, 20) is None


logits = st.integers(1, 12).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(-9, 9), min_size=n, max_size=n)] * 2)
)


@given(logits, st.none() | st.integers(1, 5))
def test_the_best_span_is_valid_and_no_valid_one_is_better(
    pair: tuple[list[int], list[int]], longest: int | None
) -> None:
    start, end = (np.array(values, dtype=float) for values in pair)
    first, last = best_span(span_logits(start, end, longest))
    valid = [
        (i, j)
        for i in range(len(start))
        for j in range(i, len(start))
        if longest is None or j - i < longest
    ]
    assert (first, last) in valid
    assert start[first] + end[last] == max(start[i] + end[j] for i, j in valid)


words = st.text("abz AZ.,!?'`*_ äß漢🎉\t", min_size=1, max_size=60)


@given(words, st.data())
def test_encoding_and_decoding_a_selection_covers_it(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    selection = text[start:end]
    row = {"textID": "a", "text": text, "selected_text": selection, "sentiment": "positive"}
    examples = TASK.encode(pd.DataFrame([row]), TOKENIZER)
    feature = examples.features[0]
    first, last = feature["labels"]
    if not selection.strip():
        assert (first, last) == (0, 0)
        return
    start, end = range_of(text, examples.offsets[0], first, last)
    assert selection.strip() in text[start:end]
    # A model that is sure of exactly these tokens is understood.
    certain = tuple(np.eye(len(feature["input_ids"]))[[place]] for place in (first, last))
    prediction = TASK.decode(examples.rows, examples, certain)["prediction"][0]
    assert selection.strip() in prediction
    assert prediction in text


def test_a_text_without_tokens_is_predicted_whole() -> None:
    rows = pd.DataFrame({"textID": ["a"], "text": ["  "], "sentiment": ["positive"]})
    examples = TASK.encode(rows, TOKENIZER)
    width = len(examples.features[0]["input_ids"])
    predicted = TASK.decode(rows, examples, (np.zeros((1, width)), np.zeros((1, width))))
    assert predicted["prediction"].tolist() == ["  "]


def test_a_selection_beyond_the_longest_input_is_no_answer() -> None:
    task = TweetSentiment(TweetSentimentConfig("tweet_sentiment", 16, False, None, False))
    text = "word " * 40 + "yay"
    rows = pd.DataFrame(
        {"textID": ["a"], "text": [text], "selected_text": ["yay"], "sentiment": ["positive"]}
    )
    feature = task.encode(rows, TOKENIZER).features[0]
    assert len(feature["input_ids"]) == 16
    assert feature["labels"] == [0, 0]


def test_neutral_texts_are_predicted_whole_only_if_asked() -> None:
    rows = pd.DataFrame(
        {
            "textID": ["a", "b", "c"],
            "text": ["so happy", "so happy", "yay it, yay"],
            "sentiment": ["neutral", "positive", "neutral"],
        }
    )
    examples = TASK.encode(rows, TOKENIZER)
    assert len(examples) == 3
    logits = np.zeros((3, max(examples.lengths())))
    logits[:, 3] = 1  # the first token of the tweet
    spoken = TASK.decode(rows, examples, (logits, logits))
    assert spoken["prediction"].tolist() == ["so", "so", "yay"]
    whole = TweetSentiment(TweetSentimentConfig("tweet_sentiment", 128, True, None, False))
    examples = whole.encode(rows, TOKENIZER)
    assert examples.rows["textID"].tolist() == ["b"]
    answered = whole.decode(rows, examples, (logits[:1], logits[:1]))
    assert answered["prediction"].tolist() == ["so happy", "so", "yay it, yay"]
    assert answered["start_score"].notna().tolist() == [False, True, False]
    neutral = rows.iloc[[0]]
    assert whole.decode(neutral, whole.encode(neutral, TOKENIZER), ())["prediction"].tolist() == [
        "so happy"
    ]


@pytest.mark.parametrize(
    ("text", "words", "published"),
    [
        (" is back home now      gonna miss every one", "miss", "gonna"),
        ("  He`s awesome", "awesome", "s awesome"),
        ("two  blanks  early  on", "on", "y  o"),
        # One surplus blank, before or in the text, moves nothing.
        ("two  blanks early on", "early", "early"),
        (" so happy", "happy", "happy"),
    ],
)
def test_selections_behind_runs_of_blanks(text: str, words: str, published: str) -> None:
    start = text.index(words)
    first, last = move_as_published(text, start, start + len(words))
    assert text[first:last] == published
    assert find_selected_words(text, first, last) == (start, start + len(words))


@given(st.lists(st.sampled_from(["a", "bc", "def"]), min_size=1, max_size=25), st.data())
def test_a_text_without_runs_of_blanks_is_left_alone(words: list[str], data: st.DataObject) -> None:
    text = " ".join(words)
    places = [place for place, character in enumerate(text) if character != " "]
    start = data.draw(st.sampled_from(places))
    end = 1 + data.draw(st.sampled_from([place for place in places if place >= start]))
    assert move_as_published(text, start, end) == (start, end)
    assert find_selected_words(text, start, end) == (start, end)


@given(st.text("ab  ", min_size=1, max_size=30), st.data())
def test_a_moved_range_stays_in_its_text(text: str, data: st.DataObject) -> None:
    places = [place for place, character in enumerate(text) if character != " "]
    if not places:
        return
    start = data.draw(st.sampled_from(places))
    end = 1 + data.draw(st.sampled_from([place for place in places if place >= start]))
    for first, last in (move_as_published(text, start, end), find_selected_words(text, start, end)):
        assert 0 <= first <= last <= len(text)


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_the_score_that_is_expected_of_logits(tokens: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(scale=2, size=(2, 3, tokens))
    answers = np.sort(random.integers(tokens, size=(2, 3)), axis=0)
    pairs = pair_logits(*torch.tensor(logits))
    found = expected_jaccard(pairs, *torch.tensor(answers))
    entropy = span_entropy(pairs, *torch.tensor(answers))
    spans = [range(i, j + 1) for i in range(tokens) for j in range(i, tokens)]
    for row, (first, last) in enumerate(answers.T):
        right = set(range(first, last + 1))
        weights = [np.exp(logits[0, row, s[0]] + logits[1, row, s[-1]]) for s in spans]
        scores = [len(right & set(s)) / len(right | set(s)) for s in spans]
        assert found[row].item() == pytest.approx(np.average(scores, weights=weights), rel=1e-4)
        right_one = weights[spans.index(range(first, last + 1))] / sum(weights)
        assert entropy[row].item() == pytest.approx(-np.log(right_one), rel=1e-4, abs=1e-6)
        # And what is answered is the span with the best expected score.
        probable = np.exp(span_logits(logits[0, row], logits[1, row]))
        i, j = expected_best_span(probable / probable.sum())

        def expected(span: range, weights: list[float] = weights) -> float:
            scores = [len({*span} & {*s}) / len({*span} | {*s}) for s in spans]
            return float(np.average(scores, weights=weights))

        assert expected(range(i, j + 1)) == pytest.approx(max(map(expected, spans)))


def test_the_loss_knows_a_near_miss_from_a_far_one() -> None:
    def loss(weight: float, sure_of: int) -> float:
        task = TweetSentiment(
            TweetSentimentConfig("tweet_sentiment", 128, False, None, False, weight)
        )
        end = torch.zeros(1, 9)
        end[0, sure_of] = 9.0  # the answer is the first eight tokens
        right = (torch.tensor([0]), torch.tensor([7]))
        return task.loss((torch.zeros(1, 9), end), right, 0.1).item()

    assert loss(0, 6) == pytest.approx(loss(0, 1))
    assert loss(1, 6) < loss(1, 1)


def test_models_of_both_kinds_of_heads_are_averaged() -> None:
    draw = np.random.default_rng(0)
    alone, paired = draw.normal(size=(2, 3, 5)), draw.normal(size=(2, 3, 5, 7))
    for outputs in ([(*alone,), (*paired,)], [(*paired,), (*alone,)]):
        start, end = TASK.mean(outputs)
        for row in range(3):
            both = [span_logits(first[row], last[row]) for first, last in outputs]
            np.testing.assert_allclose(span_logits(start[row], end[row]), sum(both) / 2)
