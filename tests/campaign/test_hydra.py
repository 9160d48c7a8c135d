"""`hydra/launcher=kaggleops`: the jobs of a person's own Hydra program are trials of a sweep."""

import logging
import os
import re
import shutil
import subprocess
import sys
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
import yaml
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import CompactHydraException

from kaggleops.backends.local import LocalConfig
from kaggleops.campaign.sweep import Sweep
from kaggleops.tags import PARENT, SWEEP
from tests.backends.world import Gate
from tests.fakes.git_server import Repository

from .world import World

MLPROJECT = """
name: theirs
entry_points:
  main:
    parameters:
      overrides: {type: string, default: ""}
    command: "eval python train.py {overrides}"
"""

CONFIG = """
lr: 0.1
db: {kind: mysql}
fail: false
gate: ""
hydra:
  run: {dir: outputs/one}
"""

TRAIN = """
import os
import hydra
import mlflow

@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(cfg):
    with open(os.environ["RAN"], "a") as ran:
        ran.write(f"{cfg.lr:g} {cfg.db.kind}\\n")
    if cfg.fail:
        raise SystemExit("no luck")
    if cfg.gate:
        open(cfg.gate + ".reached", "w").close()
        open(cfg.gate + ".open").read()
    with mlflow.start_run():
        mlflow.log_metric("score", 10 * cfg.lr)

main()
"""

OPTUNA = os.environ.get("KAGGLEOPS_TEST_OPTUNA", "")
"""A Python that has `kaggleops[server]` and hydra-optuna-sweeper, which wants an older Optuna."""

LAUNCHER = ("--multirun", "hydra/launcher=kaggleops", "hydra.launcher.metric=score")


@pytest.fixture
def theirs(world: World) -> World:
    """A world whose repository has a Hydra program of somebody's own, and whose bucket is empty."""
    shutil.rmtree(world.folder)
    world.folder.mkdir()
    repository = Repository(world.repository.folder.with_name("theirs"))
    repository.write(MLproject=MLPROJECT, train_py=TRAIN, **{"conf/config.yaml": CONFIG})
    repository.commit("Train")
    return replace(world, repository=repository)


def program(world: World, *arguments: str, python: str = sys.executable) -> "subprocess.Popen[str]":
    """Start their program, as they do."""
    where = [f"hydra.launcher.bucket={world.folder}", f"hydra.sweep.dir={world.ran}-multirun"]
    return subprocess.Popen(
        [python, "train.py", *LAUNCHER, *where, *arguments],
        cwd=world.repository.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def refused(world: World, problem: str, *typed: str) -> None:
    """Start their program in this process, and see it refused in one line."""
    hydra = Hydra.create_main_hydra_file_or_module(
        str(world.repository.folder / "train.py"), None, "conf", "train"
    )
    quiet = ["hydra/hydra_logging=disabled", f"hydra.sweep.dir={world.ran}-multirun"]
    where = f"hydra.launcher.bucket={world.folder}"
    known = logging.root.manager.loggerDict.values()
    there = [each for each in known if isinstance(each, logging.Logger) and not each.disabled]
    try:
        with chdir(world.repository.folder), pytest.raises(CompactHydraException) as error:
            hydra.multirun("config", lambda _: None, [*LAUNCHER[1:], where, *quiet, *typed])
    finally:
        GlobalHydra.instance().clear()
        for each in there:  # Hydra's quiet silences all that there are
            each.disabled = False
    assert problem in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    output, _ = process.communicate(timeout=280)
    return process.returncode, output


def test_a_start_that_is_killed_is_gone_on_with_and_a_later_one_finds_all(
    theirs: World, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    typed = ["lr=0.1,0.2", f"gate={gate.path}", "hydra.launcher.at_once=1"]
    first = program(theirs, *typed)
    gate.wait()
    first.kill()
    ended(first)
    second = program(theirs, *typed)
    for job in range(2):
        if job:
            gate.wait()
        gate.open()
    code, output = ended(second)
    assert code == 0, output
    assert theirs.jobs_that_ran() == ["0.1 mysql", "0.2 mysql"]

    client = mlflow.MlflowClient(theirs.uri)
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    (parent,) = (run for run in runs if PARENT not in run.data.tags)
    assert (parent.info.status, parent.data.tags["mlflow.runName"]) == ("FINISHED", "train")
    config = Sweep.from_tag(parent.data.tags[SWEEP]).configs["local"]
    assert config["jobs"] == LocalConfig().with_room_for(1).jobs
    jobs = [run for run in runs if run.info.run_id != parent.info.run_id]
    assert [run.info.status for run in jobs] == ["FINISHED"] * 2
    assert sorted(run.data.metrics["score"] for run in jobs) == [1.0, 2.0]
    assert jobs[-1].data.params == {"overrides": f"lr=0.1 gate={gate.path}"}

    code, output = ended(program(theirs, *typed))
    assert code == 0, output
    assert len(theirs.jobs_that_ran()) == 2


def test_a_job_that_fails_is_one_line(theirs: World) -> None:
    code, output = ended(program(theirs, "fail=false,true"))
    assert code == 1
    assert "Traceback" not in output
    # What the training itself said last, whatever that was.
    assert re.search(r"error: running trial 1 \(fail=True\): .+\. See `kaggleops logs ", output)
    # One that fails goes on once, as of every sweep: it might have been its machine.
    assert theirs.jobs_that_ran() == ["0.1 mysql"] * 3


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["hydra.launcher.backends=kagle"], "choosing the backend 'kagle': there is none"),
        (["hydra.launcher.entry_point=mian"], "there is no entry point 'mian'. Did you mean main?"),
        (["hydra.launcher.bucket=''"], "choosing a bucket: none is named"),
        (["+note=" + "hf_" + 34 * "a"], "note holds a secret"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_made(
    theirs: World, arguments: list[str], problem: str
) -> None:
    refused(theirs, problem, "lr=0.1,0.2", *arguments)
    assert not list(theirs.folder.iterdir())


def test_what_is_not_committed_is_refused(theirs: World) -> None:
    theirs.repository.write(more_py="")
    refused(theirs, "more.py is not committed", "lr=0.1,0.2")


if OPTUNA:  # KAGGLEOPS_TEST_OPTUNA=…/bin/python make test PYTEST=tests/campaign/test_hydra.py

    def test_optunas_sweeper_is_told_what_the_trials_came_to(theirs: World) -> None:
        sampler = ["hydra/sweeper/sampler=tpe", "hydra.sweeper.sampler.seed=7"]
        search = ["hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2"]
        goal = ["hydra.sweeper.direction=minimize", "lr=interval(0.1,0.9)"]
        typed = ["hydra/sweeper=optuna", *sampler, *search, *goal]
        for _ in range(2):  # the second start proposes the same, and finds it
            code, output = ended(program(theirs, *typed, python=OPTUNA))
            assert code == 0, output
            rates = [float(each.split()[0]) for each in theirs.jobs_that_ran()]
            assert len(rates) == 4
            found = Path(f"{theirs.ran}-multirun/optimization_results.yaml").read_text()
            assert yaml.safe_load(found)["best_value"] == pytest.approx(10 * min(rates), 1e-4)
