"""The real Colab CLI over a fake of its service, with a real Jupyter server as the runtime."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaggleops.backends.colab.backend import ColabBackend
from kaggleops.backends.colab.supervisor import Job
from kaggleops.backends.interface import JobState
from kaggleops.git.commits import find_commit
from kaggleops.launch.launcher import Launch
from tests.conftest import unavailable
from tests.fakes.colab.service import ColabService

from .places import end_supervisor
from .world import TRACKING, World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # it installs 350 MB

INSTALLED = "KAGGLEOPS_COLAB_CLI"
"""The environment variable that names an interpreter which has what is needed already."""

PACKAGES = ["google-colab-cli", "jupyter_server"]


def starts(program: str) -> bool:
    """Tell whether a program is there; pyenv puts names into the PATH that lead nowhere."""
    if shutil.which(program) is None:
        return False
    return subprocess.run([program, "--version"], capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has the CLI."""
    if INSTALLED in os.environ:
        return Path(os.environ[INSTALLED])
    found = next(filter(starts, ("python3.13", "python3.12")), None)
    if found is None:
        unavailable("there is no Python 3.12 or newer")
    folder = tmp_path_factory.mktemp("venv")
    making = [[found, "-m", "venv", str(folder)]]
    making += [[str(folder / "bin/python"), "-m", "pip", "install", "--quiet", *PACKAGES]]
    if any(subprocess.run(each, capture_output=True).returncode for each in making):
        unavailable("the Colab CLI cannot be installed")
    return folder / "bin/python"


@pytest.fixture
def colab(
    outside: World, python: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[ColabService]:
    folder = tmp_path / "colab-service"
    folder.mkdir()
    variables = {"STORAGE_EMULATOR_HOST": outside.gcs.url, "KAGGLEOPS_FLUSH_SECONDS": "1"}
    content = Path("/content")
    there = content.exists()
    with ColabService(folder, python, variables) as service:
        adc = service.environment(folder)["GOOGLE_APPLICATION_CREDENTIALS"]
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", adc)
        yield service
        for job in Job.all():
            end_supervisor(job)
    if not there and content.exists():
        content.rmdir()


def test_the_real_cli_trains_and_gives_the_runtime_back(
    outside: World, colab: ColabService, tmp_path: Path
) -> None:
    key = tmp_path / "key.json"
    key.write_text('{"type": "fake", "marked": "canary"}')
    fields = {
        "cli": str(colab.write_program(tmp_path / "colab")),
        "auth": "adc",
        "credentials": str(key),
        "accelerator": "T4",
    }
    backend = ColabBackend()
    config = backend.read_config(fields, "a test")
    run = backend.submit(find_commit(outside.repository.folder), Launch(TRACKING), config)
    job = Job.known(run.tags["colab_job"])
    log = list(run.logs(follow=True))
    job.wait()
    assert run.state() == JobState("FINISHED", "done"), log
    assert sum("the training" in line for line in log) == 2
    assert outside.run(run.run_id).info.status == "FINISHED"
    assert outside.run(run.run_id).data.tags["backend"] == "colab"
    assert colab.assignments == {}
    # The CLI's history and debug log are there, and do not hold the key.
    kept = [each for each in (job.folder.parents[1]).rglob("*") if each.is_file()]
    assert any(each.name == "colab.log" for each in kept)
    assert not any(b"canary" in each.read_bytes() for each in kept)


def test_a_notebook_that_fails_is_seen_although_the_cli_says_nothing(
    outside: World, colab: ColabService, tmp_path: Path
) -> None:
    key = tmp_path / "key.json"
    key.write_text('{"type": "fake"}')
    fields = {
        "cli": str(colab.write_program(tmp_path / "colab")),
        "auth": "adc",
        "credentials": str(key),
        "accelerator": "",
    }
    backend = ColabBackend()
    config = backend.read_config(fields, "a test")
    what = Launch(TRACKING, entry_point="fail")
    run = backend.submit(find_commit(outside.repository.folder), what, config)
    Job.known(run.tags["colab_job"]).wait()
    assert run.state().status == "FAILED"
    assert any("no luck" in line for line in run.logs())
    assert colab.assignments == {}
