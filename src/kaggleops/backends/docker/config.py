"""What can be said about a container, besides the code."""

import re
from dataclasses import dataclass
from pathlib import Path

from kaggleops.backends.config import Config
from kaggleops.errors import UsageError
from kaggleops.platforms.keys import File

VERSION = "v170"
"""The version of Kaggle's images (June 2026), the same as in infra/kaggle-image/compose.yaml."""

_SIZE = re.compile(r"[1-9]\d*[bkmg]")


@dataclass(frozen=True)
class DockerConfig(Config):
    """The fields of config/backend/docker.yaml, where each is explained."""

    image: str = ""
    gpus: str = ""
    input: str = "~/kaggle/input"
    output: str = "~/kaggle/output"
    credentials: str = ""
    shm_size: str = "8g"

    @property
    def image_name(self) -> str:
        """The image: the one that is named, or Kaggle's own."""
        kind = "kaggle-gpu-images" if self.gpus else "kaggle-images"
        return self.image or f"gcr.io/{kind}/python:{VERSION}"

    @property
    def input_folder(self) -> Path:
        """What is mounted at /kaggle/input."""
        return Path(self.input).expanduser().absolute()

    @property
    def output_folder(self) -> Path:
        """Where the outputs of all runs are kept."""
        return Path(self.output).expanduser().absolute()

    @property
    def key_file(self) -> Path:
        """The key of the bucket."""
        named = Path(self.credentials).expanduser().absolute() if self.credentials else None
        return named or File("docker").path

    @property
    def gpu_count(self) -> int:
        """How many GPUs, as the engine counts them: -1 for all."""
        return -1 if self.gpus == "all" else int(self.gpus or 0)

    def check(self, doing: str) -> None:
        """Check what types cannot say.

        Raises:
            UsageError: a field has a value that the engine would not take.
        """
        if self.gpus not in ("", "all") and not re.fullmatch(r"[1-9]\d*", self.gpus):
            problem = f"gpus: {self.gpus!r} is no number of GPUs"
            raise UsageError(doing, problem, "It is all, a number, or '' for none.")
        if not _SIZE.fullmatch(self.shm_size):
            raise UsageError(doing, f"shm_size: {self.shm_size!r} is no size", "Write 8g, or 512m.")
        for name in ("input", "output"):
            if not getattr(self, name):
                raise UsageError(doing, f"{name}: a folder has to be named")
