"""Machines that no platform lends: with Kaggle's image in a container, or without."""

from collections.abc import Mapping
from pathlib import Path

from kaggleops.platforms.platform import ADC, KEY_FILE, Platform


class KaggleImage(Platform):
    """Kaggle's container on somebody's own machine, which mounts the key's file."""

    name = "kaggle-image"
    title = "Kaggle's image"
    backend = "docker"
    _output = "kaggle/working"
    _mounts = "kaggle/input"
    _may_be_googles = True
    _sign_in_hint = (
        f"Mount the file that `kaggleops credentials create docker` makes, and name it in {ADC}."
    )

    @classmethod
    def is_here(cls, environ: Mapping[str, str], root: Path) -> bool:
        return (root / cls._output).is_dir()

    @classmethod
    def next_step(cls) -> str:
        return f"docker run -v {cls.key_file()}:/{KEY_FILE}:ro -e {ADC}=/{KEY_FILE} …"


class Local(Platform):
    """Whatever else."""

    name = "local"
    title = "this machine"
    _may_be_googles = True
    _sign_in_hint = "Run `gcloud auth application-default login`, and try again."

    @classmethod
    def is_here(cls, environ: Mapping[str, str], root: Path) -> bool:
        return True
