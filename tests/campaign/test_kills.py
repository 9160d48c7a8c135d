"""A watcher that is killed at any moment: nothing is submitted twice, and nothing is lost."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest

from kaggleops.campaign.sweep import trial_id
from kaggleops.campaign.watch import Watcher
from kaggleops.server.settings import default_index
from tests import warm
from tests.fakes.gcs_server import GcsServer

from .platform import Somewhere, trains
from .world import World, world

_WRITES = ("objects.insert", "objects.delete")
_OF_A_TURN = 16  # writes, and some


def _killed(server: GcsServer, where: World, platform: Path, at: int, kind: str) -> bool:
    """Let a process of its own take a turn, and kill it at a write; tell whether it came so far."""
    seen = 0

    def struck(request: Any) -> bool:
        nonlocal seen
        seen += request.op in _WRITES
        return seen == at + 1 and request.op in _WRITES

    command = [sys.executable, "-m", "tests.campaign.one_turn"]
    arguments = [where.place, default_index(where.place), str(platform)]
    process = None

    def kill() -> None:
        assert process
        os.kill(warm.forked(process.pid), signal.SIGKILL)

    server.fail(kind, where=struck, then=kill)
    process = subprocess.Popen([*command, *arguments], cwd=warm.CHECKOUT)
    code = process.wait(timeout=120)
    server.heal()
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.mark.parametrize(
    ("kind", "points"),
    [
        ("reset", range(1, _OF_A_TURN, 9)),
        ("lost-response", range(5, _OF_A_TURN, 9)),
        pytest.param("reset", range(_OF_A_TURN), marks=pytest.mark.slow),
        pytest.param("lost-response", range(_OF_A_TURN), marks=pytest.mark.slow),
    ],
)
def test_killed_at_a_write(gcs_server: GcsServer, tmp_path: Path, kind: str, points: range) -> None:
    gcs_server.create_bucket("our-bucket")
    where = world(tmp_path, "gs://our-bucket")
    platform = Somewhere(tmp_path / "platform")
    trials = 2 * len(points)
    axis = "alpha=" + ",".join(map(str, range(1, trials + 1)))
    sweep_id = where.begin(axis, backends=["somewhere"], configs={"somewhere": {}})
    came = []
    for point in points:
        came.append(_killed(gcs_server, where, tmp_path / "platform", point, kind))
        for _ in range(2):
            watcher = Watcher(
                where.place, index=default_index(where.place), backends=lambda _: platform
            )
            turn = watcher.turn()
            watcher.close()
            assert turn.problems == []
        for run_id, job in platform.jobs.items():
            if job["status"] == "SCHEDULED":
                trains(where.uri, run_id, platform, score=1)
    assert any(came)
    watcher = Watcher(where.place, index=default_index(where.place), backends=lambda _: platform)
    for _ in range(4):
        watcher.turn()
        for run_id, job in platform.jobs.items():
            if job["status"] == "SCHEDULED":
                trains(where.uri, run_id, platform, score=1)
    watcher.close()
    assert [job["sent"] for job in platform.jobs.values()] == [1] * trials
    runs = [key for key in gcs_server.objects("our-bucket") if key.count("/") == 2]
    assert len([key for key in runs if key.startswith("mlruns/")]) == 1 + trials
    assert mlflow.MlflowClient(where.uri).get_run(sweep_id).info.status == "FINISHED"


@pytest.mark.parametrize(
    ("trials", "folds", "kills"),
    [
        (2, 2, 2),
        pytest.param(12, 3, 4, marks=pytest.mark.slow),
    ],
)
def test_a_search_on_this_machine_whose_watcher_is_killed_and_restarted(
    tmp_path: Path, trials: int, folds: int, kills: int
) -> None:
    where = world(tmp_path)
    axes = [f"alpha=range(1,{trials + 1})", "fold=" + ",".join(map(str, range(folds)))]
    goal = {"metrics": ["score"], "directions": ["maximize"], "fold_axis": "fold"}
    sampler = "grid" if trials == folds else "random"  # that takes seconds to import
    sweep_id = where.begin(*axes, sampler=sampler, trials=trials, **goal)
    submitted = 0
    for killed in range(kills):
        # At another place in its turns each time: as it has said what it did.
        with _watching(where) as process:
            assert process.stdout
            for line in process.stdout:
                submitted += " fold " in line
                if submitted > (killed + 1) * trials * folds // (kills + 2):
                    break
            os.kill(warm.forked(process.pid), signal.SIGKILL)
    with _watching(where, sweep_id) as process:
        assert process.stdout
        rest = process.stdout.read()
    assert "is over: FINISHED" in rest
    wanted = {f"{alpha} {fold}" for alpha in range(1, trials + 1) for fold in range(folds)}
    assert sorted(where.jobs_that_ran()) == sorted(wanted)  # each, and once
    client = mlflow.MlflowClient(where.uri)
    assert client.get_run(sweep_id).info.status == "FINISHED"
    sets = [client.get_run(trial_id(sweep_id, number)) for number in range(trials)]
    means = {each.data.metrics["score_mean"] for each in sets}
    assert means == set(range(1, trials + 1))


@contextmanager
def _watching(where: World, only: str = "") -> Iterator[subprocess.Popen[str]]:
    """Let a process of its own watch; only until one sweep is over, if it is named."""
    command = [sys.executable, "-u", "-m", "tests.campaign.watching", where.place, only]
    process = subprocess.Popen(command, cwd=warm.CHECKOUT, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        assert process.stdout
        process.stdout.close()
        process.wait(timeout=300)
