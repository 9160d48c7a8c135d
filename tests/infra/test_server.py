"""`infra/server/kaggleops_server.py`: a machine from its first start to an update that fails.

Real downloads from the loopback Cloud Storage, real virtual environments, pip and unit files; a
systemd of our own (tests/fakes/systemd.py) starts what they say.
"""

import io
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from tests.fakes.gcs_server import GcsServer
from tests.fakes.systemd import Unit
from tests.fakes.wire import free_port
from tests.infra.world import BUCKET, SERVER, World, machine
from tests.server.serving import eventually

DIES = "import sys; sys.exit('--version' not in sys.argv and 'it cannot start')"


@pytest.fixture
def world(tmp_path: Path, gcs_server: GcsServer) -> Iterator[World]:
    gcs_server.create_bucket(BUCKET)
    with machine(tmp_path, gcs_server) as world:
        yield world


@pytest.mark.timeout(900)
def test_a_machine_from_its_start_to_an_update_that_fails(world: World) -> None:
    """One long journey: each step takes what the one before has left."""
    # It starts before there is anything to install, and waits for it.
    world.google.attributes["kaggleops-index-secret"] = "projects/p/secrets/index"
    password = """p"a\\s$`s w'ord"""
    world.google.secrets["projects/p/secrets/index"] = f"postgresql://me:{password}@host/runs"
    booting = world.begin()  # as a start-up script runs: without arguments
    assert booting.stderr is not None
    assert "publish one" in booting.stderr.readline()
    world.publish("1.0")
    assert booting.wait(280) == 0, booting.stderr.read()
    booting.stderr.close()
    said = world.said()
    assert said["version"] == "1.0"
    arguments = [
        "serve",
        "--bucket",
        f"gs://{BUCKET}",
        "--host",
        "0.0.0.0",
        "--port",
        str(world.port),
    ]
    assert said["arguments"] == [*arguments, "--some-option"]
    assert stat.S_IMODE(world.settings.stat().st_mode) == 0o600
    index = Unit(world.root, "kaggleops.service").environment()["KAGGLEOPS_INDEX"]
    assert index == f"postgresql://me:{password}@host/runs"

    # The next start installs nothing, and takes over what has changed in the metadata.
    world.publish("2.0")
    world.google.attributes["kaggleops-options"] = "--auth"
    assert world.command("boot").returncode == 0
    assert eventually(world.said)["arguments"] == [*arguments, "--auth"]
    assert world.said()["version"] == "1.0"

    # One that does not answer yet may be importing, and is let alone; one that has answered since
    # its start, and does so no more, is started again.
    assert world.command("check").stdout == ""
    hangs = world.root / "var/lib/kaggleops/hangs"
    hangs.touch()
    unit = Unit(world.root, "kaggleops.service", world.port)
    unit.stop()
    unit.start()
    assert eventually(hangs.read_text) == "yes"
    assert world.command("check").stdout == ""
    (world.root / "run/kaggleops-answered").write_text(str(unit.read()["InvocationID"]))
    hangs.unlink()
    assert "started again" in world.command("check").stdout
    assert eventually(world.said)["version"] == "1.0"

    # By hand: to the pinned one, and back, and forth.
    assert world.command("update").stdout == "Running 2.0.\n"
    assert world.said()["version"] == "2.0"
    assert world.command("rollback").stdout == "Running 1.0.\n"
    assert world.said()["version"] == "1.0"
    assert world.command("rollback").stdout == "Running 2.0.\n"

    # One that cannot start is left again, and what was broken off before leaves nothing.
    world.publish("3.0", DIES)
    failed = world.command("update", "3.0")
    assert failed.returncode == 1
    assert "3.0 does not answer" in failed.stderr
    assert "2.0 is running again" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert world.said()["version"] == "2.0"

    # Neither does one that is not there, or that arrived broken, change anything.
    assert "publish one" in world.command("update", "9.9").stderr
    archive = world.gcs.objects(BUCKET)["server/2.0.zip"].data
    world.gcs.put(BUCKET, "server/4.0.zip", archive[: len(archive) // 2])
    broken = world.command("update", "4.0")
    assert broken.returncode == 1
    assert "installing 4.0" in broken.stderr
    world.gcs.put(BUCKET, "server/5.0.zip", with_another_package(archive))
    exchanged = world.command("update", "5.0")
    assert exchanged.returncode == 1
    assert "HASHES" in exchanged.stderr
    assert world.said()["version"] == "2.0"
    assert world.command("rollback").stdout == "Running 1.0.\n"
    assert {path.name for path in (world.root / "opt/kaggleops/releases").iterdir()} == {
        "1.0",
        "2.0",
    }


def test_a_machine_of_anybodys_is_told_its_bucket_and_key(world: World) -> None:
    """It has no metadata; a release comes as a file, and the key of the bucket is typed."""
    world.environment |= {"GCE_METADATA_HOST": f"127.0.0.1:{free_port()}"}
    bucket = "s3://runs@storage.example.com/kaggle"
    secret = "+".join(("""s3"cr\\et$`s""", "wi/th a blank"))
    first = str(world.pack("1.0"))
    nobody = world.command("setup", first)
    assert nobody.returncode == 1
    assert "Traceback" not in nobody.stderr
    half = world.command("setup", first, typed=f"{bucket}\n\n{secret}\n")
    assert "error: setting up: no AWS_ACCESS_KEY_ID was given" in half.stderr
    assert not world.settings.exists()

    done = world.command("setup", first, typed=f"{bucket}\nan-id\n{secret}\n")
    assert done.returncode == 0, done.stderr
    assert secret not in done.stdout + done.stderr
    assert stat.S_IMODE(world.settings.stat().st_mode) == 0o600
    said = world.said()
    assert said["key"] == sha256(secret.encode()).hexdigest()
    arguments = said["arguments"]
    assert isinstance(arguments, list)
    assert arguments[arguments.index("--bucket") + 1] == bucket
    # The last of two counts: who is to reach the port comes through SSH.
    assert arguments[-2:] == ["--host", "127.0.0.1"]
    assert not [each for each in arguments if secret in each or "an-id" in each]

    # Nobody has asked for the watcher; then somebody does, and the server does not get its keys.
    watch = Unit(world.root, "kaggleops-watch.service", world.port)
    assert watch.read()["ActiveState"] == "inactive"
    wanted = world.settings.with_name("watch.env")
    wanted.touch(0o600)
    platforms = "_".join(("rpa", "0123456789"))
    wanted.write_text(f"RUNPOD_API_KEY={platforms}\n")
    watch.start()  # as `systemctl restart kaggleops-watch` does
    watching = eventually(world.watching)
    assert watching["arguments"] == ["watch", "--bucket", bucket]
    assert (watching["key"], watching["platform"]) == (said["key"], platforms)
    assert "RUNPOD_API_KEY" not in Unit(world.root, "kaggleops.service").environment()

    updated = world.command("update", str(world.pack("2.0")))  # in a file of the same name
    assert updated.returncode == 0, updated.stderr
    assert (world.said()["version"], world.said()["key"]) == ("2.0", said["key"])
    assert eventually(lambda: world.watching()["version"] == "2.0")
    assert stat.S_IMODE(wanted.stat().st_mode) == 0o600
    wanted.unlink()
    assert world.command("rollback").returncode == 0
    assert "keeper" not in watch.read()
    missing = world.command("update", "nowhere.zip")
    assert missing.returncode == 1
    assert "nowhere.zip" in missing.stderr
    assert world.said()["version"] == "1.0"


def with_another_package(archive: bytes) -> bytes:
    """Return a release in which this project's package is another one than it was made of."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.startswith("wheels/kaggleops-"):
                wheel = io.BytesIO(data)
                with zipfile.ZipFile(wheel, "a") as opened:
                    opened.writestr("more.py", "")
                data = wheel.getvalue()
            new.writestr(name, data)
    return changed.getvalue()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_release_of_the_newest_commit(world: World, tmp_path: Path) -> None:
    """The whole way: publish.py, its real wheels, the installation, the real server."""
    world.google.attributes["kaggleops-options"] = "--anyone-may-read-and-write"
    wanted = world.root / "etc/kaggleops/watch.env"
    wanted.parent.mkdir(parents=True)
    wanted.touch(0o600)
    command = [sys.executable, str(SERVER / "publish.py"), "--bucket", f"gs://{BUCKET}"]
    published = subprocess.run(command, env=world.environment, capture_output=True, text=True)
    assert published.returncode == 0, published.stderr
    release = world.gcs.objects(BUCKET)["server/pinned"].data.decode()
    assert f"Pinned {release}" in published.stdout
    booted = world.command("boot", patience=3000)
    assert booted.returncode == 0, booted.stderr
    assert booted.stdout.endswith(f"Running {release}.\n")
    said = world.said()
    assert said["status"] == "fresh"
    assert said["bucket"] == f"gs://{BUCKET}"
    python = world.root / "opt/kaggleops/current/bin/python"
    where = "import kaggleops, mlflow, psycopg2, hydra, optuna, apprise; print(kaggleops.__file__)"
    found = subprocess.run([python, "-c", where], capture_output=True, text=True, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    installed = Path(found.stdout.strip()).resolve()  # `current` is a link to the release
    assert f"/releases/{release}/" in installed.as_posix()
    # The watcher looks at a bucket without a sweep, in which the server has its index.
    watch = Unit(world.root, "kaggleops-watch.service", world.port)
    journal = world.root / "run/journal"
    assert eventually(lambda: "no sweep" in journal.read_text(), 120), journal.read_text()
    assert watch.read()["NRestarts"] == 0


def test_there_is_nothing_to_go_back_to(world: World) -> None:
    done = world.command("rollback")
    assert done.returncode == 1
    assert done.stderr == "error: there is no release before this one\n"
