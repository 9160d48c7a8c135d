"""What an ended or killed process could not upload is sent later, and never over what is newer."""

import re
import signal
import time
from pathlib import Path

from kaggleops.bucket import open_bucket
from kaggleops.mlruns import EntityStore
from kaggleops.tracking.push import push as push_here
from tests.buckets import ON_EACH_SERVICE, ON_EACH_SERVICE_AND_DIALECT
from tests.command import kaggleops_here
from tests.fakes.object_server import ObjectServer

from .processes import Training, train
from .uploading import (
    artifacts,
    is_upload,
    left,
    push,
    retrying,
    uri,
    waiting,
)

AN_EPOCH = waiting("""
with mlflow.start_run() as run:
    mlflow.log_artifact(file("last.txt", os.environ["EPOCH"]))
say(run.info.run_id)
""")


@ON_EACH_SERVICE
def test_what_is_unsent_at_exit_is_named_and_push_sends_it(
    server: ObjectServer, state_folder: Path
) -> None:
    server.fail(503, times=None, where=is_upload)
    script = waiting("""
    with mlflow.start_run():
        for number in range(5):
            mlflow.log_artifact(file(f"{number}.txt", str(number)))
        mlflow.log_metric("loss", 1.0)
    """)
    ended = train(script, uri(server), state_folder)
    assert ended.code == 0, ended.errors
    (line,) = [line for line in ended.errors.splitlines() if "not uploaded" in line]
    address = server.address("our-bucket")
    assert re.search(rf"{re.escape(address)}/artifacts/\S+/artifacts/0.txt", line)
    assert "and 2 more" in line
    assert line.endswith(f"kaggleops push --bucket {address}")
    assert Path(line.split("Kept in ")[1].split(". Send")[0]).is_dir()

    bucket = open_bucket(address, patience=0.2)
    (problem,) = push_here(EntityStore(bucket)).problems
    assert "answers 503" in problem
    assert "5 runs and artifacts wait" in problem
    server.heal()
    assert len(push(server, state_folder)) == 5
    assert artifacts(server) == {f"{number}.txt": str(number).encode() for number in range(5)}
    assert not left(state_folder)
    assert push(server, state_folder) == []


@ON_EACH_SERVICE
def test_after_a_kill_push_sends_what_was_kept(server: ObjectServer, state_folder: Path) -> None:
    script = waiting("""
    mlflow.start_run()
    mlflow.log_artifact(file("model.bin", b"weights" * 1000))
    wait()
    """)
    server.fail("reset", times=None, where=is_upload)
    training = Training(script, uri(server), state_folder)
    training.until("waiting")
    server.heal()
    assert push(server, state_folder) == []  # the living send what is theirs
    training.signal(signal.SIGKILL)
    training.end()
    assert len(push(server, state_folder)) == 1
    assert artifacts(server) == {"model.bin": b"weights" * 1000}
    assert not left(state_folder)


def test_the_next_process_on_the_machine_sends_what_a_killed_one_had_kept(
    server: ObjectServer, state_folder: Path
) -> None:
    script = waiting("""
    mlflow.start_run()
    mlflow.log_artifact(file(f"{os.environ['NAME']}.bin", b"weights"))
    wait()
    """)
    server.fail("reset", times=None, where=is_upload)
    killed = Training(script, uri(server), state_folder, NAME="first")
    killed.until("waiting")
    killed.signal(signal.SIGKILL)
    killed.end()
    server.heal()
    after = Training(
        script, uri(server), state_folder, NAME="second", KAGGLEOPS_FLUSH_SECONDS="0.05"
    )
    after.until("waiting")
    while left(state_folder):
        time.sleep(0.01)  # the test's own time limit ends this if it is never sent
    assert artifacts(server) == {"first.bin": b"weights", "second.bin": b"weights"}
    after.signal(signal.SIGTERM)
    after.end()


def test_what_a_kill_left_half_removed_is_gone(server: ObjectServer, state_folder: Path) -> None:
    server.fail(503, times=None, where=is_upload)
    train(AN_EPOCH, uri(server), state_folder, EPOCH="1")
    server.heal()
    (of_process,) = {path.parents[1] for path in left(state_folder) if path.name == "manifest.json"}
    half_removed = of_process.with_name(f".gone-{of_process.name}")
    half_removed.mkdir()
    assert len(push(server, state_folder)) == 1
    assert artifacts(server) == {"last.txt": b"1"}
    assert not half_removed.exists()


