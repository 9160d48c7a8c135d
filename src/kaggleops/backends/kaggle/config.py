"""What can be said about a notebook on Kaggle, besides the code."""

import re
from dataclasses import dataclass, field

from kaggleops.backends.config import Config
from kaggleops.errors import UsageError

_PART = r"[\w-]+"
_OWNED = re.compile(f"{_PART}/{_PART}")
_SHAPES = {
    "credentials": _OWNED,
    "dataset_sources": _OWNED,
    "kernel_sources": _OWNED,
    "competition_sources": re.compile(_PART),
    # owner/model/framework/variation/version
    "model_sources": re.compile("/".join([_PART] * 4) + r"/\d+"),
}
_FORMS = {
    "competition_sources": "titanic",
    "model_sources": "owner/model/framework/variation/1",
}
LONGEST_HOURS = 12
"""What a session may last at most (secondary sources, 2026); 9 with a TPU."""


@dataclass(frozen=True)
class KaggleConfig(Config):
    """The fields of config/backend/kaggle.yaml, where each is explained."""

    credentials: str = ""
    machine_shape: str = "NvidiaTeslaT4"
    internet: bool = True
    session_hours: float | None = None
    competition_sources: list[str] = field(default_factory=list)
    dataset_sources: list[str] = field(default_factory=list)
    kernel_sources: list[str] = field(default_factory=list)
    model_sources: list[str] = field(default_factory=list)
    docker_image: str = ""
    docker_image_pinning: str = ""

    @property
    def resource(self) -> str:
        """Which quota a session uses up: GPU, TPU, or "" for a machine without either."""
        if not self.machine_shape:
            return ""
        return "TPU" if self.machine_shape.lower().startswith("tpu") else "GPU"

    def check(self, doing: str) -> None:
        """Check what types cannot say.

        Raises:
            UsageError: a field has a value that Kaggle would not take.
        """
        for name, shape in _SHAPES.items():
            value = getattr(self, name)
            for each in [value] if isinstance(value, str) else value:
                if each and not shape.fullmatch(each):
                    form = _FORMS.get(name, "owner/name")
                    raise UsageError(doing, f"{name}: {each!r} is not of the form {form}")
        if self.docker_image_pinning not in ("", "original", "latest"):
            problem = f"docker_image_pinning: {self.docker_image_pinning!r} is unknown"
            raise UsageError(doing, problem, "It is original or latest.")
        if self.session_hours is not None and not 0 < self.session_hours <= LONGEST_HOURS:
            problem = f"session_hours: {self.session_hours:g} is not between 0 and {LONGEST_HOURS}"
            raise UsageError(doing, problem)
