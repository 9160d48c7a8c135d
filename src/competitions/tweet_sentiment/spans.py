"""Between characters of a tweet and tokens of a model: which tokens a selection covers, and back.

Spans of tokens are inclusive pairs (first, last). `offsets` are the half-open character ranges of a
text's tokens, as a fast tokenizer gives them; a token that stands for no character is (0, 0).
"""

import re
from collections.abc import Sequence

import numpy as np

Offsets = Sequence[tuple[int, int]]


def jaccard(left: str, right: str) -> float:
    """Word-level Jaccard score as the competition computes it: sets of `str.lower().split()`.

    Two texts without words, for which the competition's own formula divides by zero, agree: 1.0.
    """
    first, second = set(left.lower().split()), set(right.lower().split())
    if not first and not second:
        return 1.0
    common = len(first & second)
    return common / (len(first) + len(second) - common)


def find_selection(text: str, selection: str) -> tuple[int, int] | None:
    """The half-open character range of `selection` in `text`, without blanks at its ends, or None.

    Where it occurs more than once (112 rows of the competition), the first occurrence that begins
    and ends at word boundaries wins: the "no" of "I know, no" is the last word.
    """
    wanted = selection.strip()
    if not wanted or selection not in text:
        return None
    start = first = text.find(wanted)
    while start >= 0:
        end = start + len(wanted)
        if text[start - 1 : start].strip() == "" and text[end : end + 1].strip() == "":
            return start, end
        start = text.find(wanted, start + 1)
    return first, first + len(wanted)


def cover_tokens(offsets: Offsets, start: int, end: int) -> tuple[int, int] | None:
    """The first and last token that characters from `start` to `end` touch, in part even, or None.

    The competition's selections begin or end inside a word in every tenth row. No token touches
    what is cut off, or made of characters that the tokenizer drops.
    """
    touched = [i for i, (a, b) in enumerate(offsets) if a < end and b > start and b > a]
    return (touched[0], touched[-1]) if touched else None


def span_logits(start: np.ndarray, end: np.ndarray, longest: int | None = None) -> np.ndarray:
    """A logit for each first (rows) and last token (columns); -inf for what is no span.

    Of logits of shape (tokens,) it is the sum, of vectors of shape (tokens, n) the product. A span
    has at most `longest` tokens.
    """
    logits = start[:, None] + end[None, :] if start.ndim == 1 else start @ end.T
    valid = np.triu(np.ones(logits.shape, dtype=bool))
    if longest is not None:
        valid &= ~np.triu(valid, longest)
    return np.where(valid, logits, -np.inf)


def as_vectors(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits of shape (rows, tokens) as vectors whose products are their sums; others as they are.

    So a model that chooses tokens one by one is averaged with one that scores whole spans.
    """
    if start.ndim > 2:
        return start, end
    one = np.ones_like(start)
    return np.stack([start, one], axis=-1), np.stack([one, end], axis=-1)


def best_span(logits: np.ndarray) -> tuple[int, int]:
    """The span with the largest of `span_logits`."""
    first, last = np.unravel_index(np.argmax(logits), logits.shape)
    return int(first), int(last)


def expected_best_span(probable: np.ndarray, considered: int = 100) -> tuple[int, int]:
    """The span whose Jaccard score, by tokens, is expected to be the largest.

    `probable` says how probable each span is, by its first (rows) and last token. The likeliest
    `considered` are both what may be right and what may be answered.
    """
    likeliest = np.argsort(-probable, axis=None, kind="stable")[:considered]
    likeliest = likeliest[probable.flat[likeliest] > 0]
    first, last = np.unravel_index(likeliest, probable.shape)
    common = np.minimum.outer(last, last) - np.maximum.outer(first, first) + 1
    common = common.clip(min=0)
    sizes = last - first + 1
    expected = common / (np.add.outer(sizes, sizes) - common) @ probable.flat[likeliest]
    best = int(np.argmax(expected))
    return int(first[best]), int(last[best])


def range_of(text: str, offsets: Offsets, first: int, last: int) -> tuple[int, int]:
    """The half-open character range from the start of token `first` to the end of token `last`.

    Some tokenizers count the blank before a word to the word; it is left out.
    """
    start, end = offsets[first][0], offsets[last][1]
    piece = text[start:end]
    return end - len(piece.lstrip()), start + len(piece.rstrip())


def shifts(text: str) -> list[int]:
    """By how many characters the competition's selections are moved, at each character and the end.

    The selections were made where runs of blanks were one blank, and then cut out of the text with
    all its blanks: by all surplus blanks before them but one they begin and end too early. Counted
    on the training file: of its 1,310 selections that this moves and that have a sentiment, 637
    begin and end at words only if they are moved back, 200 only as they are.
    """
    found, surplus, previous = [], 0, " "
    for character in text:
        surplus += character == previous == " "
        found.append(max(0, surplus - 1))
        previous = character
    return [*found, max(0, surplus - 1)]


def move_as_published(text: str, start: int, end: int) -> tuple[int, int]:
    """The range that the competition's files hold where these words of `text` were selected.

    Words were selected together with the blank on either side; `start` and `end` are of no blank.
    """
    moved = shifts(text)
    # The end of the text counts as a blank: selections up to it are not cut shorter by one.
    before, after = text[max(0, start - 1)] == " ", text[end : end + 1] in ("", " ")
    first = max(0, start - before - moved[start])
    last = min(len(text), end + after - moved[end - 1])
    piece = text[first:last]
    if not piece.strip():  # a word of one letter; an empty answer scores nothing for certain
        return start, end
    return last - len(piece.lstrip()), first + len(piece.rstrip())


def find_selected_words(text: str, start: int, end: int) -> tuple[int, int]:
    """The words that were selected where the competition's files hold this range of `text`.

    The inverse of `move_as_published`; ends that it does not explain are left as they are.
    """
    if not any(shifts(text)):
        return start, end
    words = [match.span() for match in re.finditer(r"\S+", text)]
    first = [a for a, b in words if move_as_published(text, a, b)[0] == start]
    last = [b for a, b in words if move_as_published(text, a, b)[1] == end]
    found = (first[-1] if first else start, last[-1] if last else end)
    return found if found[0] < found[1] else (start, end)
