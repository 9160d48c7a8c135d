"""Machines that no platform lends: with Kaggle's image in a container, or without."""

from collections.abc import Mapping
from pathlib import Path

from kaggleops.platforms.keys import Keys
from kaggleops.platforms.platform import KEY_FILE, Platform


class KaggleImage(Platform):
    """Kaggle's container on somebody's own machine, which mounts the key's file."""

    name = "kaggle-image"
    title = "Kaggle's image"
    backend = "docker"
    _output = "kaggle/working"
    _mounts = "kaggle/input"
    _may_be_own = True

    @classmethod
    def is_here(cls, environ: Mapping[str, str], root: Path) -> bool:
        return (root / cls._output).is_dir()

    def _hint(self, keys: Keys) -> str:
        made = "the file that `kaggleops credentials create docker` makes"
        return f"Mount {made}, and name it in {keys.variable}."

    @classmethod
    def next_step(cls, keys: Keys) -> str:
        return f"docker run -v {cls.key_file()}:/{KEY_FILE}:ro -e {keys.variable}=/{KEY_FILE} …"


class Local(Platform):
    """Whatever else."""

    name = "local"
    title = "this machine"
    _may_be_own = True

    @classmethod
    def is_here(cls, environ: Mapping[str, str], root: Path) -> bool:
        return True

    def _hint(self, keys: Keys) -> str:
        return keys.hint
