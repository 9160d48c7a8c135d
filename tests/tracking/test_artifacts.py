"""An artifact that cannot be uploaded now is kept and retried; it does not end the training."""

import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import mlflow
import pytest
from google.api_core.exceptions import Forbidden
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.gcs_artifact_repo import GCSArtifactRepository

from tests.buckets import ON_EACH_SERVICE
from tests.conftest import unavailable
from tests.fakes.object_server import ObjectServer

from .processes import PREAMBLE as TRAINING
from .processes import Training, train
from .uploading import (
    LARGE,
    artifacts,
    away_429,
    away_503,
    away_altogether,
    away_bucket,
    away_login,
    away_reset,
    away_reset_inside,
    is_upload,
    left,
    push,
    retrying,
    uri,
    waiting,
)


@ON_EACH_SERVICE
@pytest.mark.parametrize(
    "away",
    [
        away_503,
        pytest.param(away_altogether, marks=pytest.mark.slow),
        pytest.param(away_429, marks=pytest.mark.slow),
        pytest.param(away_reset, marks=pytest.mark.slow),
        away_reset_inside,
        away_login,
        away_bucket,
    ],
)
def test_what_cannot_be_uploaded_arrives_while_the_training_goes_on(
    away: Callable[[ObjectServer], Callable[[], object]], server: ObjectServer, state_folder: Path
) -> None:
    script = retrying("""
    mlflow.start_run()
    say("started")
    hear()
    Path("checkpoint/deep").mkdir(parents=True)
    file("checkpoint/model.bin", bytes(range(256)) * 80 * 1024)
    file("checkpoint/deep/state.json", "{}")
    mlflow.log_artifacts("checkpoint", "checkpoint-1")
    mlflow.log_artifact(file("plot.svg", "<svg/>"), "plots")
    say("logged")
    hear()
    """)
    training = Training(script, uri(server), state_folder)
    training.until("started")
    back = away(server)
    training.tell("log")
    training.until("logged")
    back()
    expected = {
        "checkpoint-1/model.bin": LARGE,
        "checkpoint-1/deep/state.json": b"{}",
        "plots/plot.svg": b"<svg/>",
    }
    while artifacts(server) != expected:
        time.sleep(0.01)  # the test's own time limit ends this if they never come
    training.tell("end")
    ended = training.end()
    assert ended.code == 0, ended.errors
    assert ended.errors.count("artifacts are kept here and sent later") == 1
    assert "Traceback" not in ended.errors
    assert not left(state_folder)


ON_A_DISK = """
import time
from contextlib import suppress

mlflow.start_run()
bucket = Path(sys.argv[1])

def arrived(name):
    (there,) = bucket.glob(f"artifacts/*/*/artifacts/{name}")
    return there.read_bytes()

def until(name):
    while not list(bucket.glob(f"artifacts/*/*/artifacts/{name}")):
        time.sleep(0.01)  # the test's own time limit ends this if it never comes

filler = (bucket / "filler").open("wb", buffering=0)
with suppress(OSError):
    while True:
        filler.write(bytes(4096))
mlflow.log_artifact(file("full.bin", bytes(100_000)))
mlflow.log_metric("loss", 1.0)
assert not list(bucket.rglob("full.bin"))
(bucket / "filler").unlink()
filler.close()
until("full.bin")
remount = ["mount", "-o", "remount,ro", str(bucket)]
while subprocess.run(remount).returncode:
    time.sleep(0.01)  # a file is open there: what has just arrived, say
Path("checkpoint").mkdir()
for name in "ab":
    file(f"checkpoint/{name}.bin", name)
mlflow.log_artifacts("checkpoint")
mlflow.log_text("a table", "t.txt")
assert mlflow.artifacts.load_text(mlflow.get_artifact_uri("t.txt")) == "a table"
subprocess.run([*remount[:2], "remount,rw", remount[3]], check=True)
until("b.bin")
mlflow.end_run()
session.close_all()
uploads.close_all()
assert (arrived("a.bin"), arrived("t.txt"), len(arrived("full.bin"))) == (b"a", b"a table", 100_000)
say("all has arrived")
"""


