"""A bucket copied into another one: moved to another project or region, or brought back.

1. It can be repeated, and only what differs is copied again. So a bucket that is still written to
   is copied once while that goes on, and once more for what came in between.
2. Nothing in the target is lost. Runs that both have merge; of other objects the newer one stays.
3. It is done when the target's own listing shows the checksum (CRC32C) of every object that was
   copied. Between two buckets on Cloud Storage no byte passes through this machine.
4. Artifacts go first, so that no run in the target names some that are not there yet.

The change log is not copied: the target begins its own, and whoever serves it lists it anew.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum, auto

from kaggleops.bucket import ABSENT, Bucket, ConflictError, Entry, ObjectNotFoundError, Version
from kaggleops.errors import UsageError
from kaggleops.mlruns.changes import LOG_KEY, ChangeLog
from kaggleops.mlruns.entity import BrokenEntityError
from kaggleops.mlruns.layout import EntityId, parse_key
from kaggleops.mlruns.pulling import WORKERS, Progress
from kaggleops.mlruns.store import EntityStore


@dataclass
class Copied:
    """What became of a copy."""

    objects: int = 0
    """How many objects the source has."""
    copied: int = 0
    """How many of them were copied, their checksums the same in the target."""
    merged: int = 0
    """How many runs and the like the target had too, and were merged."""
    copied_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    """What was not copied, or is not in the target as it should be."""


def copy_bucket(source: Bucket, target: Bucket, progress: Progress = lambda *_: None) -> Copied:
    """Make a bucket hold what another one holds, besides what it holds already.

    Args:
        source: what to copy.
        target: where to; a folder is made if need be, a bucket on Cloud Storage has to be there.
        progress: called with how many objects are done, and how many there are.

    Raises:
        UsageError: one of the two lies in the other.
        BucketError: one of the two cannot be read or written.
    """
    for one, other in ((source, target), (target, source)):
        if f"{one.uri}/".startswith(f"{other.uri}/"):
            doing = f"copying {source.uri} to {target.uri}"
            raise UsageError(doing, "one lies in the other", "Name another bucket or folder.")
    target.prepare()
    return _Copying(source, target).run(progress)


class Outcome(Enum):
    """What became of one object."""

    COPIED = auto()
    MERGED = auto()
    PASSED_OVER = auto()


class _Copying:
    def __init__(self, source: Bucket, target: Bucket) -> None:
        self._source = source
        self._target = target
        self._entities = EntityStore(target, ChangeLog(target))
        self._result = Copied()

    def run(self, progress: Progress) -> Copied:
        result = self._result
        entries = _listed(self._source)
        there = _listed(self._target)
        result.objects = len(entries)
        differing = [
            each for key, each in entries.items() if key not in there or not _same(each, there[key])
        ]
        differing.sort(key=lambda entry: parse_key(entry.key) is not None)
        done = len(entries) - len(differing)
        progress(done, len(entries))
        copied = []
        with ThreadPoolExecutor(WORKERS) as pool:
            outcomes = pool.map(lambda entry: self._bring(entry, there.get(entry.key)), differing)
            for entry, outcome in zip(differing, outcomes, strict=True):
                copied += [entry] if outcome is Outcome.COPIED else []
                result.merged += outcome is Outcome.MERGED
                done += 1
                progress(done, len(entries))
        if copied:
            self._verify(copied, _listed(self._target))
            ChangeLog(self._target).begin_anew()
        self._entities.close()
        return result

    def _bring(self, entry: Entry, there: Entry | None) -> Outcome:
        entity_id = parse_key(entry.key)
        try:
            if there is not None and entity_id is not None:
                return self._merge(entity_id)
            if there is not None and there.updated_ms >= entry.updated_ms:
                where = self._target.object_uri(entry.key)
                self._result.problems.append(f"copying to {where}: a newer one is there; it stays.")
                return Outcome.PASSED_OVER
            self._copy(entry, expected=there.version if there else ABSENT)
        except ConflictError as error:
            if entity_id is not None:  # somebody logs to the target already
                return self._merge(entity_id)
            self._result.problems.append(str(error))
            return Outcome.PASSED_OVER
        except ObjectNotFoundError as error:
            self._result.problems.append(str(error))
            return Outcome.PASSED_OVER
        except OSError as error:
            where = self._source.object_uri(entry.key)
            self._result.problems.append(f"copying {where}: {error.strerror}: {error.filename}")
            return Outcome.PASSED_OVER
        return Outcome.COPIED

    def _copy(self, entry: Entry, *, expected: Version) -> None:
        from kaggleops.bucket.gcs import GcsBucket

        if isinstance(self._source, GcsBucket) and isinstance(self._target, GcsBucket):
            from kaggleops.bucket.gcs_rewriting import rewrite

            rewrite(entry, self._source, self._target, expected=expected)
            return
        with self._source.on_disk(entry) as file:
            self._target.write(entry.key, file, expected=expected)

    def _merge(self, entity_id: EntityId) -> Outcome:
        try:
            found = self._source.read(entity_id.key)
            assert found is not None  # noqa: S101 - it was read unconditionally
            stored = self._entities.merge_in(self._entities.unpack(entity_id, found.data))
            self._result.problems += stored.renamed
        except (ObjectNotFoundError, BrokenEntityError) as error:
            self._result.problems.append(str(error))
            return Outcome.PASSED_OVER
        return Outcome.MERGED

    def _verify(self, copied: list[Entry], there: Mapping[str, Entry]) -> None:
        for entry in copied:
            if entry.key in there and _same(entry, there[entry.key]):
                self._result.copied += 1
                self._result.copied_bytes += entry.size
            else:
                where = self._target.object_uri(entry.key)
                problem = "it is not what was to be copied: somebody writes it. Copy again"
                self._result.problems.append(f"verifying {where}: {problem}.")


def _listed(bucket: Bucket) -> dict[str, Entry]:
    return {each.key: each for each in bucket.list(checksums=True) if each.key != LOG_KEY}


def _same(one: Entry, other: Entry) -> bool:
    return (one.size, one.crc32c) == (other.size, other.crc32c)
