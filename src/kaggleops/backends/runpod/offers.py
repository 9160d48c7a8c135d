"""What a run on RunPod may take: its configuration, the GPUs that fit it, and the network volume.

RunPod's catalogue is an order in which to ask, no reservation: what it calls free may be gone.
"""

import functools
import logging
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kaggleops.backends.config import Config, check_sessions
from kaggleops.backends.runpod.answers import LATE, LONGEST_HOURS, Gpu, Volume
from kaggleops.backends.runpod.client import RunPod
from kaggleops.errors import UsageError
from kaggleops.platforms.http import NoAnswerError
from kaggleops.redaction import names_a_secret
from kaggleops.secret_scan import in_file

_REFERENCE = re.compile(r"\{\{ ?RUNPOD_SECRET_\w+ ?\}\}")
_NAME = re.compile(r"(?!KAGGLEOPS_|RUNPOD_)[A-Za-z_]\w*")
_MOST_VARIABLES = 50 - 4  # RunPod's limit, and ours
_PORT = re.compile(r"[1-9]\d{0,4}/(?:http|tcp)")
_SSH = "22/tcp"
_CUDA = re.compile(r"\d+\.\d+")
_LEAST_VOLUME_GB, _LARGEST_VOLUME_GB = 10, 4096  # RunPod's limits


@dataclass(frozen=True)
class RunPodConfig(Config):
    """The fields of config/backend/runpod.yaml, where each is explained."""

    gpus: list[str] = field(
        default_factory=lambda: ["NVIDIA L4", "NVIDIA RTX A5000", "NVIDIA GeForce RTX 4090"]
    )
    gpu_count: int = 1
    cloud: str = "SECURE"
    data_centers: list[str] = field(default_factory=list)
    image: str = "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404"
    template: str = ""
    registry: str = ""
    min_cuda: str = "12.8"
    disk_gb: int = 50
    volume: str = "kaggleops"
    volume_gb: int = 50
    hours: float = 6.0
    budget: float | None = None
    keep: bool = False
    sessions: int = 2
    secret: str = "kaggleops_key"  # noqa: S105 - its name
    env: dict[str, str] = field(default_factory=dict)
    setup: str = ""
    ports: list[str] = field(default_factory=list)
    packages: list[str] = field(
        default_factory=lambda: [
            "hydra-core>=1.3.2",
            "transformers>=5.0",
            "accelerate>=1.3",
            "scikit-learn>=1.5",
            "pandas>=2.2",
            "matplotlib>=3.8",
            "nvidia-ml-py>=12.535",
        ]
    )

    @property
    def secrets(self) -> list[str]:
        """The names of the variables that RunPod sets from its secrets."""
        return [name for name, value in self.env.items() if _REFERENCE.fullmatch(value)]

    @property
    def ssh(self) -> bool:
        """Whether people can look in."""
        return self.keep or _SSH in self.ports

    def check(self, doing: str) -> None:
        check_sessions(doing, self.sessions)
        self._check_variables(doing)
        wrong = {
            "gpus": not self.gpus and "name one at least",
            "gpu_count": self.gpu_count < 1 and "it is 1 or more",
            "cloud": self.cloud not in ("SECURE", "COMMUNITY") and "it is SECURE or COMMUNITY",
            "image": not (self.image or self.template) and "name it, or a template",
            "min_cuda": bool(self.min_cuda)
            and not _CUDA.fullmatch(self.min_cuda)
            and "it is of the form 12.8",
            "disk_gb": self.disk_gb < 1 and "it is 1 or more",
            "volume": bool(self.volume)
            and self.cloud == "COMMUNITY"
            and "the community cloud has no network volumes: leave it empty",
            "volume_gb": not _LEAST_VOLUME_GB <= self.volume_gb <= _LARGEST_VOLUME_GB
            and f"it is between {_LEAST_VOLUME_GB} and {_LARGEST_VOLUME_GB}",
            "hours": not 0 < self.hours <= LONGEST_HOURS
            and f"it is more than 0 and {LONGEST_HOURS:g} at most",
            "budget": self.budget is not None and not self.budget > 0 and "it is more than 0",
            "secret": not re.fullmatch(r"\w+", self.secret) and "letters, digits and _",
        }
        for port in self.ports:
            if not _PORT.fullmatch(port):
                wrong["ports"] = f"{port!r} is not of the form 6006/http or 22/tcp"
        if self.setup and not Path(self.setup).expanduser().is_file():
            wrong["setup"] = "there is no such file here"
        for name, problem in wrong.items():
            if problem:
                raise UsageError(doing, f"{name}: {getattr(self, name)!r}: {problem}")

    def _check_variables(self, doing: str) -> None:
        if len(self.env) > _MOST_VARIABLES:
            problem = f"env: {len(self.env)} variables, and {_MOST_VARIABLES} are the most"
            raise UsageError(doing, problem)
        for name, value in self.env.items():
            if not _NAME.fullmatch(name):
                raise UsageError(doing, f"env: {name!r} cannot be a variable of yours")
            if name in self.secrets:
                continue
            found = in_file("", f'{name}="{value}"'.encode(errors="replace"))
            if found or names_a_secret(name):
                what = f"holds a secret ({found[0].kind})" if found else "is called like a secret"
                problem = f"env: {name} {what}, and its value would stand here"
                hint = (
                    "Make a secret of it (RunPod console > Secrets) and write "
                    f'{name}: "{{{{ RUNPOD_SECRET_{name.lower()} }}}}".'
                )
                raise UsageError(doing, problem, hint)


