"""`kaggleops data` as a user runs it."""

from pathlib import Path

import pytest

from kaggleops.bucket import open_bucket
from tests.command import Done, kaggleops

from .conftest import Project, fill


@pytest.fixture
def data(project: Project):  # type: ignore[no-untyped-def]
    def run(*arguments: object) -> Done:
        return kaggleops("data", *arguments, cwd=project.folder)

    return run


def test_a_project_from_nothing_to_status(tmp_path: Path, project: Project, data) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "bucket").mkdir()
    bucket = open_bucket(str(tmp_path / "bucket"))
    fill(bucket, exp1__oof_csv=b"a,b\n", exp1__log_txt=b"12345")
    project.declare(exp1={"source": f"{bucket.uri}/exp1", "description": "The first blend"})
    shown = data("status").output
    assert "not locked yet" in shown
    assert "exp1: The first blend" in shown
    assert data("status", "--json").json["exp1"]["description"] == "The first blend"
    would = data("fetch", "--dry-run")
    assert "Would fetch 2 files (9 bytes)" in would.output
    done = data("fetch")
    assert (done.code, done.output) == (0, "Fetched 2 files (9 bytes).\n")
    assert data("fetch", "--json").json["right"] == 2
    shown = data("status", "--json").json["exp1"]
    assert (shown["right"], shown["disk"], shown["source"]) == (True, {}, {})

    (project.folder / "data/exp1/oof.csv").write_text("mine")
    fill(bucket, exp1__log_txt=b"54321", exp1__new_txt=b"")
    shown = data("status", "--json").json["exp1"]
    assert shown["disk"] == {"changed": ["oof.csv"]}
    assert shown["source"] == {"changed": ["log.txt"], "new": ["new.txt"]}
    table = data("status").output
    assert "1 changed" in table
    assert "exp1: source: new: new.txt" in table
    refused = data("fetch")
    assert refused.code == 2
    assert "differs from the lock" in refused.error
    assert "3 files, 9 bytes" in data("lock").output
    assert data("fetch", "--force").code == 0
    assert project.files()["exp1/log.txt"] == b"54321"
    assert data("fetch", "nothing").code == 2
