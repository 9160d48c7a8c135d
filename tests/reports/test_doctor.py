"""`kaggleops doctor`: what a run needs, one line each, with what to do."""

import os
from pathlib import Path

import pytest

from kaggleops.reports.doctor import Finding, examine
from tests.command import kaggleops
from tests.fakes.gcs_server import GcsServer
from tests.fakes.git_server import Repository
from tests.fakes.kaggle_server import KaggleServer


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without whatever Kaggle account whoever runs the tests may have."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [each for each in os.environ if each.startswith("KAGGLE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def code(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "code")
    repository.write(train_py="")
    repository.commit("Train")
    return repository


def test_a_healthy_machine(code: Repository, gcs_server: GcsServer, tmp_path: Path) -> None:
    gcs_server.create_bucket("our-bucket")
    code.git("remote", "add", "origin", code.folder.as_uri())
    storage = {name: os.environ[name] for name in ("STORAGE_EMULATOR_HOST", "KAGGLEOPS_HOME")}
    with KaggleServer(tmp_path / "kaggle") as kaggle:
        kaggle.add_user("ada", gpu_hours=30)
        environment = {**kaggle.environment("ada"), **storage}
        bucket = ("--bucket", "gs://our-bucket", "--json")
        done = kaggleops("doctor", *bucket, cwd=code.folder, **environment)
    assert done.code == 0, done.errors
    verdicts = {each["about"]: each["verdict"] for each in done.json["findings"]}
    assert verdicts == dict.fromkeys(
        ["versions", "commit", "remote", "bucket", "writing", "clock", "deleting", "kaggle"], "ok"
    )
    assert any("30.0 of 30 h GPU are left" in each["said"] for each in done.json["findings"])
    assert not gcs_server.objects("our-bucket")


def test_what_is_wrong_is_said_with_a_way_out(code: Repository, gcs_server: GcsServer) -> None:
    gcs_server.create_bucket("our-bucket")
    gcs_server.deny("our-bucket", write=True)
    code.write(train_py="changed")
    done = kaggleops("doctor", "--bucket", "gs://our-bucket", cwd=code.folder)
    assert done.code == 1
    assert "Traceback" not in done.errors
    lines = done.output.splitlines()
    assert any(line.startswith("! commit") and "1 files changed" in line for line in lines)
    assert any(line.startswith("! remote") for line in lines)
    assert any(line.startswith("✗ bucket") and "gs://our-bucket" in line for line in lines)


def test_without_a_repository_and_a_bucket(tmp_path: Path) -> None:
    found = {each.about: each for each in examine(None, tmp_path)}
    assert found["bucket"].verdict == "warning"
    assert found["git"].verdict == "error"
    assert "git init" in found["git"].hint


def test_a_clock_that_is_wrong(code: Repository, gcs_server: GcsServer) -> None:
    gcs_server.create_bucket("our-bucket")
    found: dict[str, Finding] = {}
    for finding in examine("gs://our-bucket", code.folder):
        found[finding.about] = finding
        if finding.about == "writing":
            for key in gcs_server.objects("our-bucket"):
                gcs_server.age("our-bucket", key, hours=1)
    assert found["clock"].verdict == "warning"
    assert "ahead of the bucket's" in found["clock"].said
    assert not gcs_server.objects("our-bucket")
