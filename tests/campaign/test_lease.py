"""Two watchers are kept apart: on other machines, on this one, and after a death."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kaggleops.bucket import ABSENT, Bucket, BucketUnavailableError
from kaggleops.campaign.lease import RENEW_AFTER, SECONDS, Lease
from kaggleops.layout import WATCHER_KEY


class Clock:
    """Seconds that a test sets, of two clocks."""

    def __init__(self) -> None:
        self.steady = 100.0
        self.set = 0.0  # ahead of the steady one; 0: the bucket's own clock is far ahead of both

    def __call__(self) -> tuple[float, ...]:
        return self.steady, self.steady + self.set


@pytest.fixture
def machines(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Lease, Clock]]:
    """Make a watcher's lease on a machine, by its name."""

    def machine(name: str) -> tuple[Lease, Clock]:
        monkeypatch.setenv("KAGGLEOPS_HOME", str(tmp_path / name))
        clock = Clock()
        return Lease(bucket, clock), clock

    return machine


Machines = Callable[..., tuple[Lease, Clock]]


def test_one_of_two_has_it_and_the_other_knows_who(machines: Machines) -> None:
    (one, _), (other, _) = machines("one"), machines("other")
    assert one.acquire()
    assert not other.acquire()
    assert (one.held(), other.held()) == (True, False)
    assert other.reason.startswith(f"process {os.getpid()} on ")
    one.release()
    assert other.acquire()
    assert not one.held()


def test_it_is_renewed_in_time_and_ends_before_another_may_take_it(machines: Machines) -> None:
    (one, ones), (other, others) = machines("one"), machines("other")
    assert one.acquire()
    assert not other.acquire()
    for _ in range(5):
        for clock in (ones, others):
            clock.steady += RENEW_AFTER + 1
        assert one.acquire()
        assert not other.acquire()
    # It cannot renew it any more.
    ones.steady += SECONDS - 1
    assert not one.held()
    others.steady += SECONDS - 1
    assert not other.acquire()
    others.steady += 2
    assert other.acquire()
    # The first one comes back, and finds that it is another's.
    assert not one.acquire()
    assert not one.held()


def test_one_whose_machine_slept_has_lost_it(machines: Machines) -> None:
    one, clock = machines("one")
    assert one.acquire()
    clock.set += SECONDS  # the steady clock stood still meanwhile
    assert not one.held()


def test_a_very_old_one_is_taken_at_once(machines: Machines) -> None:
    (one, _), (other, others) = machines("one"), machines("other")
    assert one.acquire()
    others.set = 2**40
    assert other.acquire()


def test_who_starts_again_on_the_same_machine_does_not_wait(machines: Machines) -> None:
    dead, _ = machines("one")
    assert dead.acquire()
    again, _ = machines("one")
    assert not again.acquire()  # it lives
    assert again.reason
    assert dead._lock
    dead._lock.close()  # as the kernel does
    assert again.acquire()


def test_a_write_whose_answer_was_lost_is_found(machines: Machines, bucket: Bucket) -> None:
    one, clock = machines("one")
    assert one.acquire()
    one._version = ABSENT  # the answer to the last write never came
    clock.steady += RENEW_AFTER + 1
    assert one.acquire()


@pytest.mark.parametrize("bucket", ["directory"], indirect=True)
@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b'{"format": 1}', b'{"format": 1, "id": [], "pid": "x"}', b"[" * 9999],
)
def test_what_is_no_lease_is_written_over(
    machines: Machines, bucket: Bucket, content: bytes
) -> None:
    bucket.write(WATCHER_KEY, content, expected=ABSENT)
    one, _ = machines("one")
    assert one.acquire()


@pytest.mark.parametrize("bucket", ["directory"], indirect=True)
def test_one_of_another_format_is_named_and_left_alone(machines: Machines, bucket: Bucket) -> None:
    told = {"format": 2, "host": "far", "version": "9.9"}
    bucket.write(WATCHER_KEY, json.dumps(told).encode(), expected=ABSENT)
    one, clock = machines("one")
    clock.set = 2**40
    assert not one.acquire()
    assert one.reason == (
        "far holds the lease mlruns/watcher.json with another version of KaggleOps, 9.9"
    )


@pytest.mark.parametrize("bucket", ["directory"], indirect=True)
def test_a_bucket_that_is_away_ends_it_only_when_its_time_is_over(
    machines: Machines, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, clock = machines("one")
    away = Away(bucket)
    one._bucket = away
    assert one.acquire()
    away.is_away = True
    clock.steady += RENEW_AFTER + 1
    assert one.acquire()
    clock.steady += SECONDS
    with pytest.raises(BucketUnavailableError):
        one.acquire()
    assert not one.held()


class Away:
    """A bucket that can be out of reach."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self.uri = bucket.uri
        self.is_away = False

    def __getattr__(self, name: str) -> object:
        if self.is_away:
            raise BucketUnavailableError(name, "out of reach")
        return getattr(self._bucket, name)
