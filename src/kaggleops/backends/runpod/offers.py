"""Which GPU to take, where, and what it costs: read off RunPod's catalogue.

The catalogue is an order in which to ask, no reservation: what it calls free may be gone.
"""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from kaggleops.backends.runpod.answers import LATE, LONGEST_HOURS, Gpu
from kaggleops.backends.runpod.config import RunPodConfig
from kaggleops.errors import UsageError

_STOCK = ("HIGH", "MEDIUM", "LOW")  # what is in none of these words may be there, too


@dataclass(frozen=True)
class Offer:
    """A machine that may be had.

    Args:
        gpu: the GPU's id.
        data_center: where; "" for anywhere.
        price: of all its GPUs, in US dollars for an hour.
    """

    gpu: str
    data_center: str
    price: float

    def most(self, hours: float) -> float:
        """Return what it costs at most in US dollars, with the time that it may take to end."""
        return self.price * (hours + LATE / 3600)

    def longest(self, budget: float) -> float:
        """Return for how many hours a budget is enough; 0 if for none."""
        if not self.price:
            return LONGEST_HOURS
        return max(0.0, math.floor((budget / self.price - LATE / 3600) * 10 + 1e-6) / 10)

    def __str__(self) -> str:
        return f"{self.gpu} in {self.data_center or 'any data center'}"


def offers(
    catalogue: Collection[Gpu], config: RunPodConfig, volumes_in: Collection[str]
) -> list[Offer]:
    """Return what may be had of what is wanted, the most wanted first.

    Args:
        catalogue: RunPod's GPUs, with their availability.
        config: what is wanted.
        volumes_in: the data centers where the wanted volume is already. A pod must be where its
            volume is, so if there are any, there are no other offers.

    Raises:
        UsageError: RunPod has no such GPU.
    """
    found = []
    for name in config.gpus:
        gpu = _named(name, catalogue)
        cloud = config.cloud.lower()
        if gpu.most.get(cloud, config.gpu_count) < config.gpu_count or cloud not in gpu.price:
            continue
        price = gpu.price[cloud] * config.gpu_count
        for place in _places(gpu, config):
            if all(place in only for only in (volumes_in, config.data_centers) if only):
                found.append(Offer(gpu.id, place, price))
    return found


def _named(name: str, catalogue: Collection[Gpu]) -> Gpu:
    for gpu in catalogue:
        if name.casefold() in (gpu.id.casefold(), gpu.name.casefold()):
            return gpu
    there = ", ".join(sorted(gpu.id for gpu in catalogue))
    raise UsageError(f"looking for the GPU {name!r}", "RunPod has none", f"It has: {there}.")


def _places(gpu: Gpu, config: RunPodConfig) -> Iterator[str]:
    """Yield where a GPU is free, where most are first; "" where RunPod may choose."""
    if not config.volume and not config.data_centers:
        if gpu.stock:
            yield ""
        return

    def rank(place: str) -> int:
        level = gpu.places[place]
        return _STOCK.index(level) if level in _STOCK else len(_STOCK)

    yield from sorted(gpu.places, key=rank)
