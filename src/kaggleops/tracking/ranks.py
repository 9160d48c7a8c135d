"""Which of several processes of one training logs: by default the first, rank 0.

torchrun and accelerate start the same script once a GPU, and each of them calls MLflow. What the
others log goes to a working copy of theirs that is never sent: they read the bucket, and what they
change stays with them. So a training is one run, with each point once, whatever its script does.
"""

import os

from kaggleops.bucket import Version
from kaggleops.errors import UsageError
from kaggleops.mlruns import Entity, EntityId, EntityStore

RANKS = "KAGGLEOPS_RANKS"
"""The environment variable with which every rank logs: `all`."""


def rank() -> int:
    """Return this process's number among those that torchrun has started; 0 for any other."""
    several = "LOCAL_RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"
    return int(os.environ.get("RANK") or 0) if several else 0


def is_silent() -> bool:
    """Whether what this process logs stays with it.

    Raises UsageError for a value of KAGGLEOPS_RANKS that says nothing.
    """
    wanted = os.environ.get(RANKS, "first")
    if wanted not in ("first", "all"):
        hint = "Set it to all to have every rank log, or remove it: then rank 0 does."
        raise UsageError(f"reading {RANKS}", f"{wanted!r} is neither first nor all", hint)
    return wanted == "first" and rank() > 0


class SilentStore(EntityStore):
    """The entities of a bucket, for a process that changes none: what it writes goes nowhere."""

    def _write(self, entity: Entity, expected: Version, distinct: bool = False) -> Version:
        return expected

    def delete(self, entity_id: EntityId, *, expected: Version | None = None) -> None:
        """Delete nothing."""
