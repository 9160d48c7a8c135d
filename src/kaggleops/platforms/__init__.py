"""Where am I (Colab, Kaggle, RunPod, SkyPilot, Kaggle's image, or elsewhere)?

Light: a tracking process asks this at its start.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from kaggleops.platforms.colab import Colab
from kaggleops.platforms.kaggle import Kaggle
from kaggleops.platforms.local import KaggleImage, Local
from kaggleops.platforms.platform import ROOT, Platform, keys_of
from kaggleops.platforms.runpod import RunPod
from kaggleops.platforms.skypilot import SkyPilot

__all__ = ["PLATFORMS", "WITH_KEYS", "Platform", "detect", "keys_of"]

# Kaggle's image is built on Colab's, so Kaggle's signs count before Colab's.
PLATFORMS: tuple[type[Platform], ...] = (Kaggle, RunPod, SkyPilot, KaggleImage, Colab, Local)
"""All that are known, in the order in which their signs count."""

WITH_KEYS: Mapping[str, type[Platform]] = {each.backend: each for each in PLATFORMS if each.backend}
"""Those that a key of the bucket can be made for, by the name of their backend."""


def detect(environ: Mapping[str, str] | None = None) -> Platform:
    """Return the platform that this process, or one with another environment, runs on."""
    environ = os.environ if environ is None else environ
    root = Path(environ.get(ROOT, "/"))
    return next(each for each in PLATFORMS if each.is_here(environ, root))(environ)
