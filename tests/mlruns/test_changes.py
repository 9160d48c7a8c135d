"""The change log and the poll: what they cost, and that no writer's change is missed."""

import json
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaggleops.bucket import ABSENT, Bucket, BucketUnavailableError, Version, open_bucket
from kaggleops.mlruns import ChangeLog, Entity, EntityId, EntityStore, Kind, Poll, experiment, run
from kaggleops.mlruns.changes import LOG_KEY, Log, seconds_open
from kaggleops.mlruns.entity import META, dump_yaml
from kaggleops.mlruns.layout import parse_key
from tests.bucket.processes import together
from tests.buckets import ON_GCS
from tests.fakes.gcs_server import GcsServer
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
    log = Log.from_bytes(stored.data)
    assert log is not None
    return log


# -- what is seen ------------------------------------------------------------------------------


def test_what_was_announced_is_seen_and_read(bucket: Bucket) -> None:
    log, poll = ChangeLog(bucket), Poll(EntityStore(bucket))
    assert versions(poll) == {}

    log.announce(RUNS[:2])
    assert versions(poll) == {}  # nothing is written yet
    first = write(bucket, RUNS[0], b"one")
    (change,) = poll.changed()
    assert change.entity is not None
    assert change.entity.files["tags/a"] == b"one"
    assert (change.id, change.version, change.problem) == (RUNS[0], first, None)

    log.announce(RUNS[:1])
    second = write(bucket, RUNS[0], b"two", first)
    assert versions(poll) == {RUNS[0]: second}
    assert versions(poll) == {}


def test_the_last_write_before_a_close_is_seen(bucket: Bucket) -> None:
    log, poll = ChangeLog(bucket), Poll(EntityStore(bucket))
    versions(poll)
    log.announce(RUNS[:1])
    versions(poll)
    version = write(bucket, RUNS[0], b"the last")
    log.close(RUNS[:1])

    assert versions(poll) == {RUNS[0]: version}
    assert poll.changed().due == 0


def test_an_entity_stays_open_until_its_last_writer_is_done(bucket: Bucket) -> None:
    parent, child, poll = ChangeLog(bucket), ChangeLog(bucket), Poll(EntityStore(bucket))
    versions(poll)
    parent.announce(RUNS[:1])
    child.announce(RUNS[:1])
    first = write(bucket, RUNS[0], b"of the child")
    child.close(RUNS[:1])
    assert versions(poll) == {RUNS[0]: first}

    second = write(bucket, RUNS[0], b"of the parent", first)
    assert versions(poll) == {RUNS[0]: second}


def test_what_was_deleted_is_gone(bucket: Bucket) -> None:
    log, poll = ChangeLog(bucket), Poll(EntityStore(bucket))
    write(bucket, RUNS[0], b"x")
    versions(poll)
    log.announce(RUNS[:1])
    EntityStore(bucket).delete(RUNS[0])

    (change,) = poll.changed()
    assert (change.id, change.version, change.entity) == (RUNS[0], ABSENT, None)
    assert versions(poll) == {}


def test_what_the_reader_has_already_is_not_read_again(bucket: Bucket) -> None:
    kept = {each: write(bucket, each, b"x") for each in RUNS[:3]}
    newer = write(bucket, RUNS[1], b"y", kept[RUNS[1]])
    EntityStore(bucket).delete(RUNS[2])

    assert versions(Poll(EntityStore(bucket), kept)) == {RUNS[1]: newer, RUNS[2]: ABSENT}


def test_a_broken_entity_does_not_hide_the_others(bucket: Bucket) -> None:
    version = bucket.write(RUNS[0].key, b"not an archive", expected=ABSENT)
    write(bucket, RUNS[1], b"x")
    poll = Poll(EntityStore(bucket))

    broken, fine = poll.changed()

    assert (broken.id, broken.version, broken.entity) == (RUNS[0], version, None)
    assert RUNS[0].key in str(broken.problem)
    assert fine.entity is not None
    assert versions(poll) == {}


