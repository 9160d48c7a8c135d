"""What only a container engine does: what it is told, how it refuses, forgets and is not there."""

import json
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kaggleops.backends.base import RemoteRun
from kaggleops.backends.docker import _lines
from kaggleops.backends.interface import RefusedError
from kaggleops.backends.lookup import resume
from kaggleops.backends.ready_notebook import ready_notebook
from kaggleops.cli import main
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.git.commits import find_commit
from kaggleops.launch.launcher import Launch
from kaggleops.platforms.keys import key_in
from kaggleops.platforms.s3 import S3Keys
from tests import secrets_of
from tests.canaries import marks_in
from tests.command import Done

from .places import InDocker
from .world import BUCKET, TRACKING, World

CANARY = secrets_of.SERVICE_ACCOUNT
LINES = (
    f"aws_access_key_id = {secrets_of.S3_KEY_ID}\naws_secret_access_key = {secrets_of.S3_SECRET}\n"
)


@pytest.fixture(scope="module")
def place(outside: World) -> Iterator[InDocker]:
    made = InDocker(outside)
    (made.folder / "key.json").write_text(CANARY)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def calm(place: InDocker) -> Iterator[None]:
    """No container of one test's is left for the next."""
    yield
    for each in place.engine.containers:
        if each.session:
            each.session.cancel()
    place.engine.gpus, place.engine.id = False, "engine-1"


def config(place: InDocker, **fields: Any) -> Any:
    return place.backend.read_config(place.fields | fields, "a test")


def submit(place: InDocker, **fields: Any) -> RemoteRun:
    commit = find_commit(place.world.repository.folder)
    # A backend of its own, as each process has.
    return type(place.backend)().submit(commit, Launch(TRACKING), config(place, **fields))


def again(place: InDocker, run_id: str) -> RemoteRun:
    return resume(type(place.backend)(), TRACKING, run_id, config(place))


def only_run(place: InDocker, before: set[str]) -> str:
    (run_id,) = runs(place) - before
    return run_id


def runs(place: InDocker) -> set[str]:
    keys = [key.split("/") for key in place.world.gcs.objects("our-bucket")]
    found = [key[2] for key in keys if key[0] == "mlruns" and len(key) == 3]
    return {name.removesuffix(".tar.gz") for name in found}


def here(*arguments: object) -> Done:
    done = CliRunner().invoke(main, [str(each) for each in arguments], catch_exceptions=False)
    return Done(done.exit_code, done.stdout, done.stderr)


def test_what_a_container_is_created_with(place: InDocker) -> None:
    place.engine.gpus = True
    run = submit(place, gpus="all", shm_size="512m")
    container = place.engine.named(f"kaggleops-{run.run_id}")
    kept = place.folder / "output" / container.name
    body, host = container.body, container.body["HostConfig"]
    assert body["Image"] == "an/image"
    assert {each["Target"]: (each["Source"], each["ReadOnly"]) for each in host["Mounts"]} == {
        "/kaggle/working": (str(kept / "working"), False),
        "/kaggle/src": (str(kept / "notebook"), False),
        "/kaggle/input": (str(place.folder / "input"), True),
        "/kaggle/input-rw": (str(place.folder / "input"), False),
        "/kaggleops-key.json": (str(place.folder / "key.json"), True),
    }
    assert host["ShmSize"] == 512 << 20
    assert [(each["Count"], each["Capabilities"]) for each in host["DeviceRequests"]] == [
        (-1, [["gpu"]])
    ]
    assert body["Env"] == ["GOOGLE_APPLICATION_CREDENTIALS=/kaggleops-key.json"]
    assert run.run_id in (kept / "notebook/run.ipynb").read_text()
    # The key is mounted, and nowhere else.
    for text in (json.dumps(body), (kept / "notebook/run.ipynb").read_text(), str(run.tags)):
        assert marks_in(text) == set()
    assert run.state().status == "RUNNING"


