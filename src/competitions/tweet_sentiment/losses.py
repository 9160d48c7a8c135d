"""What a span's logits lose, and what score may be expected of them: for the training, in torch."""

import torch


def pair_logits(start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
    """A logit for each pair of tokens of each row, of shape (rows, tokens, tokens); -inf for none.

    Of logits of shape (rows, tokens) it is the sum, of vectors of shape (rows, tokens, n) the
    product; what ends before it begins is no span.
    """
    start, end = start.float(), end.float()
    logits = start[:, :, None] + end[:, None] if start.dim() == 2 else start @ end.transpose(1, 2)
    valid = torch.ones(logits.shape[1:], dtype=torch.bool, device=logits.device).triu()
    return logits.masked_fill(~valid, -torch.inf)


def span_entropy(pairs: torch.Tensor, first: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """The cross entropy, for each row, of its span from token `first` to token `last`."""
    right = first * pairs.shape[2] + last
    return torch.nn.functional.cross_entropy(pairs.flatten(1), right, reduction="none")


def expected_jaccard(pairs: torch.Tensor, first: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """The Jaccard score, by tokens, with the right span of one drawn by its probability.

    A span is as probable as the softmax over all of `pairs` says. So a model learns that a near
    miss is worth something, which cross entropy does not know. Returns 0 to 1 for each row.
    """
    starts = torch.arange(pairs.shape[1], device=pairs.device)[None, :, None]
    ends = starts.transpose(1, 2)
    first, last = first[:, None, None], last[:, None, None]
    common = (torch.minimum(ends, last) - torch.maximum(starts, first) + 1).clamp(min=0)
    union = (ends - starts + 1) + (last - first + 1) - common
    # What is no span has no probability, but may have a union of none.
    scores = common / union.clamp(min=1)
    return (pairs.flatten(1).softmax(dim=1) * scores.flatten(1)).sum(dim=1)
