"""A bucket unpacked into a plain file-store `mlruns` for other tools, without our notes.

It is made once, in an empty folder, so that nobody's runs are overwritten. For a copy that is a
bucket itself, the objects are copied: they are plain files (docs/moving.md).
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from kaggleops.bucket import Entry
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.layout import (
    ARTIFACTS,
    EntityId,
    Kind,
    artifact_owner,
    experiment,
)
from kaggleops.mlruns.entity import BrokenEntityError
from kaggleops.mlruns.folder import TRASH, write_folder
from kaggleops.mlruns.locations import rebase
from kaggleops.mlruns.store import EntityStore

WORKERS = 16
_BATCH = 500

_Item = TypeVar("_Item")
Progress = Callable[[int, int], None]


@dataclass
class Exported:
    """What became of an export."""

    entities: int = 0  # how many experiments, runs, models and the like are in the folder now
    artifacts: int = 0  # how many artifacts are
    problems: list[str] = field(default_factory=list)  # what was passed over


def export(
    store: EntityStore, folder: Path, *, artifacts: bool, progress: Progress = lambda *_: None
) -> Exported:
    """Make a folder a plain file-store `mlruns` that holds what the bucket holds.

    Args:
        store: the bucket's entities.
        folder: a new or an empty one.
        artifacts: whether to copy these too; then their locations lead to the copies, else to the
            bucket.
        progress: called with how many objects were written, and how many there are.

    Raises:
        UsageError: the folder holds something already.
        BucketError: the bucket cannot be read.
    """
    doing, hint = f"exporting to {folder}", "Name a new or an empty folder."
    if folder.exists() and not folder.is_dir():
        raise UsageError(doing, "it is a file", hint)
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(doing, "it is not empty", hint)
    result, folder, deleted = Exported(), folder.absolute(), set[str]()

    def home_of(experiment_id: str) -> Path:
        return folder / TRASH if experiment_id in deleted else folder

    def write(found: EntityId | Entry) -> bool:
        try:
            if isinstance(found, Entry):
                _write_artifact(store, found, home_of)
                return True
            entity, home = store.read(found).entity, found.experiment_id
            if found == experiment(home) and entity.meta["lifecycle_stage"] == "deleted":
                deleted.add(home)
            if artifacts:
                entity = rebase(entity, folder.as_uri())
            write_folder(entity, home_of(home) / found.folder, notes=False)
        except (KaggleOpsError, OSError) as error:
            if isinstance(found, EntityId) and not isinstance(error, BrokenEntityError):
                raise
            result.problems.append(str(error))
            return False
        return True

    ids = [entity_id for entity_id, _ in store.every()]
    # The experiments first: what belongs to a deleted one lies in the trash.
    homes = [entity_id for entity_id in ids if entity_id.kind is Kind.EXPERIMENT]
    others = [entity_id for entity_id in ids if entity_id.kind is not Kind.EXPERIMENT]
    files = list(store.bucket.list(f"{ARTIFACTS}/", checksums=True)) if artifacts else []
    done, total = 0, len(ids) + len(files)
    (folder / TRASH).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(WORKERS) as pool:
        for batch in (*batches(homes), *batches(others), *batches(files)):
            for number, written in enumerate(pool.map(write, batch), done + 1):
                if number > len(ids):
                    result.artifacts += written
                else:
                    result.entities += written
                progress(number, total)
            done += len(batch)
    return result


def _write_artifact(store: EntityStore, entry: Entry, home_of: Callable[[str], Path]) -> None:
    path = entry.key.removeprefix(f"{ARTIFACTS}/")
    owner = artifact_owner(path)
    if owner is None:
        # It might lie where an entity's own files do.
        where = store.bucket.object_uri(entry.key)
        raise KaggleOpsError(f"exporting {where}", "it is no artifact of a run")
    target = home_of(owner.experiment_id) / path
    target.parent.mkdir(parents=True, exist_ok=True)
    store.bucket.fetch(entry.key, target, listed=entry)
    written_ns = entry.updated_ms * 1_000_000
    os.utime(target, ns=(written_ns, written_ns))  # tells a later import which is newer


def batches(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    """Yield the items, a bounded number at a time."""
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]
