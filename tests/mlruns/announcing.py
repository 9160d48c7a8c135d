"""Writers that announce what they change, and clocks that go as a test says."""

from kaggleops.bucket import ABSENT, Bucket, Version
from kaggleops.mlruns import Entity, EntityId, EntityStore, Poll, run
from kaggleops.mlruns.change_log import LOG_KEY, Log
from kaggleops.mlruns.entity import META, dump_yaml
from tests.mlruns.entities import run_meta

RUNS = [run("1", f"{number:032x}") for number in range(20)]


class Clock:
    """A machine's clocks, which go as a test says."""

    def __init__(self) -> None:
        self.monotonic = self.wall = 1000.0

    def __call__(self) -> tuple[float, float]:
        return self.monotonic, self.wall

    def advance(self, seconds: float) -> None:
        self.monotonic += seconds
        self.wall += seconds


def write(bucket: Bucket, entity_id: EntityId, content: bytes, known: Version = ABSENT) -> Version:
    """Write an entity as a run does that does not announce it."""
    files = {
        META: dump_yaml(run_meta(run_id=entity_id.name, run_uuid=entity_id.name)),
        "tags/a": content,
    }
    return EntityStore(bucket).write(Entity(entity_id, files), expected=known)


def versions(poll: Poll) -> dict[EntityId, Version]:
    return {change.id: change.version for change in poll.changed()}


def log_of(bucket: Bucket) -> Log:
    stored = bucket.read(LOG_KEY)
    assert stored is not None
    return Log.from_bytes(stored.data)
