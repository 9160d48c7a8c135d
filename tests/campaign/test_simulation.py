"""Weeks of quotas, prices, refusals and lost machines, and an oracle that looks at every step.

It knows what really happens. It asks of every turn: is a free session idle that a waiting job fits,
or money spent where it need not be; at all times: is a quota used up under jobs that took no longer
than was thought, is more billed than the budget, or more than is counted, does a job run twice; and
in the end: has every job ended that anything could take.
"""

import random
from collections import Counter
from collections.abc import Iterable

import pytest

from kaggleops.campaign import money
from kaggleops.campaign.hosts import SET_UP
from kaggleops.campaign.placement import LEAST_LEG
from kaggleops.campaign.sweep import Sweep

from .simulated import ENDED, EVER, Campaign, Killed, Platform, Truth, World, can, expected, moment


def generated(seed: int) -> World:
    """Return platforms, sweeps and bad luck of a seed."""
    chance = random.Random(seed)
    calm = chance.random() < 0.3

    def odds(most: float) -> float:
        return 0.0 if calm else chance.choice((0.0, chance.uniform(0, most)))

    def platform(name: str, sessions: int, hours: float | None, **also: object) -> Platform:
        own = random.Random(chance.random())
        luck = {"refuses": odds(0.4), "loses": odds(0.3), "chance": own}
        return Platform(name, sessions, hours, **luck | also)  # type: ignore[arg-type]

    every = [
        platform(
            "kaggle",
            chance.choice((1, 2, 2, 2)),
            chance.choice((12.0, 12.0, 4.0)),
            total=chance.choice((30.0, 30.0, 9.0)),
            used=0.0,
            refreshes_at=chance.uniform(1, 168),
            known_refresh=chance.random() < 0.9,
        ),
        platform("colab", 1, chance.choice((12.0, 5.0))),
        platform("local", chance.choice((1, 3)), None, speed=chance.choice((0.5, 1.0, 2.0))),
        platform(
            "runpod",
            chance.choice((1, 2, 4)),
            chance.choice((6.0, 24.0)),
            accelerator="NVIDIA L4",
            memory_gb=24.0,
            price=chance.choice((0.2, 0.43, 1.9)),
            ending_hours=0.2,
            speed=chance.choice((1.0, 1.7)),
        ),
    ]
    for each in every:
        each.used = chance.choice((0.0, each.total or 0.0, chance.uniform(0, each.total or 0.0)))
        each.away_until = chance.choice((0.0, 0.0, odds(30.0)))
    named = chance.sample(every, chance.randint(1, len(every)))
    campaigns = [
        campaign(f"{seed}-{number}-", chance, [each.name for each in named])
        for number in range(chance.choice((1, 1, 2)))
    ]
    return World({each.name: each for each in named}, campaigns, chance, dies=odds(0.1))


def campaign(prefix: str, chance: random.Random, backends: list[str]) -> Campaign:
    sweep = Sweep(
        ["x=1,2"],
        backends=backends,
        budget=chance.choice((None, 0.5, 5.0, 20.0)),
        needs=chance.choice(({}, {}, {"gpu": "T4"}, {"memory_gb": 20}, {"gpu": "L4,T4"})),
    )
    continuable = chance.random() < 0.3
    usual = chance.choice((0.3, 1.4, 3.5, 9.0) + ((30.0,) if continuable else ()))
    spread = chance.choice((1.05, 1.05, 3.0))
    truths = {}
    for number in range(chance.randint(1, 14)):
        hours = usual * chance.uniform(1, spread)
        run_id = f"{prefix}{number}"
        truths[run_id] = Truth(run_id, hours, fails=chance.random() < 0.05)
    return Campaign(sweep, truths, continuable)


def simulate(world: World) -> None:
    """Let it happen, and judge it."""
    work = sum(truth.hours for each in world.campaigns for truth in each.truths.values())
    until = 168 * (30 + work / 3)  # hours by which all has ended, a third of a quota used well
    while not all(each.over for each in world.campaigns) and world.now < until:
        try:
            world.turn()
        except Killed:
            world.begin_watcher()
        else:
            judge_turn(world)
        judge(world)
        waits = [
            *(each.next_event() for each in world.platforms.values()),
            *(when + SET_UP.total_seconds() / 3600 for when in world.refused.values()),
            world.now + 6.0,
        ]
        soonest = min(each for each in waits if each > world.now)
        # More than the minute for which a platform's answer is taken.
        world.advance(max(soonest, world.now) + world.chance.uniform(0.02, 0.5))
        judge(world)
        if hopeless(world):
            break
    left = [job for each in world.campaigns for job in each.jobs if job.status == "RUNNING"]
    assert not left, f"at the end, {left} are still at work"
    for each in world.campaigns:
        for job in each.jobs:
            assert job.status in ENDED or not servable(world, each, job.run_id), (
                f"{job} never ended"
            )


