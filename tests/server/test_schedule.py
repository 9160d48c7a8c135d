"""When the server looks at the bucket."""

from kaggleops.server.refresher import WATCHED_FOR_SECONDS, WATCHED_LOOK, Schedule
from kaggleops.tracking.live import IDLE_LOOK


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_often_while_somebody_looks_and_seldom_otherwise() -> None:
    clock = Clock()
    schedule = Schedule(clock)
    assert schedule.due  # at once, at first
    schedule.succeeded(listed=False)
    clock.now += WATCHED_LOOK
    assert not schedule.due
    schedule.somebody_looks()
    assert schedule.due  # at once: nobody has looked for longer than that
    schedule.succeeded(listed=False)
    assert not schedule.due
    clock.now += WATCHED_LOOK
    assert schedule.due
    schedule.succeeded(listed=False)
    clock.now += WATCHED_FOR_SECONDS
    schedule.succeeded(listed=False)
    clock.now += IDLE_LOOK - 1
    assert not schedule.due
    clock.now += 1
    assert schedule.due


def test_what_fails_is_tried_ever_more_slowly_and_never_given_up() -> None:
    clock = Clock()
    schedule = Schedule(clock)
    paces = []
    for _ in range(8):
        schedule.failed()
        assert not schedule.due
        paces.append(schedule.pace)
        schedule.somebody_looks()
        assert not schedule.due
        clock.now += schedule.pace
        assert schedule.due
    assert paces == sorted(paces)
    assert paces[0] == WATCHED_LOOK
    assert paces[-1] == paces[-2] <= 60
    schedule.succeeded(listed=False)
    assert schedule.pace == WATCHED_LOOK


def test_the_bucket_is_listed_once_a_day() -> None:
    clock = Clock()
    schedule = Schedule(clock)
    clock.now += 24 * 3600 - 1
    assert not schedule.listing_due
    clock.now += 1
    assert schedule.listing_due
    schedule.succeeded(listed=True)
    assert not schedule.listing_due
