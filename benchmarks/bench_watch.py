"""What the watcher of sweeps takes: requests, memory, and how long a free session stays free.

python benchmarks/bench_watch.py [JOBS]
"""

import os
import random
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from common import BUCKET, print_caption, print_table, storage

JOBS = 1000
SESSIONS = {"one": 4, "two": 6, "three": 10}
HOUR = 3600.0
FAULTS = 0.05


def main() -> None:
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else JOBS
    with tempfile.TemporaryDirectory() as folder, storage("gs") as server:
        os.environ["KAGGLEOPS_HOME"] = f"{folder}/home"
        rows = campaign(jobs, Path(folder), server)
        days = [idle(Path(folder) / "quiet", server, sweeps=False)]
        days.append(idle(Path(folder) / "waits", server, sweeps=True))
    print_table(
        f"{jobs:,} jobs of an hour over three platforms with 20 sessions",
        ["", "figure"],
        rows,
    )
    print_table("A day in which nothing happens", ["", "class A", "class B", "US dollars"], days)
    print_caption(
        "The clock is stepped. 5 % of a platform's answers are errors, half of them although it "
        "has done what was asked; 5 % of the jobs end without a word and go on. What jobs ask "
        "themselves does not count. The memory is the watcher's, MLflow included."
    )


class Clock:
    """Seconds that are stepped."""

    def __init__(self) -> None:
        from datetime import UTC, datetime

        self.began = datetime.now(UTC)
        self.passed = 0.0

    def now(self) -> Any:
        from datetime import timedelta

        return self.began + timedelta(seconds=self.passed)

    def steady(self) -> float:
        return self.passed

    def moment(self) -> tuple[float, ...]:
        return self.passed, self.now().timestamp()


def platform_of(name: str, folder: Path, chance: random.Random, faults: float) -> Any:
    from tests.campaign.platform import Somewhere

    from kaggleops.errors import KaggleOpsError

    class Faulty(Somewhere):
        def _answers(self) -> None:
            super()._answers()
            if chance.random() < faults / 2:
                raise KaggleOpsError(f"asking {name}", "no answer")

        def send(self, *arguments: Any) -> None:
            super().send(*arguments)
            if chance.random() < faults / 2:
                raise KaggleOpsError(f"asking {name}", "the answer was lost")

    made = Faulty(folder, name, SESSIONS.get(name, 0))
    made.ask_every = 60.0
    return made


def campaign(jobs: int, folder: Path, server: Any) -> list[list[str]]:
    """Carry a sweep out, and return what it took."""
    from tests.campaign.platform import trains
    from tests.campaign.world import world

    from kaggleops.campaign.watch import Watcher
    from kaggleops.server.settings import default_index

    chance = random.Random(7)
    place = f"gs://{BUCKET}/watched"
    (folder / "w").mkdir()
    where = world(folder / "w", place)
    axis = f"alpha=range(1,{jobs + 1})"
    where.begin(axis, backends=list(SESSIONS), configs={name: {} for name in SESSIONS})
    platforms = {name: platform_of(name, folder, chance, FAULTS) for name in SESSIONS}
    clock = Clock()
    watcher = Watcher(
        place, index=default_index(place), clock=clock, backends=platforms.__getitem__
    )
    counted: Counter[str] = Counter()
    began: dict[str, tuple[str, float]] = {}
    free: dict[str, list[float]] = defaultdict(list)
    delays: list[float] = []
    turns = 0
    while True:
        server.requests()
        turn = watcher.turn()
        turns += 1
        asked_for = server.requests()
        counted["A"] += asked_for.class_a
        counted["poll" if not turn.done else "B"] += asked_for.class_b
        if not turn.sweeps and turn.read:
            break
        for name, platform in platforms.items():
            for run_id, job in platform.jobs.items():
                if job["status"] == "SCHEDULED" and run_id not in began:
                    began[run_id] = name, clock.passed + HOUR * chance.uniform(0.8, 1.2)
                    # In the end there is nothing more to begin.
                    if free[name] and sum(len(each.jobs) for each in platforms.values()) < jobs:
                        delays.append(clock.passed - free[name].pop(0))
        clock.passed += turn.pause
        for run_id, (name, end) in list(began.items()):
            if end <= clock.passed:
                del began[run_id]
                free[name].append(end)
                if chance.random() < FAULTS:
                    platforms[name].end(run_id, "FAILED")
                    free[name].pop()  # nobody knows that before it is asked
                else:
                    trains(where.uri, run_id, platforms[name], score=1.0)
    watcher.close()
    sent = sum(int(job["sent"]) for each in platforms.values() for job in each.jobs.values())
    asked = sum(each.asked for each in platforms.values())
    memory = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    delays.sort()
    return [
        ["sessions begun", f"{sent:,}"],
        ["requests of class A a job", f"{counted['A'] / jobs:.1f}"],
        ["requests of class B a job, in turns that did something", f"{counted['B'] / jobs:.1f}"],
        ["… in turns that only looked", f"{counted['poll'] / jobs:.1f}"],
        ["questions to platforms a job", f"{asked / jobs:.1f}"],
        ["from a job's end to the next submit, median", f"{delays[len(delays) // 2]:.0f} s"],
        ["… 95 %", f"{delays[int(0.95 * len(delays))]:.0f} s"],
        ["memory", f"{memory / 2**20:.0f} MB"],
        ["turns", f"{turns:,}"],
        ["hours", f"{clock.passed / HOUR:.0f}"],
    ]


def idle(folder: Path, server: Any, *, sweeps: bool) -> list[str]:
    """Watch for a day in which nothing happens, and return what that costs."""
    from tests.campaign.world import world

    from kaggleops.campaign.watch import Watcher
    from kaggleops.server.settings import default_index

    place = f"gs://{BUCKET}/{folder.name}"
    folder.mkdir()
    where = world(folder, place)
    sweep_id = where.begin("alpha=1,2", backends=["none"], configs={"none": {}})
    if not sweeps:
        from mlflow import MlflowClient

        MlflowClient(where.uri).set_terminated(sweep_id, "KILLED")
    platform = platform_of("none", folder, random.Random(7), 0.0)
    clock = Clock()
    watcher = Watcher(place, index=default_index(place), clock=clock, backends=lambda _: platform)
    clock.passed += watcher.turn().pause  # what it finds at first is no cost of a day
    began = clock.passed
    server.requests()
    while clock.passed < began + 24 * HOUR:
        clock.passed += watcher.turn().pause
    watcher.close()
    asked = server.requests()
    a, b = asked.class_a, asked.class_b
    title = "one sweep waits for a machine" if sweeps else "no sweep is open"
    return [title, f"{a:,}", f"{b:,}", f"{a * 5e-6 + b * 4e-7:.4f}"]


if __name__ == "__main__":
    main()