_STOCK = ("HIGH", "MEDIUM", "LOW")  # what is in none of these words may be there, too


@dataclass(frozen=True)
class Offer:
    """A machine that may be had."""

    gpu: str  # the GPU's id
    data_center: str  # where; "" for anywhere
    price: float  # of all its GPUs, in US dollars for an hour
    memory_gb: float | None = None  # of one GPU

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
    """Return what may be had of what is wanted, the most wanted first; UsageError for no such GPU.

    A pod must be where its volume is: where the wanted one is anywhere (`volumes_in`), there are
    no other offers.
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
                found.append(Offer(gpu.id, place, price, gpu.memory_gb))
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


_log = logging.getLogger("kaggleops")

# US dollars for a GB and month, as of https://www.runpod.io/pricing (2026-10); the API tells none.
_PRICE, _PRICE_ABOVE, _ABOVE_GB = 0.07, 0.05, 1000


class Volumes:
    """The volumes of the name that is wanted, by data center."""

    def __init__(self, runpod: RunPod, config: RunPodConfig) -> None:
        self._runpod = runpod
        self._config = config
        self._made = ""

    @functools.cached_property
    def _there(self) -> Mapping[str, Volume]:
        if not self._config.volume:
            return {}
        found = [each for each in self._runpod.volumes() if each.name == self._config.volume]
        return {each.data_center: each for each in found if each.data_center}

    @property
    def data_centers(self) -> list[str]:
        """Where there is one."""
        return sorted(self._there)

    def bill(self, data_center: str) -> str:
        """Return what the one in a data center costs, made or to be made; "" for none."""
        if not self._config.volume:
            return ""
        there = self._there.get(data_center)
        size = (there and there.size) or self._config.volume_gb
        return f"the volume {self._config.volume} ({size} GB), {_monthly(size)}"

    def take(self, data_center: str) -> str:
        """Return the id of the one in a data center, which is made if need be; "" for none."""
        if not self._config.volume:
            return ""
        if data_center not in self._there:
            name, size = self._config.volume, self._config.volume_gb
            self._made = self._create(name, data_center, size)
            where = f"the network volume {name} ({size} GB) in {data_center}"
            _log.warning("Made %s: %s, until you delete it.", where, _monthly(size))
            return self._made
        return self._there[data_center].id

    def _create(self, name: str, data_center: str, size: int) -> str:
        try:
            return self._runpod.create_volume(name, data_center, size)
        except NoAnswerError:
            # It may have been made all the same.
            for each in self._runpod.volumes():
                if (each.name, each.data_center) == (name, data_center):
                    return each.id
            raise

    def give_back(self) -> None:
        """Delete the one that was made for a pod that there is not."""
        if self._made:
            self._runpod.delete_volume(self._made)
            self._made = ""


def _monthly(size_gb: int) -> str:
    dollars = min(size_gb, _ABOVE_GB) * _PRICE + max(0, size_gb - _ABOVE_GB) * _PRICE_ABOVE
    return f"about ${dollars:.2f} a month"
