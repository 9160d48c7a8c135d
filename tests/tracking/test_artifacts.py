"""An artifact that cannot be uploaded now is kept and retried; it does not end the training."""

import hashlib
import os
import re
import signal
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path

import mlflow
import pytest
from google.api_core.exceptions import Forbidden
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.gcs_artifact_repo import GCSArtifactRepository

from kaggleops.tracking import artifact_uploads
from kaggleops.tracking.artifact_outbox import send_kept_artifacts
from tests.command import kaggleops
from tests.fakes.gcs.wire import Request
from tests.fakes.gcs_server import GcsServer

from .processes import Training, train

URI = "gs://our-bucket/mlruns"

PREAMBLE = """
from pathlib import Path
from kaggleops.tracking import artifact_uploads as uploads
uploads.PATIENCE = session.PATIENCE = 0.2
uploads.FIRST_PAUSE = 0.05
mlflow.set_experiment("e")

def file(name, content):
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return name

def hear():
    return sys.stdin.readline().strip()
"""


LARGE = bytes(range(256)) * 80 * 1024  # 20 MiB: in chunks


def retrying(script: str) -> str:
    """Return a training that soon gives up, and soon tries again."""
    return PREAMBLE + textwrap.dedent(script)


def waiting(script: str) -> str:
    """Return a training that soon gives up, and does not try again before its end."""
    return PREAMBLE + "uploads.FIRST_PAUSE = 1000\n" + textwrap.dedent(script)


