"""What a sweep has cost, over restarts, and may still cost."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from kaggleops.campaign import money
from kaggleops.campaign.sweep import Job

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)


def after(hours: float) -> datetime:
    return NOON + timedelta(hours=hours)


def job(tags: Mapping[str, str], status: str = "RUNNING") -> Job:
    return Job("a" * 32, 0, {}, status=status, tags=tags)


def both(tags: Mapping[str, str], hours: float) -> tuple[float, float]:
    """Return what was spent after so many hours, and what may still be."""
    now = after(hours)
    return round(money.spent([job(tags)], now), 9), round(money.committed([job(tags)], now), 9)


def test_a_session_costs_its_price_until_its_machine_has_told() -> None:
    tags = money.opened({}, 0.5, 6.2, NOON)
    assert both(tags, 0) == (0.0, 3.1)
    assert both(tags, 2) == (1.0, 2.1)
    # What the pod really costs is known once there is one.
    assert both({**tags, "price_per_hour": "0.25"}, 2) == (0.5, 1.05)
    assert both({**tags, "cost_usd": "0.9"}, 2) == (0.9, 0.0)
    # A pod that is kept goes on, whatever its job has told.
    kept = {**tags, "cost_usd": "0.9", "kept_until": str(after(6).timestamp())}
    assert both(kept, 2) == (1.0, 2.1)


def test_a_lost_machine_counts_until_it_is_gone_and_no_longer_than_it_can() -> None:
    tags = money.opened({}, 0.5, 6.2, NOON)
    assert both(tags, 100) == (3.1, 0.0)
    gone = {**tags, **money.closed(tags, after(4))}
    assert both(gone, 100) == (2.0, 0.0)
    assert money.closed(gone, after(5)) == {}


def test_all_sessions_of_a_job_add_up() -> None:
    told = {**money.opened({}, 0.5, 6.2, NOON), "cost_usd": "0.9"}
    second = {**told, **money.opened(told, 1.0, 3.0, after(10))}
    # What the first machine told is not what the second one costs.
    assert both(second, 10) == (0.9, 3.0)
    assert both(second, 11) == (1.9, 2.0)
    # A session that is free follows, and nobody has seen the second one's end.
    third = {**second, **money.opened(second, 0.0, 12.0, after(12))}
    assert both(third, 20) == (2.9, 0.0)
    fourth = {**third, **money.opened(third, 1.0, 3.0, after(21)), "cost_usd": "0.25"}
    assert both(fourth, 21) == (3.15, 0.0)


def test_what_was_refused_costs_nothing() -> None:
    first = {**money.opened({}, 0.5, 6.2, NOON), "cost_usd": "0.9"}
    second = {**first, **money.opened(first, 1.0, 3.0, after(10))}
    assert both({**second, **money.refused(second)}, 20) == (0.9, 0.0)
    assert money.refused({}) == {}


def test_a_job_of_many_sessions_fits_into_its_tag() -> None:
    tags: dict[str, str] = {}
    for hour in range(300):
        tags |= money.opened(tags, 0.25, 1.0, after(hour))
    assert both(tags, 300) == (75.0, 0.0)
    assert len(tags["sweep_sessions"]) < 8_000
    assert len(json.loads(tags["sweep_sessions"])) <= 20


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[1]",
        '{"at": 1}',
        '[{"at": "NaN", "price": 1}]',
        '[{"at": 1, "price": -1}]',
        "[" * 9999,
        '[{"at": 1e300, "price": 1}]',
    ],
)
def test_a_tag_that_is_spoilt_ends_nothing(text: str) -> None:
    assert both({"sweep_sessions": text, "cost_usd": "1.5"}, 1) == (1.5, 0.0)
    assert both({"sweep_sessions": text, "cost_usd": "much"}, 1) == (0.0, 0.0)
    assert both(money.opened({"sweep_sessions": text}, 1.0, 2.0, NOON), 1) == (1.0, 1.0)
