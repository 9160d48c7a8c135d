"""Machines that SkyPilot has taken for a job, on whatever cloud or cluster."""

from collections.abc import Mapping
from pathlib import Path

from kaggleops.platforms.keys import Keys
from kaggleops.platforms.platform import Platform


class SkyPilot(Platform):
    """A managed job's machine, whose key is a secret of its task."""

    name = "skypilot"
    title = "SkyPilot"
    backend = "skypilot"
    _variable = "secret"

    @classmethod
    def is_here(cls, environ: Mapping[str, str], root: Path) -> bool:
        return bool(environ.get("SKYPILOT_TASK_ID"))

    def _hint(self, keys: Keys) -> str:
        return "`kaggleops credentials create skypilot` makes the key that a job gets."