def test_the_key_of_another_services_bucket(place: InDocker) -> None:
    config = place.backend.read_config(place.fields, "a test")
    tags = place.backend.place("1" * 32, config)
    place.backend.send(tags, ready_notebook({"bucket": "s3://runs@s3.lab.test"}), config)
    container = place.engine.named(f"kaggleops-{'1' * 32}")
    assert container.body["Env"] == ["AWS_SHARED_CREDENTIALS_FILE=/kaggleops-key.json"]
    # The file is Google's, and is not handed to what would take it for its own.
    with pytest.raises(UsageError, match="key of another service, and no S3 access key"):
        place.backend.check("s3://runs@s3.lab.test/mlruns", config)


@pytest.mark.parametrize(
    ("bucket", "text", "taken"),
    [
        ("s3://runs", S3Keys.for_clients(key_in(secrets_of.S3_KEY) or {}), True),
        ("s3://runs", f"[lab]\nregion = auto\n\n[default]\n{LINES}", True),
        ("s3://runs", secrets_of.S3_KEY, False),
        ("s3://runs", b64encode(secrets_of.S3_KEY.encode()).decode(), False),
        ("s3://runs", LINES, False),
        ("s3://runs", f"[lab]\n{LINES}", False),
        ("s3://runs", "[default]\nregion = auto\n", False),
        ("gs://runs", secrets_of.AUTHORIZED_USER, True),
        ("gs://runs", b64encode(secrets_of.SERVICE_ACCOUNT.encode()).decode(), False),
        ("gs://runs", "a password", False),
    ],
)
def test_a_file_of_the_key_is_as_clients_read_it_or_nothing_is_submitted(
    place: InDocker, tmp_path: Path, bucket: str, text: str, taken: bool
) -> None:
    (tmp_path / "a key").write_text(text)
    given = config(place, credentials=str(tmp_path / "a key"))
    if taken:
        place.backend.check(f"{bucket}/mlruns", given)
        return
    with pytest.raises(UsageError, match=r"/a key holds no .* as its clients read one\.") as caught:
        place.backend.check(f"{bucket}/mlruns", given)
    assert "kaggleops credentials create docker writes it so" in str(caught.value)
    assert marks_in(str(caught.value)) == set()


