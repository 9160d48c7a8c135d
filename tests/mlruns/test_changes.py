"""The change log and the poll: what they cost, and that no writer's change is missed."""

import pytest

from kaggleops.bucket import (
    ABSENT,
    Bucket,
    BucketUnavailableError,
    ConflictError,
    open_bucket,
)
from kaggleops.mlruns import ChangeLog, EntityStore, Kind, Poll
from kaggleops.mlruns.change_log import seconds_open
from tests.buckets import ON_EACH_SERVICE
from tests.fakes.object_server import ObjectServer
from tests.mlruns.announcing import RUNS, versions, write
from tests.mlruns.entities import entity

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


def test_what_two_have_made_alike_only_one_has_made(bucket: Bucket) -> None:
    first, second = EntityStore(bucket), EntityStore(bucket)
    made = entity()
    version = first.write(made, expected=ABSENT, distinct=True)
    with pytest.raises(ConflictError):
        second.write(made, expected=ABSENT, distinct=True)
    entry = bucket.stat(made.id.key)
    assert entry is not None
    assert entry.version == version
    # What is only repeated does not conflict with itself.
    again = first.write(made, expected=version)
    assert first.write(made, expected=version) == again


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


@ON_EACH_SERVICE
def test_a_look_that_fails_half_way_is_made_good(service: ObjectServer) -> None:
    service.create_bucket("our-bucket")
    bucket = open_bucket(service.address("our-bucket"), patience=0)
    log, poll = ChangeLog(bucket), Poll(EntityStore(bucket))
    versions(poll)
    log.announce(RUNS[:2])
    written = {each: write(bucket, each, b"x") for each in RUNS[:2]}
    log.close(RUNS[:2])

    service.fail(503, key=RUNS[1].key, times=None)
    with pytest.raises(BucketUnavailableError):
        versions(poll)
    service.heal()

    again = versions(poll)
    assert again[RUNS[1]] == written[RUNS[1]]


def test_a_listing_that_fails_is_made_good(service: ObjectServer) -> None:
    service.create_bucket("our-bucket")
    bucket = open_bucket(service.address("our-bucket"), patience=0)
    version = write(bucket, RUNS[0], b"x")
    ChangeLog(bucket).announce(RUNS[1:2])
    poll = Poll(EntityStore(bucket))

    service.fail(503, op="list", times=None)
    with pytest.raises(BucketUnavailableError):
        versions(poll)
    service.heal()

    assert versions(poll) == {RUNS[0]: version}


def test_a_full_look_finds_what_nobody_announced(bucket: Bucket) -> None:
    poll = Poll(EntityStore(bucket))
    versions(poll)
    version = write(bucket, RUNS[0], b"by an older version")
    assert versions(poll) == {}

    assert {each.id: each.version for each in poll.changed(full=True)} == {RUNS[0]: version}


# -- what it costs -----------------------------------------------------------------------------


@pytest.fixture
def counted(service: ObjectServer) -> ObjectServer:
    """A bucket with 20 runs of which 19 are done, polled until nothing is new."""
    service.create_bucket("our-bucket")
    return service


def spent(server: ObjectServer) -> tuple[int, int]:
    """Return the requests of class A and B since the last call."""
    counts = server.count("A"), server.count("B")
    assert sum(counts) == len(server.requests)
    server.reset_counts()
    return counts


@ON_EACH_SERVICE
def test_the_requests_of_a_reader(counted: ObjectServer) -> None:
    bucket = open_bucket(counted.address("our-bucket"))
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


@ON_EACH_SERVICE
def test_the_requests_of_a_writer(counted: ObjectServer) -> None:
    bucket = open_bucket(counted.address("our-bucket"))
    writer, other = ChangeLog(bucket), ChangeLog(bucket)
    bucket.write("a process's first", b"", expected=ABSENT)  # which learns what the service is
    spent(counted)

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
