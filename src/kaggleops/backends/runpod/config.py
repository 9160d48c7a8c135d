"""What can be said about a pod, besides the code."""

import re
from dataclasses import dataclass, field

from kaggleops.backends.config import Config
from kaggleops.backends.runpod.answers import LONGEST_HOURS
from kaggleops.errors import UsageError

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
    secret: str = "kaggleops_key"  # noqa: S105 - its name
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

    def check(self, doing: str) -> None:
        """Check what types cannot say.

        Raises:
            UsageError: a field has a value that RunPod would not take, or that would not end.
        """
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
        for name, problem in wrong.items():
            if problem:
                raise UsageError(doing, f"{name}: {getattr(self, name)!r}: {problem}")
