"""The change log itself: what becomes of what it holds, drops or loses."""

import json
import math
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaggleops.bucket import ABSENT, Bucket, open_bucket
from kaggleops.layout import parse_key
from kaggleops.mlruns import ChangeLog, EntityStore, Kind, Poll, experiment
from kaggleops.mlruns.change_log import LOG_KEY, BrokenLogError, Log
from tests.bucket.processes import together
from tests.buckets import ON_SERVICES
from tests.mlruns.announcing import RUNS, Clock, log_of, versions, write


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
    try:
        log = Log.from_bytes(json.dumps({**sound, **changed}).encode())
    except BrokenLogError:
        assert changed or in_entry
    else:
        assert Log.from_bytes(log.to_bytes()) == log


HUGE = 1180591620717411303424  # 2**70
ENTRY = {"key": "k", "writer": "w", "open_for": 1, "sequence": 1}
HOSTILE = [
    {"sequence": HUGE},
    {"sequence": HUGE, "dropped": HUGE - 1},
    {"sequence": 1e300},
    {"sequence": 5, "dropped": -1},
    {"sequence": True},
    {"sequence": "5"},
    {"sequence": [5]},
    {"sequence": None},
    {"dropped": 6},
    {"id": "\0"},
    {"id": "\ud800"},
    {"id": "x" * 1_000_000},
    {"id": 5},
    {"format": HUGE},
    {"format": None},
    {"entries": None},
    {"entries": {"0": 0}},
    {"entries": [None]},
    {"entries": [{}]},
    {"entries": [["mlruns/1.tar.gz", "w", 1, 1]]},
    *(
        {
            "sequence": 5,
            "entries": [{"key": "k", "writer": "w", "open_for": 1, "sequence": 1} | odd],
        }
        for odd in [
            {"key": "\0"},
            {"key": 1},
            {"writer": "\ud800"},
            {"open_for": math.nan},
            {"open_for": math.inf},
            {"open_for": -1},
            {"open_for": True},
            {"open_for": "1"},
            {"sequence": HUGE},
            {"sequence": 0},
            {"sequence": -1},
            {"sequence": 1.5},
            {"sequence": math.nan},
        ]
    ),
    {
        "sequence": 10_000,
        "entries": [{**ENTRY, "sequence": number + 1} for number in range(9_999)],
    },
]


@pytest.mark.parametrize(
    "odd", [*HOSTILE, "", "[]", "5", "[" * 100_000, '{"format": 1' + "0" * 10**4]
)
def test_a_log_that_nobody_wrote_means_a_listing_and_the_next_writer_begins_another(
    tmp_path: Path, odd: Any
) -> None:
    bucket = open_bucket(str(tmp_path / "bucket"))
    sound = {"format": 1, "id": "a", "sequence": 0, "dropped": 0, "entries": []}
    data = odd if isinstance(odd, str) else json.dumps({**sound, **odd})
    bucket.write(LOG_KEY, data.encode(), expected=ABSENT)
    poll = Poll(EntityStore(bucket))
    assert poll.changed().listed
    assert "mlruns/changes.json" in poll.problem
    assert len(poll.problem) < 500
    assert not poll.changed().listed  # once is enough, as nobody has written since
    write(bucket, RUNS[0], b"x")
    ChangeLog(bucket).announce(RUNS[:1])
    changes = poll.changed()
    assert changes.listed
    assert [each.id for each in changes] == RUNS[:1]
    assert poll.problem == ""
    assert log_of(bucket).sequence == 1


def test_a_log_that_has_come_to_the_end_of_its_numbers_is_begun_anew(tmp_path: Path) -> None:
    bucket = open_bucket(str(tmp_path / "bucket"))
    bucket.write(LOG_KEY, Log("a", 2**53 - 1, 5).to_bytes(), expected=ABSENT)
    log = ChangeLog(bucket)
    log.announce(RUNS[:1])
    assert log_of(bucket).sequence == 2**53
    log.announce(RUNS[1:3])
    assert (log_of(bucket).sequence, log_of(bucket).id == "a") == (2, False)


def announce_and_write(barrier: Barrier, uri: str, number: int) -> int:
    """Announce two runs one after the other, at the same moment as all others; then write them."""
    bucket = open_bucket(uri, patience=20)
    log = ChangeLog(bucket, f"process {number}")
    barrier.wait()
    for each in RUNS[2 * number : 2 * number + 2]:
        log.announce([each])
        write(bucket, each, b"x")
    return number


@ON_SERVICES
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