def test_a_folder_whose_disk_is_full_or_read_only_ends_no_training(tmp_path: Path) -> None:
    root, program = tmp_path / "bucket", tmp_path / "train.py"
    root.mkdir()
    program.write_text("import subprocess\n" + TRAINING + retrying(ON_A_DISK))
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(root)]
    alone = ["unshare", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*alone, *mount], check=False).returncode:
        unavailable("this machine lets nobody mount a disk")
    run = f"{shlex.join(mount)} && exec {shlex.join([sys.executable, str(program), str(root)])}"
    tracking = {"MLFLOW_TRACKING_URI": f"bucket+{root.as_uri()}/mlruns"}
    ended = subprocess.run(
        [*alone, "sh", "-c", run],
        env={**os.environ, **tracking},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "all has arrived" in ended.stdout, ended.stderr
    assert ended.stderr.count("No space left on device") >= 1
    assert "Traceback" not in ended.stderr
    assert not left(tmp_path / "home")


def test_a_folder_whose_permission_is_taken_ends_no_training(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as open_to_all:
        root, home = Path(open_to_all, "bucket"), Path(open_to_all, "home")
        for each in (Path(open_to_all), root, home):
            each.mkdir(exist_ok=True)
            each.chmod(0o777)
        script = retrying("""
        os.chdir(os.environ["KAGGLEOPS_HOME"])
        mlflow.start_run()
        mlflow.log_artifact(file("first.txt", "first"))
        say("started")
        hear()
        mlflow.log_artifact(file("second.txt", "second"))
        say("logged")
        hear()
        """)
        nobody = "import os\nif os.getuid() == 0:\n    os.setuid(65534)\n"
        uri = f"bucket+{root.as_uri()}/mlruns"
        training = Training(nobody + script, uri, home)
        training.until("started")
        closed = [root, *(Path(folder) for folder, _, _ in os.walk(root))]
        modes = {folder: folder.stat().st_mode for folder in closed}
        for folder in closed:
            folder.chmod(0o555)
            if os.getuid() == 0:
                os.chown(folder, 0, 0)
        training.tell("log")
        training.until("logged")
        assert not list(root.rglob("second.txt"))
        for folder, mode in modes.items():
            folder.chmod(mode | 0o777)
        while not list(root.glob("artifacts/*/*/artifacts/second.txt")):
            time.sleep(0.01)  # the test's own time limit ends this if it never comes
        training.tell("end")
        ended = training.end()
        assert ended.code == 0, ended.errors
        assert ended.errors.count("Nothing is lost: artifacts are kept here and sent later") == 1
        assert not left(home)


def test_an_upload_is_one_request(server: ObjectServer, state_folder: Path) -> None:
    script = waiting("""
    mlflow.start_run()
    for epoch in "1", "2":
        mlflow.log_artifact(file("last.txt", epoch))
    """)
    ended = train(script, uri(server), state_folder)
    assert ended.code == 0, ended.errors
    asked = [each for each in server.requests if (each.key or "").startswith("artifacts/")]
    assert [each.op for each in asked] == ["objects.insert"] * 2
    assert artifacts(server) == {"last.txt": b"2"}


def test_the_training_does_not_wait_for_every_file_of_an_outage(
    server: ObjectServer, state_folder: Path
) -> None:
    script = waiting("""
    mlflow.start_run()
    mlflow.log_artifact(file("0.txt", ""))
    say("first")
    hear()
    for number in range(20):
        mlflow.log_artifact(file(f"{number}.txt", ""))
    wait()
    """)
    server.fail(503, times=None, where=is_upload)
    training = Training(script, uri(server), state_folder)
    training.until("first")
    server.reset_counts()
    training.tell("go on")
    training.until("waiting")
    asked = [logged for logged in server.requests if "artifacts/" in (logged.key or "")]
    assert asked == []
    training.signal(signal.SIGKILL)
    training.end()


def test_a_file_that_is_not_there_is_an_error_whatever_the_bucket_does(
    server: ObjectServer, state_folder: Path
) -> None:
    script = waiting("""
    mlflow.start_run()
    for _ in range(2):
        try:
            mlflow.log_artifact("no such file")
        except FileNotFoundError as error:
            say(f"told {error.filename}")
        mlflow.log_artifact(file("a.txt", "a"))  # from now on the bucket is known to be away
    """)
    server.fail(503, times=None, where=is_upload)
    ended = train(script, uri(server), state_folder)
    assert ended.output.count("told no such file") == 2, ended.errors


def test_what_the_bucket_will_never_take_is_one_line(
    server: ObjectServer, state_folder: Path
) -> None:
    server.fail(400, times=None, where=is_upload, message="Invalid argument.")
    script = waiting("""
    mlflow.start_run()
    mlflow.log_artifact(file("a.txt", "a"))
    """)
    ended = train(script, uri(server), state_folder)
    assert ended.code == 1
    assert "a.txt: Cloud Storage answers 400: Invalid argument." in ended.errors
    assert not left(state_folder)


def test_where_nothing_can_be_kept_the_training_goes_on(
    server: ObjectServer, state_folder: Path
) -> None:
    script = waiting("""
    import resource
    mlflow.start_run()
    large, small = file("large.bin", bytes(2_000_000)), file("small.bin", b"small")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))  # as a full disk is
    mlflow.log_artifact(large)
    mlflow.log_artifact(small)
    """)
    fault = server.fail(503, times=None, where=is_upload)
    ended = train(script, uri(server), state_folder)
    assert ended.code == 0, ended.errors
    (line,) = [line for line in ended.errors.splitlines() if ".bin is lost" in line]
    assert "large.bin is lost" in line
    assert "Cloud Storage answers 503" in line
    assert "File too large" in line
    assert fault.hits
    server.heal()
    push(server, state_folder)
    assert artifacts(server) == {"small.bin": b"small"}


def test_what_waits_can_be_listed_and_read(server: ObjectServer, state_folder: Path) -> None:
    script = waiting("""
    with mlflow.start_run() as run:
        Path("folder/sub").mkdir(parents=True)
        file("folder/sub/a.txt", "in a sub-folder")
        file("folder/b.txt", "in a folder")
        mlflow.log_artifacts("folder", "folder")
        for number in range(2):  # reads the table back to add a row
            mlflow.log_table({"number": [number]}, "table.json")
        uri = run.info.artifact_uri
        listed = [*mlflow.artifacts.list_artifacts(uri)]
        listed += mlflow.artifacts.list_artifacts(f"{uri}/folder")
        say(" ".join(f"{each.path}:{each.file_size}" for each in listed))
        say(mlflow.artifacts.load_text(f"{uri}/folder/sub/a.txt"))
        say(str(sorted(p.name for p in Path(mlflow.artifacts.download_artifacts(uri)).rglob("*"))))
    """)
    server.fail(503, times=None, where=is_upload)
    ended = train(script, uri(server), state_folder)
    assert ended.code == 0, ended.errors
    assert "artifacts/folder:None artifacts/table.json:39" in ended.output
    assert "folder/b.txt:11 folder/sub:None" in ended.output
    assert "in a sub-folder" in ended.output
    assert "['a.txt', 'b.txt', 'folder', 'sub', 'table.json']" in ended.output
    server.heal()
    push(server, state_folder)
    assert b'"data":[[0],[1]]' in artifacts(server)["table.json"]


@pytest.mark.parametrize(
    "away",
    [
        pytest.param(away_503, marks=pytest.mark.slow),
        pytest.param(away_login, marks=pytest.mark.slow),
        away_bucket,
    ],
)
def test_a_model_whose_files_could_not_be_uploaded_arrives_whole(
    away: Callable[[ObjectServer], Callable[[], object]],
    server: ObjectServer,
    state_folder: Path,
    fluent_uri: str,
) -> None:
    script = waiting("""
    import torch
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    with mlflow.start_run():
        say("started")
        hear()
        with mlflow.start_run(nested=True):
            mlflow.log_metric("loss", 1.0)
        requirements = dict(pip_requirements=["torch"], serialization_format="pickle")
        logged = mlflow.pytorch.log_model(model, name="net", **requirements)
    say(logged.model_uri)
    say(repr(model(torch.ones(1, 8)).item()))
    """)
    training = Training(script, uri(server), state_folder)
    training.until("started")
    back = away(server)
    training.tell("log")
    ended = training.end()
    assert ended.code == 0, ended.errors
    kept = _hashes(path.read_bytes() for path in left(state_folder) if path.name == "content")
    assert len(kept) >= 4  # MLmodel, the weights, two lists of requirements …
    back()
    assert artifacts(server) == {}
    push(server, state_folder)
    assert _hashes(artifacts(server).values()) == kept
    assert not left(state_folder)
    import torch

    model_uri, value = [line for line in ended.output.splitlines() if line][-2:]
    loaded = mlflow.pytorch.load_model(model_uri)
    assert repr(loaded(torch.ones(1, 8)).item()) == value


def _hashes(contents: Iterable[bytes]) -> list[str]:
    return sorted(hashlib.sha256(content).hexdigest() for content in contents)


@pytest.fixture
def fluent_uri(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """Our bucket as this process's tracking URI."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri(server))
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri(server))
    return uri(server)


def test_where_runs_are_not_tracked_in_a_bucket_mlflow_is_left_as_it_is(
    server: ObjectServer, tmp_path: Path
) -> None:
    other = get_artifact_repository("gs://our-bucket/x", tracking_uri=f"sqlite:///{tmp_path}/db")
    assert type(other) is GCSArtifactRepository
    (tmp_path / "a.txt").write_text("a")
    server.fail(403, where=lambda request: request.op == "objects.insert")
    with pytest.raises(Forbidden):
        other.log_artifact(str(tmp_path / "a.txt"))


def test_in_a_server_an_upload_that_fails_is_an_error(
    server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", uri(server))
    repository = get_artifact_repository("gs://our-bucket/x", tracking_uri=uri(server))
    (tmp_path / "a.txt").write_text("a")
    server.deny("our-bucket", write=True)
    with pytest.raises(MlflowException, match=r"writing gs://our-bucket/x/a\.txt") as raised:
        repository.log_artifact(str(tmp_path / "a.txt"))
    assert raised.value.error_code == "PERMISSION_DENIED"
    assert raised.value.get_http_status_code() == 403
