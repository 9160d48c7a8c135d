"""Which of several processes of one training logs: by default the first, rank 0.

torchrun, accelerate, Lightning, mpirun and srun start the same script once a GPU, and each process
calls MLflow. What the others log goes to a working copy of theirs that is never sent: they read the
bucket, and what they change stays with them. So a training is one run, with each point once,
whatever its script does.
"""

import os

from kaggleops.bucket import Version
from kaggleops.errors import UsageError
from kaggleops.mlruns import Entity, EntityId, EntityStore

RANKS = "KAGGLEOPS_RANKS"
"""The environment variable with which every rank logs: `all`."""


_LAUNCHERS = (
    # what tells a process its number among all of them, and what tells how many there are
    (("RANK",), "WORLD_SIZE"),  # torchrun, accelerate
    (("LOCAL_RANK", "NODE_RANK"), "WORLD_SIZE"),  # Lightning: the first has 0 for both
    (("OMPI_COMM_WORLD_RANK",), "OMPI_COMM_WORLD_SIZE"),  # Open MPI
    (("PMI_RANK",), "PMI_SIZE"),  # MPICH, Intel MPI
    # srun. An sbatch script has SLURM_NTASKS, too, and is one process all the same.
    (("SLURM_PROCID",), "SLURM_STEP_NUM_TASKS"),
)
"""The first that is there counts: srun starts those of mpirun, and either one starts torchrun."""


def rank() -> int:
    """Return this process's number among those that a launcher has started; 0 for any other.

    Raises UsageError for a number that is none.
    """
    for names, size in _LAUNCHERS:
        if os.environ.get(names[0]) and os.environ.get(size):
            if os.environ[size] == "1":
                return 0
            numbers = [_number(name) for name in names if os.environ.get(name)]
            return next((each for each in numbers if each), 0)
    return 0


def _number(name: str) -> int:
    try:
        return int(os.environ[name])
    except ValueError:
        hint = "The launcher of your processes sets it; remove it where there is none."
        problem = f"{os.environ[name]!r} is no number"
        raise UsageError(f"reading {name}", problem, hint) from None


def is_silent() -> bool:
    """Whether what this process logs stays with it."""
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
