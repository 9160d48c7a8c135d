"""The first start of a server is killed, and then two start at once on what it has left."""

import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import psutil
import sqlalchemy as sa

from kaggleops.server.settings import make_users_database
from tests.server.serving import eventually, serving
from tests.warm import children

FILES = ("index.db", "index.db-wal", "users.db.new", "users.db")


def test_it_is_killed_and_two_go_on(tmp_path: Path) -> None:
    uri = f"bucket+file://{tmp_path}/bucket/mlruns"
    client = mlflow.MlflowClient(uri)
    home = client.create_experiment("tweets")
    client.create_run(home, run_name="first")
    state = tmp_path / "state"
    state.mkdir()
    moment = random.Random(3).choice(FILES)
    process = subprocess.Popen(
        [sys.executable, "-m", "kaggleops", "serve", "--port", "0", "--auth", "--bucket", uri],
        env={**os.environ, "KAGGLEOPS_HOME": str(state)},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    eventually(lambda: list(state.glob(f"serve/*/{moment}")))
    started = children(process.pid)
    for each in (process, *started):
        each.kill()
    process.wait()
    psutil.wait_procs(started)

    def names(server: int) -> list[str]:
        folder = next(state.glob("serve/*/"))
        with serving("--bucket", uri, "--auth", home=state, SERVER=str(server)) as running:
            running.session.auth = ("admin", (folder / "admin-password").read_text().strip())
            return [each["info"]["run_name"] for each in running.runs(home)]

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(names, range(2))) == [["first"], ["first"]]


def test_the_database_of_users_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "users.db"
    (tmp_path / "users.db.new").write_bytes(b"half of it")
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(make_users_database, [f"sqlite:///{file}"] * 3))
    engine = sa.create_engine(f"sqlite:///{file}")
    assert "users" in sa.inspect(engine).get_table_names()
    engine.dispose()
    assert file.stat().st_mode & 0o077 == 0
    assert not (tmp_path / "users.db.new").exists()
