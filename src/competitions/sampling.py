"""The order in which training rows come: decided by the seed and the epoch, and by nothing else.

So a resumed training goes on with the very rows that were still to come.
"""

from collections.abc import Iterator, Sequence

import pandas as pd
import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices


class EpochSampler(Sampler[int]):
    """Draws the rows of each epoch anew.

    Args:
        size: how many rows there are; as many are drawn.
        seed: of the order, together with the epoch.
        lengths: tokens of each row, to put rows of like length into one batch; None: at random.
        batch_size: rows of one optimizer step, for that.
        labels: each row's label, to draw all labels equally often (some rows then come more than
            once, others not at all); None: every row once.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        lengths: Sequence[int] | None = None,
        batch_size: int = 1,
        labels: pd.Series | None = None,
    ) -> None:
        self.size = size
        self.seed = seed
        self.lengths = lengths
        self.batch_size = batch_size
        self.epoch = 0
        self.weights: torch.Tensor | None = None
        if labels is not None:
            shares = 1 / labels.map(labels.value_counts())
            self.weights = torch.as_tensor(shares.to_numpy(copy=True))

    def set_epoch(self, epoch: int) -> None:
        """Tell which epoch comes next; accelerate's data loader does."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch)
        if self.weights is None:
            rows = torch.randperm(self.size, generator=generator).tolist()
        else:
            drawn = torch.multinomial(self.weights, self.size, True, generator=generator)
            rows = drawn.tolist()
        if self.lengths is None:
            return iter(rows)
        lengths = [self.lengths[row] for row in rows]
        places = get_length_grouped_indices(lengths, self.batch_size, generator=generator)
        return iter([rows[place] for place in places])

    def __len__(self) -> int:
        return self.size