def test_what_was_not_delivered_comes_again(bucket: Bucket) -> None:
    log, poll = ChangeLog(bucket), Poll(EntityStore(bucket))
    versions(poll)
    log.announce(RUNS[:3])
    written = {each: write(bucket, each, b"x") for each in RUNS[:3]}
    log.close(RUNS[:3])

    delivering = iter(poll.changed())
    assert next(delivering).id == RUNS[0]
    assert next(delivering).id == RUNS[1]  # so the first counts as delivered
    del delivering

    assert versions(poll) == {each: written[each] for each in RUNS[1:3]}


def test_a_look_that_fails_half_way_is_made_good(gcs_server: GcsServer) -> None:
    gcs_server.create_bucket("our-bucket")
    bucket = open_bucket("gs://our-bucket", patience=0)
    log, poll = ChangeLog(bucket), Poll(EntityStore(bucket))
    versions(poll)
    log.announce(RUNS[:2])
    written = {each: write(bucket, each, b"x") for each in RUNS[:2]}
    log.close(RUNS[:2])

    gcs_server.fail(503, key=RUNS[1].key, times=None)
    with pytest.raises(BucketUnavailableError):
        versions(poll)
    gcs_server.heal()

    again = versions(poll)
    assert again[RUNS[1]] == written[RUNS[1]]


def test_a_listing_that_fails_is_made_good(gcs_server: GcsServer) -> None:
    gcs_server.create_bucket("our-bucket")
    bucket = open_bucket("gs://our-bucket", patience=0)
    version = write(bucket, RUNS[0], b"x")
    ChangeLog(bucket).announce(RUNS[1:2])
    poll = Poll(EntityStore(bucket))

    gcs_server.fail(503, op="objects.list", times=None)
    with pytest.raises(BucketUnavailableError):
        versions(poll)
    gcs_server.heal()

    assert versions(poll) == {RUNS[0]: version}


def test_a_full_look_finds_what_nobody_announced(bucket: Bucket) -> None:
    poll = Poll(EntityStore(bucket))
    versions(poll)
    version = write(bucket, RUNS[0], b"by an older version")
    assert versions(poll) == {}

    assert {each.id: each.version for each in poll.changed(full=True)} == {RUNS[0]: version}


# -- the log -----------------------------------------------------------------------------------


def test_the_log_is_no_entity(bucket: Bucket) -> None:
    ChangeLog(bucket).announce([experiment("1")])
    assert parse_key(LOG_KEY) is None
    assert list(EntityStore(bucket).list(Kind.EXPERIMENT)) == []


def test_a_log_that_dropped_what_was_not_seen_means_a_listing(bucket: Bucket) -> None:
    log, poll = ChangeLog(bucket, capacity=4), Poll(EntityStore(bucket))
    log.announce(RUNS[:1])
    assert poll.changed().listed
    log.announce(RUNS[1:5])  # drops the first, which has been seen
    assert not poll.changed().listed
    log.announce(RUNS[5:10])

    version = write(bucket, RUNS[5], b"dropped at once")
    changes = poll.changed()
    assert changes.listed
    assert [each.version for each in changes] == [version]
    assert len(log_of(bucket).entries) == 4


def test_an_announcement_that_is_about_to_be_dropped_is_made_anew(bucket: Bucket) -> None:
    mine, others = ChangeLog(bucket, "mine", capacity=8), ChangeLog(bucket, "others", capacity=8)
    mine.announce(RUNS[:1])
    for number, each in enumerate(RUNS[1:8], 2):
        others.announce([each])
        mine.announce(RUNS[:1])
        entries = log_of(bucket).entries
        position = [(entry.key, entry.writer) for entry in entries].index((RUNS[0].key, "mine"))
        # At least a quarter of the room is left for what others announce before the write.
        assert position + 8 - len(entries) >= 2, f"after {number} announcements"


def test_an_announcement_is_renewed_after_half_its_time(bucket: Bucket) -> None:
    clock = Clock()
    log = ChangeLog(bucket, clock=clock, seconds_open=lambda kind: 100)

    def sequence_after(announce: Callable[[], None]) -> int:
        announce()
        return log_of(bucket).sequence

    assert sequence_after(lambda: log.announce(RUNS[:1])) == 1
    clock.advance(50)
    assert sequence_after(lambda: log.announce(RUNS[:1])) == 1
    clock.advance(1)
    assert sequence_after(lambda: log.announce(RUNS[:1])) == 2