def test_without_an_engine_it_is_one_clear_line(
    place: InDocker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    monkeypatch.chdir(place.world.repository.folder)
    file = tmp_path / "docker.yaml"
    file.write_text(json.dumps(place.fields))
    before = runs(place)
    done = here("run", "-b", "docker", "--bucket", BUCKET, "--backend-config", file)
    assert done.code == 1
    assert "no engine answers. Start Docker, or name another" in done.error
    assert runs(place) == before


def test_a_submit_is_shown_with_what_follows_it(
    place: InDocker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(place.world.repository.folder)
    file = tmp_path / "docker.yaml"
    file.write_text(json.dumps(place.fields))
    done = here("run", "-b", "docker", "--bucket", BUCKET, "--backend-config", file)
    assert done.code == 0, done.errors
    assert "kaggleops logs -f" in done.output


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"image": "another/image"}, "is not on this machine. docker pull another/image"),
        ({"credentials": "/nowhere/key.json"}, "no key of the bucket, /nowhere/key.json"),
        ({"gpus": "many"}, "gpus: 'many': string should match"),
        ({"shm_size": "large"}, "shm_size: 'large': string should match"),
        ({"input": ""}, "input: '': string should have at least 1"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_made(
    place: InDocker, fields: dict[str, str], problem: str
) -> None:
    before = runs(place)
    with pytest.raises(UsageError, match=problem):
        submit(place, **fields)
    assert runs(place) == before


def test_a_folder_is_no_bucket_that_a_container_reaches(place: InDocker, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="its machines cannot reach bucket"):
        place.backend.check(f"bucket+file://{tmp_path}/mlruns", config(place))


def test_without_gpus_for_containers_the_run_has_failed(place: InDocker) -> None:
    before = runs(place)
    with pytest.raises(RefusedError, match="gives no GPU to containers"):
        submit(place, gpus="2")
    run_id = only_run(place, before)
    assert place.world.run(run_id).info.status == "FAILED"
    assert f"kaggleops-{run_id}" not in [each.name for each in place.engine.containers]
    assert again(place, run_id).get_status() == "SCHEDULED"


@pytest.mark.parametrize("operation", ["create", "start"])
def test_an_answer_that_was_lost_makes_no_second_container(place: InDocker, operation: str) -> None:
    before = runs(place)
    place.engine.lost.add(operation)
    with pytest.raises(KaggleOpsError, match=r"no engine answers.*go on with the run"):
        submit(place)
    run_id = only_run(place, before)
    made = [each.id for each in place.engine.containers]
    run = again(place, run_id)
    assert [each.id for each in place.engine.containers] == made
    assert run.state().said == "running"


def test_one_that_was_killed_goes_on_in_another_container(place: InDocker) -> None:
    run = submit(place)
    first = place.engine.named(run.tags["container"])
    first.out_of_memory = True
    place.engine.session(first.name).cancel()
    place.engine.session(first.name).wait()
    assert run.get_status() == "FAILED"
    assert run.tags["job_ended"] == "exited: the machine's memory was full"
    assert again(place, run.run_id).get_status() == "SCHEDULED"
    second = place.engine.named(run.tags["container"])
    assert second.id != first.id
    assert "job_ended" not in run.tags


def test_one_that_somebody_else_removes_just_now_is_made_anew(place: InDocker) -> None:
    run = submit(place)
    ended = place.engine.named(run.tags["container"])
    place.engine.session(ended.name).cancel()
    place.engine.session(ended.name).wait()
    assert run.get_status() in ("FAILED", "KILLED")
    place.engine.meanwhile["delete"] = lambda: place.engine.containers.remove(ended)
    again(place, run.run_id)
    assert place.engine.named(ended.name).id != ended.id
    assert run.state().said == "running"


def test_another_machines_engine_is_not_asked(place: InDocker) -> None:
    run = submit(place)
    place.engine.id = "engine-2"
    assert run.state() is None
    assert run.get_status() == "SCHEDULED"
    with pytest.raises(KaggleOpsError, match="Ask on the machine that it was submitted from"):
        list(run.logs())


def test_what_it_left_is_copied_but_no_link_is_followed(place: InDocker, tmp_path: Path) -> None:
    run = submit(place)
    place.start(run)
    session = place.engine.session(run.tags["container"])
    session.wait("RUNNING")
    run.cancel()
    session.cancel()
    session.wait()
    working = place.folder / "output" / run.tags["container"] / "working"
    (working / "models").mkdir()
    (working / "models/weights.bin").write_bytes(b"\0" * 1000)
    (working / "passwords").symlink_to("/etc/passwd")
    brought = run.download(tmp_path / "home")
    assert brought.files == [tmp_path / "home/models/weights.bin"]
    assert brought.files[0].read_bytes() == b"\0" * 1000
    assert ["'passwords': it is a link" in each for each in brought.problems] == [True]

    assert run.clean_up()
    assert not run.clean_up()
    assert (working / "models/weights.bin").exists()
    with pytest.raises(KaggleOpsError, match="No such container"):
        list(run.logs())


def test_without_the_client(place: InDocker, monkeypatch: pytest.MonkeyPatch) -> None:
    # None is how Python marks a package that cannot be imported.
    monkeypatch.setitem(sys.modules, "docker", None)
    with pytest.raises(UsageError, match=r"pip install 'kaggleops\[docker\]'"):
        submit(place)


def test_a_line_without_an_end_is_shown_in_pieces() -> None:
    shown = list(_lines([b"one\n", *[b"x" * 30_000] * 30, b"\ntwo"]))
    assert (shown[0], shown[-1]) == ("one", "two")
    assert sum(map(len, shown[1:-1])) == 900_000
    assert max(map(len, shown)) < 100_000
