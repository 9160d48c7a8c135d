"""Which index the reports read, and when it is brought up to date first."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner

from kaggleops.bucket.location import bucket_uri
from kaggleops.cli import main
from kaggleops.server.settings import default_index, server_folder
from tests.command import Done
from tests.reports.lab import Lab


@pytest.fixture
def lab(tmp_path: Path, empty_index: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    here = Path(default_index(bucket_uri(str(made.bucket))).removeprefix("sqlite:///"))
    here.parent.mkdir(parents=True)
    shutil.copyfile(empty_index, here)
    yield made
    mlflow.set_tracking_uri(None)


def asked(*arguments: object) -> Done:
    """Run a command in this process."""
    done = CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False)
    return Done(done.exit_code, done.stdout, done.stderr)


def board(bucket: Path, *options: object) -> list[str]:
    """The commits of the leaderboard."""
    done = asked("leaderboard", "--bucket", bucket, "--json", *options)
    assert done.code == 0, done.errors
    return [each["commit"] for each in done.json["commits"]]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nonsense", "SQLite or PostgreSQL"),
        ("mysql://somebody@host/runs", "SQLite or PostgreSQL"),
        ("sqlite://", "in memory"),
        ("postgresql://nohost.invalid/runs", "Is it running"),
    ],
)
def test_an_address_that_is_none_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, said: str
) -> None:
    (tmp_path / "bucket").mkdir()
    monkeypatch.setenv("KAGGLEOPS_INDEX", address)
    done = asked("leaderboard", "--bucket", tmp_path / "bucket")
    assert done.code in (1, 2)
    assert said in done.error


def test_a_password_in_the_command_line_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()
    index = "postgresql://me:s3cret@localhost/runs"
    for command in (["leaderboard"], ["compare", "a"]):
        done = asked(*command, "--bucket", tmp_path / "bucket", "--index", index)
        assert done.code == 2
        assert "KAGGLEOPS_INDEX" in done.error
        assert "s3cret" not in done.error


def test_an_index_in_postgresql_answers_as_the_one_here(
    lab: Lab, postgresql_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = postgresql_database.replace("+psycopg2", "")
    monkeypatch.chdir(lab.repository.folder)
    for command in (
        ["leaderboard", "--metric", "jaccard"],
        ["compare", lab.base[:10], "best", "--metric", "jaccard"],
    ):
        here, there = (
            asked(*command, "--bucket", lab.bucket, "--json", *options)
            for options in ((), ("--index", address))
        )
        assert here.code == there.code == 0, there.errors
        assert there.json == here.json


def test_the_index_of_another_bucket_is_refused_however_fresh(
    lab: Lab, tmp_path: Path, empty_index: Path
) -> None:
    index = f"sqlite:///{shutil.copyfile(empty_index, tmp_path / 'other.db')}"
    (tmp_path / "other").mkdir()
    mine = lab.runs[lab.base][0]
    assert asked("reproduce", mine, "--bucket", lab.bucket, "--index", index).code == 0
    # As if there had been a command on the other one just now.
    for marker in server_folder(bucket_uri(str(lab.bucket))).glob("fresh-*"):
        folder = server_folder(bucket_uri(str(tmp_path / "other")))
        folder.mkdir(parents=True)
        (folder / marker.name).touch()
    done = asked("reproduce", mine, "--bucket", tmp_path / "other", "--index", index)
    assert done.code == 2
    assert f"it is the index of {bucket_uri(str(lab.bucket))}" in done.error


def test_an_index_is_fresh_for_itself_only(lab: Lab, tmp_path: Path, empty_index: Path) -> None:
    old = f"sqlite:///{shutil.copyfile(empty_index, tmp_path / 'old.db')}"
    assert lab.merged not in board(lab.bucket, "--index", old)
    later = time.time() + 3600  # however long this test takes
    home = server_folder(bucket_uri(str(lab.bucket)))
    (of_old,) = home.glob("fresh-*")
    os.utime(of_old, (0, 0))
    lab.log(lab.merged, "new", {"lr": "0.2"}, 0.67)
    assert lab.merged in board(lab.bucket)
    (of_default,) = set(home.glob("fresh-*")) - {of_old}
    os.utime(of_default, (later, later))
    assert lab.merged in board(lab.bucket, "--index", old)
    # One that is fresh is not brought up to date; one that is gone is made anew.
    lab.log(lab.empty, "newer", {"lr": "0.2"}, 0.67)
    assert lab.empty not in board(lab.bucket)
    (home / "index.db").unlink()
    assert lab.empty in board(lab.bucket)


ONE_AFTER_THE_OTHER = """
import json, sys
from click.testing import CliRunner
from kaggleops.cli import main
for command in json.loads(sys.argv[1]):
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    print(command[0], done.exit_code, done.output)
    heavy = {"mlflow", "pandas", "alembic", "pydantic"} & set(sys.modules)
    if done.exit_code or heavy:
        sys.exit(f"{command}: {heavy}")
"""


def test_what_only_reads_imports_no_mlflow(lab: Lab, cold_python: None) -> None:
    """It would take a process four seconds, and this one has imported it."""
    mine, other = lab.runs[lab.base][0], lab.runs[lab.better][0]
    commands = [
        ["status", "--since", "99999d"],
        ["status", mine],
        ["leaderboard", "--metric", "jaccard"],
        ["compare", lab.base, lab.better],
        ["reproduce", mine],
        ["reproduce", mine, "--against", mine],
        ["cost"],
        ["forget", "--user", "nobody", "--yes"],
        ["forget", other, "--yes"],
    ]
    Path(default_index(bucket_uri(str(lab.bucket))).removeprefix("sqlite:///")).unlink()
    script = [sys.executable, "-c", ONE_AFTER_THE_OTHER]
    asked = json.dumps([[*each, "--bucket", str(lab.bucket)] for each in commands])
    folder = lab.repository.folder
    done = subprocess.run([*script, asked], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