def test_a_kill_in_the_middle_of_keeping_leaves_nothing_that_is_not_whole(
    server: ObjectServer, state_folder: Path
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
    assert train(script, uri(server), state_folder).code == -signal.SIGXFSZ
    assert [path for path in left(state_folder) if 0 < path.stat().st_size <= 1_000_000]
    server.heal()
    assert [place.rpartition("/")[2] for place in push(server, state_folder)] == ["first.bin"]
    assert artifacts(server) == {"first.bin": b"first"}
    assert not left(state_folder)


def test_the_newest_upload_of_a_path_wins(server: ObjectServer, state_folder: Path) -> None:
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
    training = Training(script, uri(server), state_folder)
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
    server: ObjectServer, state_folder: Path
) -> None:
    first = train(AN_EPOCH, uri(server), state_folder, EPOCH="1")
    run_id = first.output.strip()
    server.fail(503, times=None, where=is_upload)
    train(AN_EPOCH, uri(server), state_folder, EPOCH="2", MLFLOW_RUN_ID=run_id)
    server.heal()
    assert artifacts(server) == {"last.txt": b"1"}
    assert len(push(server, state_folder)) == 1
    assert artifacts(server) == {"last.txt": b"2"}


@ON_EACH_SERVICE
def test_push_does_not_replace_what_was_written_since(
    server: ObjectServer, state_folder: Path
) -> None:
    script = waiting("""
    mlflow.start_run()
    mlflow.log_artifact(file("last.txt", "old"))
    """)
    server.fail(503, times=None, where=is_upload)
    train(script, uri(server), state_folder)
    server.heal()
    (manifest,) = [path for path in left(state_folder) if path.name == "manifest.json"]
    (key,) = re.findall(r'"key": "([^"]+)"', manifest.read_text())
    server.put("our-bucket", key, b"new")
    refused = kaggleops_here("push", "--bucket", uri(server), cwd=state_folder)
    assert refused.code == 1
    assert "somebody else has written it since" in refused.error
    assert str(manifest.parent) in refused.error
    assert artifacts(server) == {"last.txt": b"new"}
    assert manifest.exists()


def test_an_older_kept_file_of_another_process_is_not_sent(
    server: ObjectServer, state_folder: Path
) -> None:
    server.fail(503, times=None, where=is_upload)
    run_id = train(AN_EPOCH, uri(server), state_folder, EPOCH="1").output.strip()
    train(AN_EPOCH, uri(server), state_folder, EPOCH="2", MLFLOW_RUN_ID=run_id)
    server.heal()
    assert len(push(server, state_folder)) == 1
    assert artifacts(server) == {"last.txt": b"2"}
    assert not left(state_folder)


def test_a_forked_child_leaves_its_parents_files_alone(
    server: ObjectServer, state_folder: Path
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
    # At its first flush the parent would send what its child has left.
    training = Training(script, uri(server), state_folder, KAGGLEOPS_FLUSH_SECONDS="1000")
    training.until("child ended with 0")
    server.heal()
    assert [place.rpartition("/")[2] for place in push(server, state_folder)] == ["child.txt"]
    training.tell("end")
    ended = training.end()
    assert ended.code == 0, ended.errors
    assert artifacts(server) == {"parent.txt": b"parent", "child.txt": b"child"}
    assert not left(state_folder)


@ON_EACH_SERVICE
def test_a_proxy_between_a_training_and_its_bucket_ends_nothing(
    server: ObjectServer, state_folder: Path
) -> None:
    script = retrying("""
    mlflow.set_experiment("another")
    for number in range(2):
        with mlflow.start_run(run_name=f"{number}"):
            mlflow.log_metric("loss", number)
            mlflow.log_artifact(file(f"{number}.txt", str(number)))
            assert mlflow.artifacts.load_text(mlflow.get_artifact_uri(f"{number}.txt"))
    say(f"{len(mlflow.search_runs(experiment_names=['another']))} runs")
    """)
    faults = [
        server.fail(kind, times=None, probability=0.05, seed=seed)
        for seed, kind in enumerate(("page", "redirect", "garbled"))
    ]
    ended = train(script, uri(server), state_folder, PATIENCE="5")  # each fault passes
    assert ended.code == 0, ended.errors
    assert "2 runs" in ended.output
    assert sum(fault.hits for fault in faults) > 1
    server.heal()
    push(server, state_folder)
    assert artifacts(server) == {f"{number}.txt": str(number).encode() for number in range(2)}


@ON_EACH_SERVICE_AND_DIALECT
def test_several_processes_lose_nothing_while_half_of_all_requests_fail(
    server: ObjectServer, state_folder: Path
) -> None:
    script = retrying("""
    with mlflow.start_run():
        for number in range(10):
            mlflow.log_artifact(file(f"{os.environ['NAME']}-{number}.txt", str(number)))
    """)
    server.fail("reset", times=None, where=is_upload, probability=0.2, seed=1)
    server.fail(503, times=None, where=is_upload, probability=0.2, seed=2)
    server.fail("lost-response", times=None, where=is_upload, probability=0.2, seed=3)
    started = [Training(script, uri(server), state_folder, NAME=name) for name in "abc"]
    for training in started:
        ended = training.end()
        assert ended.code == 0, ended.errors
    server.heal()
    push(server, state_folder)
    assert artifacts(server) == {
        f"{name}-{number}.txt": str(number).encode() for name in "abc" for number in range(10)
    }
    assert not left(state_folder)