@pytest.mark.parametrize("stands_still", ["monotonic", "wall"])
def test_either_clock_can_say_that_time_has_passed(bucket: Bucket, stands_still: str) -> None:
    """The one stands still while the machine sleeps; the other may be set back by a day."""
    clock = Clock()
    log = ChangeLog(bucket, clock=clock, seconds_open=lambda kind: 100)
    log.announce(RUNS[:1])

    clock.advance(51)
    setattr(clock, stands_still, 1000.0 if stands_still == "monotonic" else -86_400.0)
    log.announce(RUNS[:1])

    assert log_of(bucket).sequence == 2


def test_a_reader_lets_go_of_what_a_dead_writer_left_open(bucket: Bucket) -> None:
    clock = Clock()
    dead = ChangeLog(bucket, seconds_open=lambda kind: 100)
    poll = Poll(EntityStore(bucket), clock=lambda: clock.monotonic)
    dead.announce(RUNS[:1])
    versions(poll)
    assert poll.changed().due == 1

    # Between two looks, however far apart they are, it may have been written: one more.
    version = write(bucket, RUNS[0], b"its last")
    clock.advance(1000)
    assert versions(poll) == {RUNS[0]: version}
    assert poll.changed().due == 0


DAMAGED = {
    "not JSON": b"{",
    "not ours": b"[]",
    "empty": b"",
    "a newer format": b'{"format":2,"entries":[]}',
    "out of order": json.dumps(
        {
            "format": 1,
            "id": "a",
            "sequence": 9,
            "dropped": 0,
            "entries": [
                {"key": "k", "writer": "w", "open_for": 1, "sequence": number} for number in (2, 1)
            ],
        }
    ).encode(),
}


@pytest.mark.parametrize("damage", [*DAMAGED.values(), None], ids=[*DAMAGED, "missing"])
def test_a_lost_log_loses_nothing(bucket: Bucket, damage: bytes | None) -> None:
    log, poll = ChangeLog(bucket, "ours"), Poll(EntityStore(bucket))
    log.announce(RUNS[:1])
    versions(poll)
    stored = bucket.stat(LOG_KEY)
    assert stored is not None
    if damage is None:
        bucket.delete(LOG_KEY)
    else:
        bucket.write(LOG_KEY, damage, expected=stored.version)

    unannounced = write(bucket, RUNS[1], b"x")
    changes = poll.changed()
    assert changes.listed
    assert {each.id: each.version for each in changes} == {RUNS[1]: unannounced}
    assert not poll.changed().listed

    log.announce(RUNS[:1])  # begins it anew, although it had announced the same before
    assert [(each.key, each.writer) for each in log_of(bucket).entries] == [(RUNS[0].key, "ours")]
    version = write(bucket, RUNS[0], b"y")
    changes = poll.changed()
    assert changes.listed
    assert {each.id: each.version for each in changes} == {RUNS[0]: version}
    assert not poll.changed().listed


@pytest.mark.parametrize("had_a_log", [True, False])
def test_a_log_that_was_begun_anew_means_one_listing(bucket: Bucket, had_a_log: bool) -> None:
    """What many changes at once are announced by: it must work on a bucket without a log too."""
    log, poll = ChangeLog(bucket), Poll(EntityStore(bucket))
    if had_a_log:
        log.announce(RUNS[:1])
    versions(poll)
    imported = {each: write(bucket, each, b"x") for each in RUNS[1:5]}

    ChangeLog(bucket).begin_anew()

    changes = poll.changed()
    assert changes.listed
    assert {each.id: each.version for each in changes} == imported
    assert not poll.changed().listed
    # What others have announced is announced still.
    assert poll.changed().due == int(had_a_log)


texts = st.sampled_from(["", "a", "1", "-1", "nan", "é"])
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
fields = st.sampled_from(["format", "id", "sequence", "dropped", "entries"])
entry_fields = st.sampled_from(["key", "writer", "open_for", "sequence"])


@given(st.dictionaries(fields, json_values), st.dictionaries(entry_fields, json_values))
def test_whatever_the_log_holds_it_can_be_read_or_not(
    changed: dict[str, Any], in_entry: dict[str, Any]
) -> None:
    entry = {"key": RUNS[0].key, "writer": "w", "open_for": 1.0, "sequence": 1, **in_entry}
    sound = {"format": 1, "id": "a", "sequence": 1, "dropped": 0, "entries": [entry]}
    log = Log.from_bytes(json.dumps({**sound, **changed}).encode())
    if not changed and not in_entry:
        assert log is not None
    if log is not None:
        assert Log.from_bytes(log.to_bytes()) == log


