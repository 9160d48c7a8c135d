"""A bucket of another service than Google's: its key goes the ways that Google's goes."""

import json
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import distribution, version
from pathlib import Path

import boto3
import mlflow
import psutil
import pytest

from kaggleops.bucket.location import tracking_uri
from kaggleops.git.commits import find_commit
from kaggleops.launch.launcher import Launch
from kaggleops.launch.overrides import Overrides
from kaggleops.platforms.runpod import RunPod
from kaggleops.platforms.s3 import S3Keys
from tests import secrets_of
from tests.canaries import CommandLines, found_in_bucket, marks_in
from tests.fakes.s3_server import S3Server
from tests.packages import write_wheel

from .places import InDocker, OnColab, OnKaggle, OnRunPod, Place
from .world import Gate, World

BY_FILE = "Sign-in  AWS credentials, profile default (shared-credentials-file)"
SAID = {
    "kaggle": "the credentials dataset",
    "runpod": "the RunPod secret KAGGLEOPS_KEY",
    "docker": BY_FILE,
    "colab": BY_FILE,
}
# A container finds the key in a file, as Colab does.
KINDS = [pytest.param(InDocker, marks=pytest.mark.slow), OnColab, OnKaggle, OnRunPod]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def place(request: pytest.FixtureRequest, outside: World) -> Iterator[Place]:
    made: Place = request.param(outside)
    yield made
    made.close()


def put_key(place: Place) -> None:
    """Put the key where the platform keeps it."""
    key = json.loads(secrets_of.S3_KEY)
    if isinstance(place, OnKaggle):
        files = {"kaggleops-key.json": secrets_of.S3_KEY.encode()}
        place.world.kaggle.add_dataset(place.fields["credentials"], files)
    elif isinstance(place, OnRunPod):
        place.server.secrets["kaggleops_key"] = Path(RunPod.put_key(key)).read_text()
    else:
        Path(place.fields["credentials"]).write_text(S3Keys.for_clients(key))


def lacking_the_client(place: OnRunPod, folder: Path) -> str:
    """Let the image lack the client of S3; return what installs this project there, and that."""
    # Found before any that this machine has, it cannot be imported, and pip wants a newer one.
    old = write_wheel(folder, "boto3", "0.1", files={"boto3.py": "raise ModuleNotFoundError"})
    place.server.packages.insert(0, str(folder / "image"))
    zipfile.ZipFile(old).extractall(folder / "image")

    (folder / "client").mkdir()
    (folder / "client/boto3").symlink_to(Path(boto3.__file__).parent)
    place.wheels.mkdir()
    client = {"boto3.pth": str(folder / "client")}
    write_wheel(place.wheels, "boto3", version("boto3"), files=client)
    ours = distribution("kaggleops")
    files = {
        f"kaggleops-{ours.version}.dist-info/{name}": ours.read_text(name) or ""
        for name in ("METADATA", "entry_points.txt")
    }
    return write_wheel(place.wheels, "kaggleops", ours.version, files=files).as_uri()


def environments(run_id: str) -> list[bytes]:
    """Return the environment of each process of a run's training."""
    found = []
    for each in psutil.pids():
        with suppress(OSError):
            found.append(Path(f"/proc/{each}/environ").read_bytes())
    return [each for each in found if f"MLFLOW_RUN_ID={run_id}".encode() in each]


def test_a_run_with_the_key_of_another_services_bucket(
    place: Place, s3_server: S3Server, tmp_path: Path
) -> None:
    s3_server.create_bucket("runs")
    s3_server.add_key("a-key", "a-word")
    s3_server.add_key(secrets_of.S3_KEY_ID, secrets_of.S3_SECRET, "runs", "kaggle/")
    tracking = tracking_uri(s3_server.address("runs", "kaggle"))
    put_key(place)
    fields = dict(place.fields)
    if isinstance(place, OnRunPod):
        fields["install_from"] = lacking_the_client(place, tmp_path)
    config = place.backend.read_config(fields, "a test")
    gate = Gate(tmp_path / "gate")
    what = Launch(tracking, Overrides((f"gate={gate.path}",), None), "main")
    with CommandLines() as command_lines:
        run = place.backend.submit(find_commit(place.world.repository.folder), what, config)
        place.start(run)
        gate.wait()
        trained_in = environments(run.run_id)
        kept = place.kept_elsewhere()
        gate.open()
        place.wait(run)
    logged = "\n".join(run.logs())
    found = mlflow.MlflowClient(tracking).get_run(run.run_id)
    assert found.info.status == "FINISHED", logged
    assert found.data.metrics == {"alpha": 0.2}
    assert SAID[place.name] in logged
    assert "Install  KaggleOps is there already" in logged
    if isinstance(place, OnRunPod):
        environment = "runpod/volumes/*/kaggleops/environments/*/lib/*/site-packages"
        assert list(place.world.folder.glob(f"{environment}/boto3.pth")), logged
        assert found.data.tags["exit_code"] == "0"
        assert marks_in(json.dumps(place.server.first().body)) == set()

    # The key is in the platform's own store, and in no other place.
    assert command_lines.found == {}
    assert trained_in
    assert marks_in(b"\n".join(trained_in)) == set()
    assert kept | place.kept_elsewhere() == set()
    assert found_in_bucket(s3_server, "runs") == {}
    assert marks_in(str(found.to_dictionary()) + logged) == set()