def judge(world: World) -> None:
    """Look at what is true now."""
    at_work = [
        each.run_id
        for platform in world.platforms.values()
        for each in platform.active
        if not each.gone
    ]
    assert len(at_work) == len(set(at_work)), "a job runs twice"
    for platform in world.platforms.values():
        assert len(platform.active) <= platform.sessions
        assert not platform.asked_too_much, f"more was asked of {platform.name} than it offered"
    assert not world.ended_early
    for each in world.campaigns:
        assert set(each.runs) == set(each.truths), "a job was lost"
        now, limit = moment(world.now), each.sweep.budget or 0.0
        assert each.billed <= limit + 1e-6, f"{each.billed} was billed, of {limit}"
        spent = money.spent(each.jobs, now)
        assert spent >= each.billed - 1e-3, f"{spent} is counted, and {each.billed} was billed"
        assert spent + money.committed(each.jobs, now) <= limit + 1e-3


def judge_turn(world: World) -> None:
    """Look at what a turn has left undone, and at what it spent."""
    for each in world.campaigns:
        for decision in each.decided:
            idle = idle_for(world, each, decision.run_id)
            if decision.offer is None:
                waits = each.runs[decision.run_id] in each.waiting
                assert not (waits and idle), f"{idle} is idle while a job waits: {decision}"
                assert "\n" not in decision.why
            elif decision.offer.price:
                assert not idle, f"{idle} is free, and {decision} costs"
                judge_price(world, each, decision.run_id)


def judge_price(world: World, campaign: Campaign, run_id: str) -> None:
    """See that a job that costs had nothing to wait for."""
    for platform in answering(world, campaign):
        need = expected(campaign, run_id, platform)
        if platform.price or not fits(campaign, run_id, platform):
            continue
        least = min(need, LEAST_LEG) if campaign.continuable else need
        if platform.total and platform.known_refresh and unreserved(world, platform) < least - 0.01:
            before = [each for each in campaign.decided if each.offer is None]
            claimed = sum(expected(campaign, each.run_id, platform) for each in before)
            assert claimed + need > platform.total - 1e-6, f"{platform.name} is soon refreshed"


def answering(world: World, campaign: Campaign) -> list[Platform]:
    """Return the platforms of a sweep that can be asked now."""
    found = [world.platforms[name] for name in campaign.sweep.backends]
    back = SET_UP.total_seconds() / 3600
    return [
        each
        for each in found
        if world.now >= each.away_until and world.now >= world.refused.get(each.name, -EVER) + back
    ]


def idle_for(world: World, campaign: Campaign, run_id: str) -> str:
    """Return a free platform that could have begun a job now, or ""."""
    for platform in answering(world, campaign):
        need = expected(campaign, run_id, platform)
        least = min(need, LEAST_LEG) if campaign.continuable else need
        enough = unreserved(world, platform) >= least + 1e-6
        room = len(platform.active) < platform.sessions
        if not platform.price and room and enough and fits(campaign, run_id, platform):
            return platform.name
    return ""


def unreserved(world: World, platform: Platform) -> float:
    """Return the hours of a quota that nothing at work there is expected to need."""
    still = 0.0
    for each in platform.active:
        campaign, age = world.of(each.run_id), world.now - each.begun
        hours = expected(campaign, each.run_id, platform)
        longest = min(platform.session_hours or EVER, platform.total or EVER)
        still += hours - age if hours > age else max(0.0, longest - age)
    return platform.left - still


def fits(campaign: Campaign, run_id: str, platform: Platform) -> bool:
    """Tell whether a job can be done there at all."""
    if not can(campaign.sweep, platform):
        return False
    others = [each for each in campaign.jobs if each.status == "FINISHED"]
    longest = platform.session_hours or EVER
    if campaign.continuable or not others:
        return True
    there = any(each.tags.get("backend") == platform.name for each in others)
    return there or (campaign.forecast.hours or 0.0) <= longest


def servable(world: World, campaign: Campaign, run_id: str) -> bool:
    """Tell whether something free could have done a job in the end."""
    return any(not each.price and fits(campaign, run_id, each) for each in world.platforms.values())


def hopeless(world: World) -> bool:
    """Tell whether nothing will happen any more: what waits, waits for money that there is not."""
    open_jobs = [
        (each, job.run_id)
        for each in world.campaigns
        for job in each.jobs
        if job.status not in ENDED
    ]
    idle = not any(each.active for each in world.platforms.values())
    return world.now > 400 and idle and not any(servable(world, *each) for each in open_jobs)


def simulated(seeds: Iterable[int]) -> Counter[str]:
    """Simulate what follows from seeds; return how often what happened."""
    happened: Counter[str] = Counter()
    for seed in seeds:
        world = generated(seed)
        try:
            simulate(world)
        except AssertionError as error:
            raise AssertionError(f"seed {seed} at {world.now:.2f} h: {error}") from error
        happened["refused"] += len(world.refused)
        for each in world.campaigns:
            happened.update(job.status for job in each.jobs)
            happened["paid"] += each.billed > 0
    return happened


def test_weeks() -> None:
    happened = simulated(range(80))
    # It is not that nothing happens.
    for what, least in (("FINISHED", 400), ("FAILED", 20), ("paid", 12), ("refused", 20)):
        assert happened[what] >= least, happened


@pytest.mark.slow
@pytest.mark.parametrize("block", range(9))
def test_years(block: int) -> None:
    simulated(range(block * 1000, block * 1000 + 1000))
