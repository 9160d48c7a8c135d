"""`kaggleops serve` called wrongly: one clear line, and nothing was made or started."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import kaggleops, kaggleops_here
from tests.fakes.s3_server import S3Server


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A bucket in a folder, empty."""
    (tmp_path / "bucket").mkdir()
    return tmp_path / "bucket"


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_address_that_others_reach_is_refused(place: Path, tmp_path: Path, host: str) -> None:
    done = kaggleops("serve", "--bucket", place, "--host", host, "--port", 0, cwd=tmp_path)
    assert done.code == 2
    assert "--auth" in done.error
    assert "--anyone-may-read-and-write" in done.error


@pytest.mark.parametrize("name", ["*", "https://ml.example.com", "ml.example.com:80", "", "a/b"])
def test_a_name_that_is_none(place: Path, name: str) -> None:
    done = kaggleops_here("serve", "--bucket", place, "--host-name", name)
    assert done.code == 2
    assert "ml.example.com" in done.error


def test_an_address_of_another_machine(place: Path, tmp_path: Path) -> None:
    mine = ("serve", "--bucket", place, "--auth", "--host")
    taken = kaggleops(*mine, "192.0.2.1", cwd=tmp_path)
    assert taken.code == 2
    assert "192.0.2.1" in taken.error
    unknown = kaggleops(*mine, "nowhere.invalid", cwd=tmp_path)
    assert unknown.code == 2
    assert "nowhere.invalid" in unknown.error


def test_a_port_that_is_taken(place: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = kaggleops("serve", "--bucket", place, "--port", port, cwd=tmp_path)
    assert done.code == 2
    assert str(port) in done.error


@pytest.mark.parametrize(
    "index", ["postgresql://me:s3cret@localhost/runs", "postgresql:///runs?user=me&password=s3cret"]
)
def test_a_password_in_the_command_line_is_refused(place: Path, tmp_path: Path, index: str) -> None:
    done = kaggleops("serve", "--bucket", place, "--index", index, cwd=tmp_path)
    assert done.code == 2
    assert "KAGGLEOPS_INDEX" in done.error
    assert "s3cret" not in done.error


def test_a_bucket_that_is_mistyped(tmp_path: Path) -> None:
    done = kaggleops("serve", "--bucket", tmp_path / "mistyped", "--port", 0, cwd=tmp_path)
    assert done.code == 1
    assert "mistyped" in done.error
    assert not (tmp_path / "mistyped").exists()
    assert not list(tmp_path.rglob("index.db"))


def test_a_key_of_s3_that_is_wrong(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_server.create_bucket("our-bucket")
    s3_server.add_key("a-key", "a-word")
    wrong = "another" + "word" * 5
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", wrong)
    place = s3_server.address("our-bucket")
    done = kaggleops("serve", "--bucket", place, "--port", 0, cwd=tmp_path)
    assert done.code == 1
    assert place in done.error
    assert wrong not in done.output + done.errors
    assert not list(tmp_path.rglob("index.db"))


def test_a_database_that_cannot_be_served(place: Path, tmp_path: Path) -> None:
    done = kaggleops(
        "serve", "--bucket", place, "--index", "mysql://h/n", "--port", 0, cwd=tmp_path
    )
    assert done.code == 2
    assert "postgresql://" in done.error


def test_what_starts_the_servers_imports_nothing_heavy() -> None:
    script = """
import sys
import kaggleops.cli
print("a bucket's objects", "kaggleops.mlruns" in sys.modules)
import kaggleops.server.address, kaggleops.server.supervisor
from kaggleops.server.address import experiment_link
experiment_link("http://localhost", "1")
print({"mlflow", "pandas", "sqlalchemy"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["a bucket's objects False", "set()"], done.stderr