@pytest.fixture
def server(gcs_server: GcsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GcsServer:
    """A Cloud Storage with our bucket; whoever trains does so in a folder of its own."""
    gcs_server.create_bucket("our-bucket")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return gcs_server


def is_upload(request: Request) -> bool:
    """Tell whether a request uploads (a part of) an artifact."""
    uploading = request.op in ("objects.insert", "uploads.chunk", "uploads.status")
    return uploading and (request.key or "").startswith("artifacts/")


def artifacts(server: GcsServer) -> dict[str, bytes]:
    """Return the artifacts in the bucket, by their path in their run or model."""
    return {
        key.partition("/artifacts/")[2]: found.data
        for key, found in server.objects("our-bucket").items()
        if key.startswith("artifacts/")
    }


def push(state_folder: Path) -> list[str]:
    """Run `kaggleops push`; return where it has sent artifacts."""
    done = kaggleops("push", "--bucket", URI, "--json", cwd=state_folder)
    assert done.code == 0, done.errors
    sent: list[str] = done.json["artifacts"]
    return sent


def left(state_folder: Path) -> list[Path]:
    """Return what is kept on this machine."""
    # Not rglob, which minds that a folder is removed meanwhile.
    return [
        Path(folder, name)
        for folder, _, names in os.walk(state_folder / "artifacts")
        for name in names
    ]


def away_503(server: GcsServer) -> Callable[[], object]:
    server.fail(503, times=None, where=is_upload)
    return server.heal


def away_altogether(server: GcsServer) -> Callable[[], object]:
    server.fail(503, times=None)
    return server.heal


def away_429(server: GcsServer) -> Callable[[], object]:
    server.fail(429, times=None, where=is_upload, retry_after=1)
    return server.heal


def away_reset(server: GcsServer) -> Callable[[], object]:
    server.fail("reset", times=None, where=is_upload)
    return server.heal


def away_reset_inside(server: GcsServer) -> Callable[[], object]:
    def second_chunk(request: Request) -> bool:
        return is_upload(request) and " 0-" not in request.headers.get("Content-Range", " 0-")

    server.fail("reset", times=None, where=second_chunk)
    return server.heal


def away_login(server: GcsServer) -> Callable[[], object]:
    server.deny("our-bucket", write=True, status=401)
    return lambda: server.allow("our-bucket")


def away_bucket(server: GcsServer) -> Callable[[], object]:
    server.delete_bucket("our-bucket")
    return lambda: server.create_bucket("our-bucket")


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


def test_what_is_unsent_at_exit_is_named_and_push_sends_it(
    server: GcsServer, state_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.fail(503, times=None, where=is_upload)
    script = waiting("""
    with mlflow.start_run():
        for number in range(5):
            mlflow.log_artifact(file(f"{number}.txt", str(number)))
        mlflow.log_metric("loss", 1.0)
    """)
    ended = train(script, URI, state_folder)
    assert ended.code == 0, ended.errors
    (line,) = [line for line in ended.errors.splitlines() if "not uploaded" in line]
    assert re.search(r"gs://our-bucket/artifacts/\S+/artifacts/0.txt", line)
    assert "and 2 more" in line
    assert line.endswith("kaggleops push --bucket gs://our-bucket")
    assert Path(line.split("Kept in ")[1].split(". Send")[0]).is_dir()

    monkeypatch.setattr(artifact_uploads, "PATIENCE", 0.2)
    (problem,) = send_kept_artifacts("gs://our-bucket").problems
    assert "Cloud Storage answers 503" in problem
    assert "5 artifacts wait" in problem
    server.heal()
    assert len(push(state_folder)) == 5
    assert artifacts(server) == {f"{number}.txt": str(number).encode() for number in range(5)}
    assert not left(state_folder)
    assert push(state_folder) == []


def test_after_a_kill_push_sends_what_was_kept(server: GcsServer, state_folder: Path) -> None:
    script = waiting("""
    mlflow.start_run()
    mlflow.log_artifact(file("model.bin", b"weights" * 1000))
    wait()
    """)
    server.fail("reset", times=None, where=is_upload)
    training = Training(script, URI, state_folder)
    training.until("waiting")
    server.heal()
    assert push(state_folder) == []  # the living send what is theirs
    training.signal(signal.SIGKILL)
    training.end()
    assert len(push(state_folder)) == 1
    assert artifacts(server) == {"model.bin": b"weights" * 1000}
    assert not left(state_folder)


def test_the_next_process_on_the_machine_sends_what_a_killed_one_had_kept(
    server: GcsServer, state_folder: Path
) -> None:
    script = waiting("""
    mlflow.start_run()
    mlflow.log_artifact(file(f"{os.environ['NAME']}.bin", b"weights"))
    wait()
    """)
    server.fail("reset", times=None, where=is_upload)
    killed = Training(script, URI, state_folder, NAME="first")
    killed.until("waiting")
    killed.signal(signal.SIGKILL)
    killed.end()
    server.heal()
    after = Training(script, URI, state_folder, NAME="second", KAGGLEOPS_FLUSH_SECONDS="0.05")
    after.until("waiting")
    while left(state_folder):
        pass  # the test's own time limit ends this if it is never sent
    assert artifacts(server) == {"first.bin": b"weights", "second.bin": b"weights"}
    after.signal(signal.SIGTERM)
    after.end()


def test_a_kill_in_the_middle_of_keeping_leaves_nothing_that_is_not_whole(
    server: GcsServer, state_folder: Path
) -> None:
    script = waiting("""
    mlflow.start_run()
    import resource
    mlflow.log_artifact(file("first.bin", b"first"))
    large = file("large.bin", bytes(2_000_000))
    # The kernel kills it as soon as it writes the second half of the copy.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    mlflow.log_artifact(large)
    """)
    server.fail(503, times=None, where=is_upload)
    assert train(script, URI, state_folder).code == -signal.SIGXFSZ
    assert [path for path in left(state_folder) if 0 < path.stat().st_size <= 1_000_000]
    server.heal()
    assert [place.rpartition("/")[2] for place in push(state_folder)] == ["first.bin"]
    assert artifacts(server) == {"first.bin": b"first"}
    assert not left(state_folder)


def test_the_newest_upload_of_a_path_wins(server: GcsServer, state_folder: Path) -> None:
    script = waiting("""
    mlflow.start_run()
    for epoch in "1", "2":
        mlflow.log_artifact(file("last.txt", epoch))
        mlflow.log_artifact(file(f"{epoch}.txt", epoch))
    say("kept")
    hear()
    uploads._all["gs://our-bucket"]._unreachable.clear()
    mlflow.log_artifact(file("last.txt", "3"))
    """)
    server.fail(503, times=None, where=is_upload)
    training = Training(script, URI, state_folder)
    training.until("kept")
    assert len([path for path in left(state_folder) if path.name == "content"]) == 3
    server.heal()
    server.reset_counts()
    training.tell("go on")
    ended = training.end()
    assert ended.code == 0, ended.errors
    assert artifacts(server) == {"last.txt": b"3", "1.txt": b"1", "2.txt": b"2"}
    writes = [logged.key or "" for logged in server.requests if logged.op == "objects.insert"]
    assert len([key for key in writes if key.endswith("last.txt")]) == 1


def test_a_resumed_run_replaces_what_an_earlier_process_uploaded(
    server: GcsServer, state_folder: Path
) -> None:
    script = waiting("""
    with mlflow.start_run() as run:
        mlflow.log_artifact(file("last.txt", os.environ["EPOCH"]))
    say(run.info.run_id)
    """)
    first = train(script, URI, state_folder, EPOCH="1")
    run_id = first.output.strip()
    server.fail(503, times=None, where=is_upload)
    train(script, URI, state_folder, EPOCH="2", MLFLOW_RUN_ID=run_id)
    server.heal()
    assert artifacts(server) == {"last.txt": b"1"}
    assert len(push(state_folder)) == 1
    assert artifacts(server) == {"last.txt": b"2"}


def test_push_does_not_replace_what_was_written_since(
    server: GcsServer, state_folder: Path
) -> None:
    script = waiting("""
    mlflow.start_run()
    mlflow.log_artifact(file("last.txt", "old"))
    """)
    server.fail(503, times=None, where=is_upload)
    train(script, URI, state_folder)
    server.heal()
    (manifest,) = [path for path in left(state_folder) if path.name == "manifest.json"]
    (key,) = re.findall(r'"key": "([^"]+)"', manifest.read_text())
    server.put("our-bucket", key, b"new")
    refused = kaggleops("push", "--bucket", URI, cwd=state_folder)
    assert refused.code == 1
    assert "somebody else has written it since" in refused.error
    assert str(manifest.parent) in refused.error
    assert artifacts(server) == {"last.txt": b"new"}
    assert manifest.exists()


def test_an_older_kept_file_of_another_process_is_not_sent(
    server: GcsServer, state_folder: Path
) -> None:
    script = waiting("""
    with mlflow.start_run() as run:
        mlflow.log_artifact(file("last.txt", os.environ["EPOCH"]))
    say(run.info.run_id)
    """)
    server.fail(503, times=None, where=is_upload)
    run_id = train(script, URI, state_folder, EPOCH="1").output.strip()
    train(script, URI, state_folder, EPOCH="2", MLFLOW_RUN_ID=run_id)
    server.heal()
    assert len(push(state_folder)) == 1
    assert artifacts(server) == {"last.txt": b"2"}
    assert not left(state_folder)


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


def test_a_forked_child_leaves_its_parents_files_alone(
    server: GcsServer, state_folder: Path
) -> None:
    script = retrying("""
    import multiprocessing
    run = mlflow.start_run()
    mlflow.log_artifact(file("parent.txt", "parent"))
    def work():
        assert not uploads._all
        mlflow.MlflowClient().log_artifact(run.info.run_id, file("child.txt", "child"))
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join()
    say(f"child ended with {child.exitcode}")
    hear()
    """)
    server.fail(503, times=None, where=is_upload)
    training = Training(script, URI, state_folder)
    training.until("child ended with 0")
    server.heal()
    assert [place.rpartition("/")[2] for place in push(state_folder)] == ["child.txt"]
    training.tell("end")
    ended = training.end()
    assert ended.code == 0, ended.errors
    assert artifacts(server) == {"parent.txt": b"parent", "child.txt": b"child"}
    assert not left(state_folder)


def test_several_processes_lose_nothing_while_half_of_all_requests_fail(
    server: GcsServer, state_folder: Path
) -> None:
    script = retrying("""
    with mlflow.start_run():
        for number in range(10):
            mlflow.log_artifact(file(f"{os.environ['NAME']}-{number}.txt", str(number)))
    """)
    server.fail("reset", times=None, where=is_upload, probability=0.2, seed=1)
    server.fail(503, times=None, where=is_upload, probability=0.2, seed=2)
    server.fail("lost-response", times=None, where=is_upload, probability=0.2, seed=3)
    started = [Training(script, URI, state_folder, NAME=name) for name in "abc"]
    for training in started:
        ended = training.end()
        assert ended.code == 0, ended.errors
    server.heal()
    push(state_folder)
    assert artifacts(server) == {
        f"{name}-{number}.txt": str(number).encode() for name in "abc" for number in range(10)
    }
    assert not left(state_folder)


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
