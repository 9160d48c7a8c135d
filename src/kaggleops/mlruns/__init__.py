"""MLflow's file-store layout as one object per entity: layout, pack, merge, rebase, store, poll."""

from kaggleops.layout import ARTIFACTS, MLRUNS, EntityId, Kind, experiment, run
from kaggleops.mlruns.archive import pack, unpack
from kaggleops.mlruns.change_log import ChangeLog
from kaggleops.mlruns.entity import BrokenEntityError, Entity, Notes
from kaggleops.mlruns.merge_rules import merge
from kaggleops.mlruns.poll import Change, Changes, Mark, Poll
from kaggleops.mlruns.store import EntityStore, Stored

__all__ = [
    "ARTIFACTS",
    "MLRUNS",
    "BrokenEntityError",
    "Change",
    "ChangeLog",
    "Changes",
    "Entity",
    "EntityId",
    "EntityStore",
    "Kind",
    "Mark",
    "Notes",
    "Poll",
    "Stored",
    "experiment",
    "merge",
    "pack",
    "run",
    "unpack",
]
