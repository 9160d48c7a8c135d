"""A server for a team: PostgreSQL, names and passwords, a machine that dies."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import requests
import sqlalchemy as sa

from tests.canaries import MARKS, CommandLines, found_below, marks_in, open_to_others
from tests.databases import postgresql
from tests.server.serving import Serving, eventually, serving

__all__ = ["postgresql"]


@pytest.fixture
def place(tmp_path: Path) -> str:
    """A bucket with one run."""
    uri = f"bucket+file://{tmp_path}/bucket/mlruns"
    client = mlflow.MlflowClient(uri)
    client.create_run(client.create_experiment("tweets"), run_name="first")
    return uri


@pytest.fixture
def database(postgresql: str) -> Iterator[str]:
    """The URL of a database, with a password."""
    server = sa.create_engine(postgresql, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE team")
    server.dispose()
    own = postgresql.replace("+psycopg2", "").replace("/postgres?", "/team?")
    return own.replace("@", f":{MARKS['password of a database']}@")


def test_a_team(place: str, database: str, tmp_path: Path) -> None:
    home = tmp_path / "server"
    options = ("--bucket", place, "--auth", "--host", "0.0.0.0")
    with (
        CommandLines() as command_lines,
        serving(*options, home=home, end=signal.SIGKILL, KAGGLEOPS_INDEX=database) as server,
    ):
        [password] = home.glob("serve/*/admin-password")
        assert stat.S_IMODE(password.stat().st_mode) == 0o600
        assert marks_in(str(server.found)) == set()
        _asks_who_it_is(server)
        server.session.auth = ("admin", password.read_text().strip())
        client = mlflow.MlflowClient(place)
        experiment = client.get_experiment_by_name("tweets")
        assert experiment is not None
        home_id = experiment.experiment_id
        assert len(server.runs(home_id)) == 1
        client.create_run(home_id, run_name="second")
        eventually(lambda: len(server.runs(home_id)) == 2)
        assert server.health()["trouble"] == ""
        assert password.read_text().strip() not in server.errors
        assert open_to_others(home) == set()
        assert {"users.db", "admin-password"} <= {path.name for path in home.rglob("*")}
        assert found_below(home) == {}
        _changes_the_password(server)
    assert command_lines.looks
    assert command_lines.found == {}


def _asks_who_it_is(server: Serving) -> None:
    assert requests.get(server.url, timeout=60).status_code == 401
    with pytest.raises(requests.HTTPError, match="401"):
        server.runs("0")
    wrong = requests.get(server.url, auth=("admin", "password1234"), timeout=60)
    assert wrong.status_code == 401
    eventually(lambda: server.health()["status"] == "fresh")
    stranger = server.health()
    assert "bucket" not in stranger
    assert "problems" not in stranger


def _changes_the_password(server: Serving) -> None:
    _, old = server.session.auth  # type: ignore[misc]
    changed = {"username": "admin", "current_password": old, "password": "another password"}
    change = f"{server.url}/api/2.0/mlflow/users/update-password"
    server.session.patch(change, json=changed, timeout=60).raise_for_status()
    with pytest.raises(requests.HTTPError, match="401"):  # the old one counts no longer
        server.runs("0")
    server.session.auth = ("admin", "another password")
    server.runs("0")


VARIABLE = "MLFLOW_AUTH_ADMIN_PASSWORD"
OURS = "long enough for " + "MLflow"


def test_it_names_the_password_that_was_first_in_a_file(place: str, tmp_path: Path) -> None:
    access = _access(place, tmp_path)
    [file] = tmp_path.glob("serve/*/admin-password")
    assert access == f"user admin, with the password in {file}"
    assert _access(place, tmp_path, OURS) == access
    file.write_text("another password\n")
    assert _access(place, tmp_path) == "user admin, with the password that was set before"


def test_it_names_the_password_that_was_first_in_a_variable(place: str, tmp_path: Path) -> None:
    access = _access(place, tmp_path, OURS)
    assert access == f"user admin, with the password in {VARIABLE}"
    assert _access(place, tmp_path) == "user admin, with the password that was set before"
    assert not list(tmp_path.glob("serve/*/admin-password"))
    assert _access(place, tmp_path, OURS) == access


def _access(place: str, home: Path, password: str = "") -> str:
    """Return what a server that starts says of who can sign in."""
    environment = {**os.environ, "KAGGLEOPS_HOME": str(home), VARIABLE: password}
    command = [sys.executable, "-m", "kaggleops", "serve", "--port", "0", "--auth"]
    server = subprocess.Popen(
        [*command, "--bucket", place], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    try:
        line = next(line for line in server.stdout if line.startswith("Access"))
        server.terminate()
        assert server.wait(60) == 0
    finally:
        server.kill()
        server.stdout.close()
    return line.removeprefix("Access").strip()
