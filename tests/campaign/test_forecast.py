"""How long a job should take."""

from datetime import UTC, datetime, timedelta

import pytest

from kaggleops.campaign import money
from kaggleops.campaign.plan import Forecast
from kaggleops.campaign.sweep import Job

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)


def finished(hours: float, backend: str = "kaggle", status: str = "FINISHED") -> Job:
    begun = NOON.timestamp() * 1000
    ended = int(begun + hours * 3_600_000)
    return Job("b" * 32, 0, {}, "", status, {"backend": backend}, {}, int(begun), ended)


def expected_hours(siblings: list[Job]) -> float | None:
    return Forecast(siblings).hours


def test_nobody_knows_before_one_has_finished() -> None:
    assert expected_hours([]) is None
    assert expected_hours([finished(1, status="FAILED"), finished(2, status="KILLED")]) is None
    assert expected_hours([finished(2.0)]) == pytest.approx(2.2)


def test_it_is_what_most_take() -> None:
    siblings = [finished(1 + number / 100) for number in range(19)] + [finished(30)]
    assert expected_hours(siblings) == pytest.approx(1.1 * 1.17)


def test_a_backend_has_its_own() -> None:
    siblings = [finished(1.0), finished(10.0, "local"), finished(9.0, "local")]
    assert Forecast(siblings).by_backend == {
        "kaggle": pytest.approx(1.1),
        "local": pytest.approx(11.0),
    }


def test_what_a_job_waited_is_not_how_long_it_took() -> None:
    tags: dict[str, str] = {"backend": "kaggle"}
    for begin, end in ((10, 12), (20, 23)):
        tags |= money.opened(tags, 0.0, 12.0, NOON + timedelta(hours=begin))
        tags |= money.closed(tags, NOON + timedelta(hours=end)) if end == 12 else {}
    (done,) = [finished(23.0)]
    job = Job(done.run_id, 0, {}, "", "FINISHED", tags, {}, done.begun_ms, done.ended_ms)
    assert expected_hours([job]) == pytest.approx(1.1 * 5)
