"""An artifact that cannot be uploaded now is kept and retried; it does not end the training."""

import hashlib
import signal
from collections.abc import Callable, Iterable
from pathlib import Path

import mlflow
import pytest
from google.api_core.exceptions import Forbidden
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.gcs_artifact_repo import GCSArtifactRepository

from tests.fakes.gcs_server import GcsServer

from .processes import Training, train
from .uploading import (
    LARGE,
    URI,
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
    waiting,
)


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
    away: Callable[[GcsServer], Callable[[], object]], server: GcsServer, state_folder: Path
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
    training = Training(script, URI, state_folder)
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
        pass  # the test's own time limit ends this if they never come
    training.tell("end")
    ended = training.end()
    assert ended.code == 0, ended.errors
    assert ended.errors.count("artifacts are kept here and sent later") == 1
    assert "Traceback" not in ended.errors
    assert not left(state_folder)


def test_an_upload_is_one_request(server: GcsServer, state_folder: Path) -> None:
    script = waiting("""
    mlflow.start_run()
    for epoch in "1", "2":
        mlflow.log_artifact(file("last.txt", epoch))
    """)
    ended = train(script, URI, state_folder)
    assert ended.code == 0, ended.errors
    asked = [each for each in server.requests if (each.key or "").startswith("artifacts/")]
    assert [each.op for each in asked] == ["objects.insert"] * 2
    assert artifacts(server) == {"last.txt": b"2"}


def test_the_training_does_not_wait_for_every_file_of_an_outage(
    server: GcsServer, state_folder: Path
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
    training = Training(script, URI, state_folder)
    training.until("first")
    server.reset_counts()
    training.tell("go on")
    training.until("waiting")
    asked = [logged for logged in server.requests if "artifacts/" in (logged.key or "")]
    assert asked == []
    training.signal(signal.SIGKILL)
    training.end()


def test_a_file_that_is_not_there_is_an_error_whatever_the_bucket_does(
    server: GcsServer, state_folder: Path
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
    ended = train(script, URI, state_folder)
    assert ended.output.count("told no such file") == 2, ended.errors


def test_what_the_bucket_will_never_take_is_one_line(server: GcsServer, state_folder: Path) -> None:
    server.fail(400, times=None, where=is_upload, message="Invalid argument.")
    script = waiting("""
    mlflow.start_run()
    mlflow.log_artifact(file("a.txt", "a"))
    """)
    ended = train(script, URI, state_folder)
    assert ended.code == 1
    assert "a.txt: Cloud Storage answers 400: Invalid argument." in ended.errors
    assert not left(state_folder)


def test_where_nothing_can_be_kept_the_training_goes_on(
    server: GcsServer, state_folder: Path
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
    ended = train(script, URI, state_folder)
    assert ended.code == 0, ended.errors
    (line,) = [line for line in ended.errors.splitlines() if ".bin is lost" in line]
    assert "large.bin is lost" in line
    assert "Cloud Storage answers 503" in line
    assert "File too large" in line
    assert fault.hits
    server.heal()
    push(state_folder)
    assert artifacts(server) == {"small.bin": b"small"}


def test_what_waits_can_be_listed_and_read(server: GcsServer, state_folder: Path) -> None:
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
    ended = train(script, URI, state_folder)
    assert ended.code == 0, ended.errors
    assert "artifacts/folder:None artifacts/table.json:39" in ended.output
    assert "folder/b.txt:11 folder/sub:None" in ended.output
    assert "in a sub-folder" in ended.output
    assert "['a.txt', 'b.txt', 'folder', 'sub', 'table.json']" in ended.output
    server.heal()
    push(state_folder)
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
    away: Callable[[GcsServer], Callable[[], object]],
    server: GcsServer,
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
    training = Training(script, URI, state_folder)
    training.until("started")
    back = away(server)
    training.tell("log")
    ended = training.end()
    assert ended.code == 0, ended.errors
    kept = _hashes(path.read_bytes() for path in left(state_folder) if path.name == "content")
    assert len(kept) >= 4  # MLmodel, the weights, two lists of requirements …
    back()
    assert artifacts(server) == {}
    push(state_folder)
    assert _hashes(artifacts(server).values()) == kept
    assert not left(state_folder)
    import torch

    uri, value = [line for line in ended.output.splitlines() if line][-2:]
    loaded = mlflow.pytorch.load_model(uri)
    assert repr(loaded(torch.ones(1, 8)).item()) == value


def _hashes(contents: Iterable[bytes]) -> list[str]:
    return sorted(hashlib.sha256(content).hexdigest() for content in contents)


@pytest.fixture
def fluent_uri(monkeypatch: pytest.MonkeyPatch) -> str:
    """Our bucket as this process's tracking URI."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", URI)
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", URI)
    return URI


def test_where_runs_are_not_tracked_in_a_bucket_mlflow_is_left_as_it_is(
    server: GcsServer, tmp_path: Path
) -> None:
    other = get_artifact_repository("gs://our-bucket/x", tracking_uri=f"sqlite:///{tmp_path}/db")
    assert type(other) is GCSArtifactRepository
    (tmp_path / "a.txt").write_text("a")
    server.fail(403, where=lambda request: request.op == "objects.insert")
    with pytest.raises(Forbidden):
        other.log_artifact(str(tmp_path / "a.txt"))


def test_in_a_server_an_upload_that_fails_is_an_error(
    server: GcsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", URI)
    repository = get_artifact_repository("gs://our-bucket/x", tracking_uri=URI)
    (tmp_path / "a.txt").write_text("a")
    server.deny("our-bucket", write=True)
    with pytest.raises(Forbidden):
        repository.log_artifact(str(tmp_path / "a.txt"))
