"""Where a waiting job goes, and what is said of it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kaggleops.backends.interface import Offer
from kaggleops.campaign.placement import Budget, Busy, Decision, Waiting, fits, place, waits

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
SATURDAY = datetime(2026, 12, 5, tzinfo=UTC)
FIVE = Budget(5.0)


def hours(count: float) -> timedelta:
    return timedelta(hours=count)


def kaggle(left: float = 30.0, sessions: int = 2, **also: Any) -> Offer:
    fields: dict[str, Any] = {
        "total_hours": 30.0,
        "refreshes": SATURDAY,
        "session_hours": 12.0,
        "accelerator": "NvidiaTeslaT4",
        "memory_gb": 16.0,
    }
    return Offer("kaggle", sessions, hours=left, **fields | also)


def colab(sessions: int = 1, **also: Any) -> Offer:
    fields: dict[str, Any] = {"session_hours": 12.0, "accelerator": "T4", "memory_gb": 16.0}
    return Offer("colab", sessions, **fields | also)


def runpod(price: float = 0.4, sessions: int = 2, **also: Any) -> Offer:
    fields: dict[str, Any] = {
        "session_hours": 6.0,
        "ending_hours": 0.2,
        "accelerator": "NVIDIA L4",
        "memory_gb": 24.0,
        "pool": "pods",
    }
    return Offer("runpod", sessions, price, **fields | also)


def jobs(count: int, needed: float | None = 1.4, **also: Any) -> list[Waiting]:
    return [Waiting(f"run{n}", needed, **also) for n in range(count)]


def where(decisions: list[Decision]) -> list[str]:
    return [each.offer.backend if each.offer else "" for each in decisions]


def test_all_that_is_free_is_used_at_once_and_money_for_what_is_over() -> None:
    offers = [runpod(), kaggle(), Offer("local", 2), colab()]
    decisions = place(jobs(9, 2.0), offers, [], Budget(10.0), NOW)
    assert where(decisions) == [
        *("local", "local", "colab", "kaggle", "kaggle"),
        *("runpod", "runpod", "", ""),
    ]
    assert [each.cost for each in decisions[5:7]] == pytest.approx([2.48, 2.48])
    assert [each.hours for each in decisions] == [None, None, 12, 12, 12, 6, 6, None, None]


def test_nothing_is_waited_for_of_which_nobody_knows_when_it_ends() -> None:
    offers, first = [Offer("local", 1), runpod()], jobs(3, None)
    decisions = place(first, offers, [], Budget(10.0), NOW)
    assert where(decisions) == ["local", "runpod", "runpod"]
    # Nor by the jobs of another sweep, in the same turn.
    placed = [each.busy for each in decisions if each.busy]
    (other,) = place(jobs(1, None), [Offer("local", 0), runpod()], placed, Budget(10.0), NOW)
    assert other.offer == runpod()


def test_each_decision_is_one_line() -> None:
    busy = [Busy("other", "kaggle", NOW - hours(1), 1.5)]
    kept, after = place(jobs(2), [kaggle(23, 1), runpod()], busy, FIVE, NOW)
    assert kept.why == "kaggle: free, 22.5 h of quota left, about 1.4 h needed, session 2 of 2"
    assert after.why == (
        "waits: kaggle's 2 sessions are at work; it waits rather than pay about $0.64 on runpod"
    )
    (paid,) = place(jobs(1), [kaggle(23, 0), runpod()], [], FIVE, NOW)
    assert paid.why == (
        "runpod: NVIDIA L4 for $0.40 an hour, about 1.4 h needed, "
        "at most $2.48 of the $5.00 left of the budget"
    )


def test_less_than_an_hour_is_told_in_minutes() -> None:
    for needed, told in ((0.99999, "60 min"), (0.5, "30 min"), (0.002, "1 min"), (1.0, "1.0 h")):
        (one,) = place(jobs(1, needed), [Offer("local", 1)], [], FIVE, NOW)
        assert one.why == f"local: free, about {told} needed, session 1 of 1"


def test_a_session_that_nobody_here_has_is_not_free() -> None:
    (one,) = place(jobs(1), [Offer("local", 0)], [], FIVE, NOW)
    assert one.why == "waits: local has no session free"


def test_it_waits_for_a_refresh_rather_than_spend() -> None:
    used = kaggle(0, problem="kaggle's 30 h of GPU are used up until 5 December 00:00 UTC")
    (one,) = place(jobs(1), [used, runpod()], [], FIVE, NOW)
    assert one.offer is None
    assert "used up until 5 December 00:00 UTC; it waits rather than pay" in one.why
    # But not for the refresh after that one: ten jobs of 3 h use the next quota up.
    decisions = place(jobs(12, 3.0), [used, runpod()], [], Budget(10.0), NOW)
    assert where(decisions) == [""] * 10 + ["runpod"] * 2
    # Nor for one that nobody knows.
    (one,) = place(jobs(1), [kaggle(0, refreshes=None), runpod()], [], FIVE, NOW)
    assert one.offer == runpod()


def test_a_job_does_not_begin_where_the_quota_ends_in_its_middle() -> None:
    offers = [kaggle(5.0)]
    long, short = place([Waiting("long", 6), Waiting("short", 4)], offers, [], FIVE, NOW)
    assert long.why == (
        "waits: kaggle has 1.0 h of quota left beside what runs, about 6.0 h needed, "
        "all of it again on 5 December 00:00 UTC"
    )
    assert short.offer == offers[0]
    # What can be continued does begin.
    (one,) = place(jobs(1, 20.0, continuable=True), offers, [], FIVE, NOW)
    assert (one.offer, one.hours) == (offers[0], 5.0)
    assert "about 5.0 h needed, the rest in another session" in one.why
    # Of one that nobody knows, as much as a session may last.
    (one,) = place(jobs(1, None), offers, [], FIVE, NOW)
    assert "up to 12.0 h needed" in one.why


def test_the_hours_of_what_runs_are_held_back() -> None:
    new, late = Busy("new", "kaggle", None, 4.0), Busy("late", "kaggle", NOW - hours(5), 4.0)
    unknown = Busy("unknown", "kaggle", NOW - hours(5))
    for busy, left in ((new, 4.0), (late, 7.0), (unknown, 7.0)):
        for more, expected in ((0.1, "kaggle"), (-0.1, "")):
            offers = [kaggle(left + 1.4 + more, 1)]
            assert where(place(jobs(1), offers, [busy], FIVE, NOW)) == [expected], busy
    # What was placed just now counts, too.
    assert where(place(jobs(2), [kaggle(2.0)], [], FIVE, NOW)) == ["kaggle", ""]


def test_no_more_is_spent_than_the_budget() -> None:
    offers = [runpod(1.0, 5)]
    (one,) = place(jobs(1, 1.2), offers, [], Budget(5.0, 3.0, 0.5), NOW)
    # Its session ends before the budget does.
    assert (one.hours, one.cost) == (pytest.approx(1.3), pytest.approx(1.5))


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (Budget(), "NVIDIA L4 on runpod would cost $1.60, and there is no budget"),
        (Budget(1.5), "NVIDIA L4 on runpod would cost $1.60, over the budget of $1.50"),
        (
            Budget(5.0, 4.0, 0.2),
            "NVIDIA L4 on runpod would cost $1.60, over the $0.80 left of the budget",
        ),
    ],
)
def test_a_budget_that_is_too_small_is_told_once(budget: Budget, said: str) -> None:
    decisions = place(jobs(3), [runpod(1.0)], [], budget, NOW)
    assert where(decisions) == [""] * 3
    assert waits(decisions) == f"3 jobs wait: {said}"


@pytest.mark.parametrize(
    ("budget", "offers", "over"),
    [
        (Budget(), [runpod(1.0)], False),  # nobody has wanted to pay
        (Budget(1.5), [runpod(1.0)], True),
        (Budget(5.0, 4.0), [runpod(1.0), kaggle(0.0)], True),
        (Budget(5.0, 4.0), [runpod(1.0), kaggle()], False),  # it does not wait
        (Budget(5.0, 1.0, 3.5), [runpod(1.0)], False),  # what runs may give some of it back
        (Budget(5.0), [runpod(1.0, session_hours=None)], False),
    ],
)
def test_a_budget_that_is_reached_is_no_other_wait(
    budget: Budget, offers: list[Offer], over: bool
) -> None:
    assert [each.over_budget for each in place(jobs(1), offers, [], budget, NOW)] == [over]


def test_what_has_no_limit_is_not_paid_for() -> None:
    (one,) = place(jobs(1), [runpod(session_hours=None)], [], FIVE, NOW)
    assert one.why == "waits: a session of runpod has no limit, so its cost has none"


def test_a_job_that_others_finished_somewhere_fits_there() -> None:
    # What is expected is more than what they took, and more than a session has.
    here = Waiting("run", 12.9, {"colab": 12.9})
    assert where(place([here], [colab()], [], FIVE, NOW)) == ["colab"]
    assert where(place([here], [kaggle()], [], FIVE, NOW)) == [""]


def test_a_turn_goes_on_with_what_it_has_placed() -> None:
    first, second = place(jobs(2), [kaggle(2.0, 1)], [], FIVE, NOW)
    assert first.busy == Busy("run0", "kaggle", None, 1.4)
    assert second.busy is None


def test_what_is_wished_for_is_kept_to() -> None:
    offers = [colab(), runpod(), runpod(0.7, accelerator="NVIDIA L40S", memory_gb=48.0)]
    for also, expected in (
        ({"accelerators": ["L4"]}, 0.4),
        ({"accelerators": ["L40S"]}, 0.7),
        ({"accelerators": ["gpu"], "memory_gb": 24.0}, 0.4),
        ({"memory_gb": 40}, 0.7),
    ):
        (one,) = place(jobs(1, **also), offers, [], FIVE, NOW)
        assert one.offer is not None
        assert one.offer.price == expected, also
    (one,) = place(jobs(1, accelerators=["H100"]), offers[:1], [], FIVE, NOW)
    assert one.why == "no platform can take it: colab has T4, H100 wanted"
    (one,) = place(jobs(1, 14.0), offers[:1], [], FIVE, NOW)
    assert "about 14.0 h needed, colab ends a session after 12 h" in one.why
    (one,) = place(jobs(1, 14.0, continuable=True), offers[:1], [], FIVE, NOW)
    assert one.offer == offers[0]
    assert where(place(jobs(1), [], [], FIVE, NOW)) == [""]


def test_offers_of_one_pool_share_its_sessions() -> None:
    offers = [runpod(), runpod(0.3, accelerator="NVIDIA RTX A5000")]
    decisions = place(jobs(3), offers, [], Budget(20.0), NOW)
    assert [each.offer and each.offer.price for each in decisions] == [0.3, 0.3, None]


@pytest.mark.parametrize(
    ("accelerator", "wish", "expected"),
    [
        ("NvidiaTeslaT4", "T4", True),
        ("NVIDIA L40S", "L4", False),
        ("NVIDIA GeForce RTX 4090", "rtx 4090", True),
        ("NVIDIA GeForce RTX 4090", "RTX4090", True),
        ("TpuV5E8", "tpu", True),
        ("v5e1", "gpu", False),
        ("V100", "gpu", True),
        ("", "gpu", False),
        ("", "none", True),
        ("T4", "none", False),
    ],
)
def test_an_accelerator_is_named_as_people_do(accelerator: str, wish: str, expected: bool) -> None:
    assert fits(accelerator, wish) is expected
