"""Between characters of a tweet and tokens of a model: which tokens a selection covers, and back.

Spans of tokens are inclusive pairs (first, last). `offsets` are the half-open character ranges of a
text's tokens, as a fast tokenizer gives them; a token that stands for no character is (0, 0).
"""

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
    """The half-open character range of `selection` in `text`, without blanks at its ends.

    Where it occurs more than once (112 rows of the competition), the first occurrence that begins
    and ends at word boundaries wins: the "no" of "I know, no" is the last word.

    Returns:
        None where the selection is blank or not in the text.
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
    """The tokens that the characters from `start` to `end` touch, also where they cut one in two.

    The competition's selections begin or end inside a word in every tenth row.

    Returns:
        The first and the last token, or None where no token touches the range (cut off, or made of
        characters that the tokenizer drops).
    """
    touched = [i for i, (a, b) in enumerate(offsets) if a < end and b > start and b > a]
    return (touched[0], touched[-1]) if touched else None


def best_span(
    start_logits: np.ndarray, end_logits: np.ndarray, longest: int | None = None
) -> tuple[int, int]:
    """The span with the largest sum of logits among those that do not end before they begin.

    Args:
        start_logits: shape (tokens,), one or more tokens of the text itself.
        end_logits: the same shape.
        longest: tokens that a span may have at most.
    """
    sums = start_logits[:, None] + end_logits[None, :]
    valid = np.triu(np.ones(sums.shape, dtype=bool))
    if longest is not None:
        valid &= ~np.triu(valid, longest)
    first, last = np.unravel_index(np.argmax(np.where(valid, sums, -np.inf)), sums.shape)
    return int(first), int(last)


def text_of(text: str, offsets: Offsets, first: int, last: int) -> str:
    """The exact piece of `text` from the start of token `first` to the end of token `last`.

    Some tokenizers count the blank before a word to the word; it is left out.
    """
    return text[offsets[first][0] : offsets[last][1]].strip()
