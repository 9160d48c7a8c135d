"""From nothing to a first run without an account of Google's: `kaggleops init` on an s3 bucket."""

import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from click.testing import CliRunner, Result

from kaggleops.cli import main
from tests import secrets_of
from tests.fakes.programs import Programs
from tests.fakes.s3_server import S3Server


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a training script, and nothing of Google's is asked for anything."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code/train.py").write_text("import mlflow\nmlflow.log_metric('score', 1)\n")
    monkeypatch.chdir(tmp_path / "code")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("STORAGE_EMULATOR_HOST", "KAGGLEOPS_KEY", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AUTHOR_NAME", "AUTHOR_EMAIL", "COMMITTER_NAME", "COMMITTER_EMAIL"):
        monkeypatch.setenv(f"GIT_{name}", "ada@lab.test")
    gcloud = Programs(tmp_path)
    monkeypatch.setenv("PATH", f"{gcloud.path}{os.pathsep}{os.environ['PATH']}")
    yield tmp_path / "code"
    assert gcloud.state("gcloud")["commands"] == []
    mlflow.set_tracking_uri(None)


def init(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["init", "--yes", *arguments])


def error(done: Result, code: int = 2) -> str:
    (line,) = [each for each in done.stderr.splitlines() if each.startswith("error:")]
    assert done.exit_code == code, done.stderr
    return line


def commit(folder: Path) -> None:
    subprocess.run(["git", "init", "--quiet"], check=True)
    subprocess.run(["git", "add", "--all"], check=True)
    subprocess.run(["git", "commit", "--quiet", "-m", "Train"], check=True)


def local_settings() -> Any:
    return yaml.safe_load(Path("config/local.yaml").read_text())


def test_from_nothing_to_a_first_run(folder: Path, s3_server: S3Server) -> None:
    new = ("--bucket", "s3://adas-runs/kaggle", "--endpoint", s3_server.url)
    assert "git init" in error(init(*new))  # and nothing else has happened
    assert s3_server.requests == []
    commit(folder)
    address = s3_server.address("adas-runs", "kaggle")
    done = init(*new, "--run")
    assert done.exit_code == 0, done.stderr
    assert f"created the bucket {address}" in done.stderr
    assert "honours conditional writes" in done.stderr
    assert local_settings() == {"bucket": address}
    mlflow.set_tracking_uri(f"{address}/mlruns")
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"score": 1.0})
    assert run.info.artifact_uri.startswith("s3://adas-runs/kaggle/artifacts/")
    assert "kaggleops[s3] @ git+" in Path("conda.yaml").read_text()
    assert f'bucket = \\"{address}\\"' in Path("notebooks/run.ipynb").read_text()

    steps = done.stdout.partition("Next:\n")[2].splitlines()
    assert [shlex.split(each)[:2] for each in steps] == [
        ["git", "add"], ["kaggleops", "doctor"], ["kaggleops", "run"],
        ["kaggleops", "credentials"], ["kaggleops", "ui"],
    ]  # fmt: skip
    subprocess.run(steps[0], shell=True, check=True, capture_output=True)
    assert subprocess.run(["git", "status", "--porcelain"], capture_output=True).stdout == b""
    again = init("--json")
    assert again.exit_code == 0, again.stderr
    assert "used as it is" in again.stderr


def test_its_key_for_a_platform(
    folder: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(folder)
    s3_server.create_bucket("adas-runs")
    monkeypatch.setenv("KAGGLEOPS_KEY", secrets_of.S3_KEY)
    place = s3_server.address("adas-runs")
    for _ in range(2):
        done = init("--bucket", place, "--platform", "docker")
        assert done.exit_code == 0, done.stderr
    assert "docker has a key" in done.stderr
    assert "The key can do more than a runner needs" not in done.stderr


def test_a_service_that_ignores_conditions_is_refused_by_name(
    folder: Path, s3_server: S3Server
) -> None:
    commit(folder)
    s3_server.ignores_conditions = ("write",)
    s3_server.create_bucket("adas-runs")
    line = error(init("--bucket", s3_server.address("adas-runs")), code=1)
    assert s3_server.url.removeprefix("http://") in line
    assert not Path("config/local.yaml").exists()
    assert not Path("MLproject").exists()


def test_what_keeps_somebody_from_it_is_one_clear_line(
    folder: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(folder)
    s3_server.deny("adas-runs", write=True)
    line = error(init("--bucket", s3_server.address("adas-runs")))
    assert line.endswith("Create it on the service's own page, and run the same command again.")
    assert "Leave it out" in error(init("--bucket", "here", "--endpoint", s3_server.url))
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    line = error(init("--bucket", "s3://runs", "--endpoint", "https://0f.r2.cloudflarestorage.com"))
    assert "Partial credentials found in env, missing: AWS_SECRET_ACCESS_KEY" in line
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    line = error(init("--bucket", "s3://runs", "--endpoint", "https://0f.r2.cloudflarestorage.com"))
    assert "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write both into a profile" in line
    assert line.endswith("https://dash.cloudflare.com/?to=/:account/r2/api-tokens")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert "profile (lab) could not be found" in error(init("--bucket", "s3://runs"))
    assert not Path("config/local.yaml").exists()


def test_a_region_of_amazons_stands_in_the_address(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(folder)
    monkeypatch.setenv("AWS_PROFILE", "lab")
    line = error(init("--bucket", "s3://runs/a", "--region", "eu-west-1"))
    assert "s3://runs@s3.eu-west-1.amazonaws.com/a" in line
