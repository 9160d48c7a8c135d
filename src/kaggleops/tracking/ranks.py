"""Which of several processes of one training logs: by default the first, rank 0.

torchrun, accelerate and Lightning start the same script once a GPU, and each of them calls MLflow.
What the others log goes to a working copy of theirs that is never sent: they read the bucket, and
what they change stays with them. So a training is one run, with each point once, whatever its
script does.
"""

import os

from kaggleops.bucket import Version
from kaggleops.errors import UsageError
from kaggleops.mlruns import Entity, EntityId, EntityStore

RANKS = "KAGGLEOPS_RANKS"
"""The environment variable with which every rank logs: `all`."""


def rank() -> int:
    """Return this process's number among those that a launcher has started; 0 for any other.

    Lightning tells its processes no RANK: any number but 0 then says that it is not the first.
    Raises UsageError for a number that is none.
    """
    if "LOCAL_RANK" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        return 0
    names = ["RANK"] if os.environ.get("RANK") else ["LOCAL_RANK", "NODE_RANK"]
    found = 0
    for name in names:
        value = os.environ.get(name) or "0"
        try:
            found = found or int(value)
        except ValueError:
            hint = "The launcher of your processes sets it; remove it where there is none."
            raise UsageError(f"reading {name}", f"{value!r} is no number", hint) from None
    return found


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