def announce_and_write(barrier: Barrier, uri: str, number: int) -> int:
    """Announce two runs one after the other, at the same moment as all others; then write them."""
    bucket = open_bucket(uri, patience=20)
    log = ChangeLog(bucket, f"process {number}")
    barrier.wait()
    for each in RUNS[2 * number : 2 * number + 2]:
        log.announce([each])
        write(bucket, each, b"x")
    return number


@ON_GCS
def test_eight_processes_that_announce_at_once_lose_nothing(bucket: Bucket) -> None:
    poll = Poll(EntityStore(bucket))
    versions(poll)

    done = together(announce_and_write, [(bucket.uri, number) for number in range(8)])

    assert done == list(range(8))
    announced = {(each.key, each.writer) for each in log_of(bucket).entries}
    assert announced == {
        (each.key, f"process {number // 2}") for number, each in enumerate(RUNS[:16])
    }
    changes = poll.changed()
    assert {each.id for each in changes} == set(RUNS[:16])
    # One listing: the log was new. Nothing was dropped from it.
    assert changes.listed
    assert log_of(bucket).dropped == 0


# -- what it costs -----------------------------------------------------------------------------


@pytest.fixture
def counted(gcs_server: GcsServer) -> GcsServer:
    """A bucket with 20 runs of which 19 are done, polled until nothing is new."""
    gcs_server.create_bucket("our-bucket")
    return gcs_server


def spent(server: GcsServer) -> tuple[int, int]:
    """Return the requests of class A and B since the last call."""
    counts = server.count("A"), server.count("B")
    assert sum(counts) == len(server.requests)
    server.reset_counts()
    return counts


def test_the_requests_of_a_reader(counted: GcsServer) -> None:
    bucket = open_bucket("gs://our-bucket")
    writer, poll = ChangeLog(bucket), Poll(EntityStore(bucket))
    writer.announce(RUNS)
    known = {each: write(bucket, each, b"x") for each in RUNS}
    writer.close(RUNS)
    spent(counted)

    assert len(versions(poll)) == len(RUNS)
    assert spent(counted) == (1, 1 + len(RUNS))  # a listing, the log, and each run

    assert versions(poll) == {}
    assert spent(counted) == (0, 1)  # nothing new, whatever the number of runs

    writer.announce(RUNS[:1])
    known[RUNS[0]] = write(bucket, RUNS[0], b"y", known[RUNS[0]])
    writer.close(RUNS[:1])
    spent(counted)
    assert versions(poll) == {RUNS[0]: known[RUNS[0]]}
    assert spent(counted) == (0, 2)  # one of many changed
    assert versions(poll) == {}
    assert spent(counted) == (0, 1)

    writer.announce(RUNS[:3])
    versions(poll)
    spent(counted)
    assert versions(poll) == {}
    assert spent(counted) == (0, 1 + 3)  # three live runs


def test_the_requests_of_a_writer(counted: GcsServer) -> None:
    bucket = open_bucket("gs://our-bucket")
    writer, other = ChangeLog(bucket), ChangeLog(bucket)

    writer.announce(RUNS[:1])
    assert spent(counted) == (1, 1)  # the first time, it does not know the log
    writer.announce(RUNS[1:3])
    assert spent(counted) == (1, 0)
    writer.announce(RUNS[:3])
    assert spent(counted) == (0, 1)  # before a flush of what is announced
    writer.close(RUNS[:3])
    assert spent(counted) == (1, 0)
    writer.close(RUNS[:3])
    writer.announce([])
    assert spent(counted) == (0, 0)

    other.announce(RUNS[3:4])
    assert spent(counted) == (1, 1)
    writer.announce(RUNS[4:5])
    # Refused; then the bucket compares the content, and the log is read before it is written.
    assert spent(counted) == (2, 2)


def test_a_run_is_open_for_longer_than_what_is_written_once() -> None:
    assert seconds_open(Kind.RUN) > 10 * seconds_open(Kind.TRACE)
