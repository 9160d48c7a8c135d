"""The first start of a server: it answers before all is there, and whatever is killed meanwhile."""

import json
import os
import random
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import psutil
import pytest
import sqlalchemy as sa

from kaggleops.bucket import ABSENT, open_bucket
from kaggleops.mlruns import Entity, experiment, run
from kaggleops.mlruns.archive import pack
from kaggleops.server.settings import Settings, make_users_database
from tests.fakes.gcs_server import GcsServer
from tests.mlruns.entities import main_file
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


HOME = experiment("7")
MANY = [run("7", f"{number:032x}") for number in range(1050)]  # more than a link waits for


def test_it_answers_with_what_is_there_and_goes_on_if_it_is_killed(
    tmp_path: Path,
) -> None:
    with GcsServer() as gcs:
        gcs.create_bucket("large")
        for each in (HOME, *MANY):
            gcs.put("large", each.key, pack(Entity(each, main_file(each))))
        gcs.fail("hang", times=None, key=MANY[-1].key)
        home, uri = tmp_path / "home", "gs://large"
        with serving("--bucket", uri, home=home, STORAGE_EMULATOR_HOST=gcs.url) as server:
            assert server.found["complete"] is False
            assert server.found["link"].startswith(f"{server.url}/#/experiments/7/runs")
            eventually(lambda: "of 1,051 runs, experiments and models are in" in server.errors)
            # All but the last batches, which wait for one run that does not come.
            eventually(lambda: 700 < len(server.runs("7", max_results=2000)) < len(MANY))
            health = server.health()
            assert health["status"] == "incomplete"
            assert "of 1,051 runs, experiments and models are in; the rest" in health["coming_in"]
            mlflow.MlflowClient(server.url).set_tag(MANY[0].name, "colour", "red")
            assert server.runs("7", filter="tags.colour = 'red'")
            [worker] = server.children
            worker.send_signal(signal.SIGKILL)
            server.session.close()  # its connection went with the process
            eventually(lambda: "SIGKILL" in server.errors)
            gcs.heal()
            eventually(lambda: len(server.runs("7", max_results=2000)) == len(MANY))
            eventually(lambda: server.health()["status"] == "fresh")
            assert server.health()["coming_in"] == ""
        # A restart is a poll: what is there is not asked for again.
        gcs.reset_counts()
        with serving("--bucket", uri, home=home, STORAGE_EMULATOR_HOST=gcs.url) as server:
            assert server.found["complete"] is True
            assert len(server.runs("7", max_results=2000)) == len(MANY)
        assert len(gcs.requests) < 20


def test_one_that_is_started_again_says_that_the_bucket_is_away(tmp_path: Path) -> None:
    bucket = open_bucket(str(tmp_path / "bucket"))
    for each in (HOME, MANY[0]):
        bucket.write(each.key, pack(Entity(each, main_file(each))), expected=ABSENT)
    with serving("--bucket", str(tmp_path / "bucket"), home=tmp_path / "home") as server:
        (tmp_path / "bucket").rename(tmp_path / "elsewhere")
        [worker] = server.children
        worker.kill()
        server.session.close()
        eventually(lambda: "What the index has is served" in server.errors)
        assert len(server.runs("7")) == 1
        (tmp_path / "elsewhere").rename(tmp_path / "bucket")
        eventually(lambda: "The index is up to date again" in server.errors)


@pytest.mark.usefixtures("cold_python")
def test_a_server_imports_nothing_that_it_has_no_use_for(tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()
    settings = Settings(str(tmp_path / "bucket"), f"sqlite:///{tmp_path}/index.db", str(tmp_path))
    script = """
import importlib, json, sys
from kaggleops.server.application import application, prepare
from kaggleops.server.settings import Settings
settings = Settings.from_environment()
prepare(settings)
application(settings, None, None)
print(json.dumps(sorted({"mlflow", "numpy", "pandas", "pyarrow", "scipy"} & set(sys.modules))))
importlib.import_module("pandas")
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env=settings.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["mlflow"]
