"""What belongs to buckets in folders alone: killed writers, locks, and what a disk can refuse."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from kaggleops.bucket import (
    ABSENT,
    Bucket,
    BucketError,
    BucketNotFoundError,
    BucketUnavailableError,
    ConflictError,
    open_bucket,
)

USES: dict[str, Callable[[Bucket], object]] = {
    "read": lambda bucket: bucket.read("k"),
    "stat": lambda bucket: bucket.stat("k"),
    "delete": lambda bucket: bucket.delete("k"),
    "list": lambda bucket: list(bucket.list()),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "bucket"
    folder.mkdir()
    return folder


@pytest.fixture
def bucket(root: Path) -> Bucket:
    return open_bucket(str(root), patience=5)


def python(code: str, *arguments: object, **how: object) -> subprocess.Popen[str]:
    """Start a Python that runs `code`, with `arguments` as `sys.argv[1:]`."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **how
    )  # type: ignore[call-overload, no-any-return]


def test_an_object_is_a_plain_file(bucket: Bucket, root: Path) -> None:
    bucket.write("mlruns/a b", b"content", expected=ABSENT)
    assert (root / "mlruns" / "a b").read_bytes() == b"content"
    assert (root / "mlruns" / "a b").stat().st_mode & 0o777 == 0o666 & ~_umask()
    (root / "by hand").write_bytes(b"theirs")
    stored = bucket.read("by hand")
    assert stored is not None
    assert stored.data == b"theirs"
    (root / "by hand").write_bytes(b"edited in place")
    with pytest.raises(ConflictError):
        bucket.write("by hand", b"ours", expected=stored.version)
    assert _unfinished(root) == []


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_mlflow_writes_its_artifacts_beside(tmp_path: Path) -> None:
    bucket = open_bucket(str(tmp_path / "100% öffentlich #1"))
    bucket.write("mlruns/1", b"", expected=ABSENT)
    file = tmp_path / "model.bin"
    file.write_bytes(b"weights")

    LocalArtifactRepository(f"{bucket.artifact_uri}/artifacts/run").log_artifact(str(file), "best")

    assert [entry.key for entry in bucket.list("artifacts/")] == ["artifacts/run/best/model.bin"]
    stored = bucket.read("artifacts/run/best/model.bin")
    assert stored is not None
    assert stored.data == b"weights"


def test_versions_grow_even_where_the_clock_was_set_back(bucket: Bucket, root: Path) -> None:
    bucket.write("k", b"x", expected=ABSENT)
    tomorrow = (root / "k").stat().st_mtime_ns + 86_400 * 10**9
    os.utime(root / "k", ns=(tomorrow, tomorrow))
    stored = bucket.read("k")
    assert stored is not None
    bucket.write("k", b"y", expected=stored.version)
    assert (root / "k").stat().st_mtime_ns > tomorrow


# A folder that is not there, or is none


@pytest.mark.parametrize("use", USES)
def test_a_mistyped_path_is_not_an_empty_bucket(tmp_path: Path, use: str) -> None:
    mistyped = open_bucket(str(tmp_path / "bukcet"))
    with pytest.raises(BucketNotFoundError, match=r"the folder .*bukcet does not exist") as e:
        USES[use](mistyped)
    assert e.value.hint == "Check the path; the first run that logs there makes it."
    assert not (tmp_path / "bukcet").exists()


def test_the_first_write_makes_the_folder(tmp_path: Path) -> None:
    bucket = open_bucket(str(tmp_path / "not" / "yet" / "there"))
    version = bucket.write("a/b", b"x", expected=ABSENT)
    assert [entry.version for entry in bucket.list()] == [version]


@pytest.mark.parametrize("known", ["used", "listed", "expected"])
def test_a_disk_that_is_not_mounted_is_no_empty_bucket(root: Path, known: str) -> None:
    open_bucket(str(root)).write("mlruns/0", b"old", expected=ABSENT)
    bucket = open_bucket(str(root))
    {"used": bucket.prepare, "listed": lambda: list(bucket.list()), "expected": bucket.expect}[
        known
    ]()
    root.rename(root.with_name("elsewhere"))
    writes = {"write": lambda bucket: bucket.write("new", b"", expected=ABSENT)}
    for there in (False, True):  # below where it is mounted, and there itself
        if there:
            root.mkdir()
        again = open_bucket(str(root))
        again.prepare()
        for use in {**USES, **writes}.values():
            with pytest.raises(BucketUnavailableError, match="is not there any more") as caught:
                use(again)
            assert f"mkdir -p {root}/.kaggleops" in caught.value.hint
        assert (root.exists(), list(root.glob("*"))) == (there, [])
    root.rmdir()
    root.with_name("elsewhere").rename(root)
    bucket.write("new", b"", expected=ABSENT)
    assert [entry.key for entry in bucket.list()] == ["mlruns/0", "new"]


@pytest.mark.parametrize("path", ["file", "file/below"])
def test_a_file_in_the_place_of_the_folder(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("")
    bucket = open_bucket(str(tmp_path / path))
    for use in USES.values():
        with pytest.raises(BucketError, match=r"file( is a file|.* stands where a folder)"):
            use(bucket)
    with pytest.raises(BucketError, match=r"file( is a file|.* stands where a folder)"):
        bucket.write("k", b"", expected=ABSENT)
    assert (tmp_path / "file").is_file()


def test_an_object_and_others_below_it(bucket: Bucket) -> None:
    bucket.write("a", b"", expected=ABSENT)
    with pytest.raises(BucketError, match="a file stands where a folder is needed"):
        bucket.write("a/b", b"", expected=ABSENT)
    bucket.write("c/d", b"", expected=ABSENT)
    with pytest.raises(BucketError, match="a folder with objects stands there"):
        bucket.write("c", b"", expected=ABSENT)
    assert [entry.key for entry in bucket.list()] == ["a", "c/d"]


def test_empty_folders_are_in_nobodys_way(bucket: Bucket, root: Path) -> None:
    (root / "runs" / "1" / "metrics").mkdir(parents=True)
    assert list(bucket.list()) == []
    bucket.write("runs", b"", expected=ABSENT)
    assert [entry.key for entry in bucket.list()] == ["runs"]


# What else may lie in the folder


def test_what_is_no_object_is_not_listed(bucket: Bucket, root: Path) -> None:
    bucket.write("k", b"", expected=ABSENT)
    os.mkfifo(root / "pipe")
    (root / "dangling").symlink_to(root / "nowhere")
    (root / "new\nline").write_text("")
    Path(os.fsdecode(os.fsencode(root) + b"/latin-\xfc")).write_text("")
    assert [entry.key for entry in bucket.list()] == ["k"]
    assert bucket.stat("pipe") is None
    assert bucket.read("pipe", unless=ABSENT) is None
    assert bucket.stat("dangling") is None


def test_links_are_followed_within_the_bucket_but_not_in_circles(
    root: Path, tmp_path: Path
) -> None:
    (tmp_path / "linked").symlink_to(root)
    bucket = open_bucket(str(tmp_path / "linked"))
    (root / "artifacts").symlink_to(root / "elsewhere")
    (root / "elsewhere").mkdir()
    (root / "circle").symlink_to(root)
    bucket.write("artifacts/model", b"weights", expected=ABSENT)
    assert (root / "elsewhere/model").read_bytes() == b"weights"
    assert [entry.key for entry in bucket.list()] == ["artifacts/model", "elsewhere/model"]


def test_a_listing_tells_what_it_leaves_out(bucket: Bucket, root: Path, tmp_path: Path) -> None:
    bucket.write("a", b"1", expected=ABSENT)
    (root / "two\nlines").write_text("2")
    (root / "gone").symlink_to(root / "nothing")
    (root / "out").symlink_to(tmp_path)
    told: dict[str, str] = {}
    assert [entry.key for entry in bucket.list(left_out=told.__setitem__)] == ["a"]
    assert {Path(where).name: why.partition(" ")[0] for where, why in told.items()} == {
        "two\nlines": "no", "gone": "it", "out": "it",
    }  # fmt: skip


def test_no_link_leads_out_of_the_bucket(bucket: Bucket, root: Path, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir()
    (private / "key").write_text("secret")
    (root / "folder").symlink_to(private)
    (root / "file").symlink_to(private / "key")
    (root / "inside").mkdir()
    (root / "inside/up").symlink_to("../../private", target_is_directory=True)
    (root / "beside").symlink_to(f"{root}-of-others")
    Path(f"{root}-of-others").mkdir()
    (Path(f"{root}-of-others") / "key").write_text("secret")
    for key in ("folder/key", "file", "inside/up/key", "beside/key", "folder/new"):
        for use in (bucket.read, bucket.stat, bucket.delete):
            with pytest.raises(BucketError, match="by a link"):
                use(key)
        with pytest.raises(BucketError, match="by a link"):
            bucket.fetch(key, tmp_path / "fetched")
        with pytest.raises(BucketError, match="by a link"):
            bucket.local_path(key)
        with pytest.raises(BucketError, match="by a link"):
            bucket.write(key, b"mine", expected=ABSENT)
    assert list(bucket.list()) == []
    assert list(bucket.list("folder/")) == []
    assert [path.read_text() for path in private.iterdir()] == ["secret"]


# Killed writers


def test_a_writer_killed_half_way_has_changed_nothing(
    bucket: Bucket, root: Path, tmp_path: Path
) -> None:
    version = bucket.write("k", b"old", expected=ABSENT)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = python(
        "import sys; from pathlib import Path; from kaggleops.bucket import open_bucket\n"
        "open_bucket(sys.argv[1]).write('k', Path(sys.argv[2]), expected=sys.argv[3])",
        *(root, pipe, version),
    )
    # It reads its content from a pipe, so it is half way for as long as nobody closes that.
    with pipe.open("wb", buffering=0) as content:
        content.write(b"new" * 1_000_000)
        assert len(_unfinished(root)) == 1
        writer.kill()
        assert writer.wait() == -signal.SIGKILL

    stored = bucket.read("k")
    assert stored is not None
    assert (stored.data, stored.version) == (b"old", version)
    assert [entry.key for entry in bucket.list()] == ["k"]
    again = open_bucket(str(root), patience=5)
    again.write("k", b"newer", expected=version)
    assert _unfinished(root) == []


def test_writes_under_way_are_not_swept_away(root: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = python(
        "import sys; from pathlib import Path; from kaggleops.bucket import ABSENT, open_bucket\n"
        "open_bucket(sys.argv[1]).write('slow', Path(sys.argv[2]), expected=ABSENT)",
        *(root, pipe),
    )
    with pipe.open("wb", buffering=0) as content:
        content.write(b"x" * 1_000_000)
        other = open_bucket(str(root), patience=5)
        other.write("quick", b"", expected=ABSENT)
        assert len(_unfinished(root)) == 1
    assert writer.wait() == 0
    stored = other.read("slow")
    assert stored is not None
    assert stored.data == b"x" * 1_000_000
    assert _unfinished(root) == []


def _unfinished(root: Path) -> list[Path]:
    return list((root / ".kaggleops" / "unfinished").iterdir())


HOLD = """
import os, sys
from pathlib import Path
from kaggleops.bucket.workroom import Workroom
with Workroom(Path(sys.argv[1]) / ".kaggleops", 5).locked("k", "testing"):
    if sys.argv[2] == "fork" and os.fork() == 0:
        print("held", os.getpid(), flush=True)
        sys.stdin.read()  # like a data loader's worker, which lives on
        os._exit(0)
    if sys.argv[2] == "alone":
        print("held", os.getpid(), flush=True)
    sys.stdin.read() if sys.argv[2] == "alone" else os.wait()
"""


@pytest.mark.parametrize("holder", ["alone", "fork"])
def test_a_dead_writers_lock_is_free(root: Path, holder: str) -> None:
    process = python(HOLD, root, holder)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline().startswith("held")
    with pytest.raises(
        BucketUnavailableError, match=r"another process has been writing for 0\.2 s"
    ):
        open_bucket(str(root), patience=0.2).write("k", b"", expected=ABSENT)
    process.kill()
    process.wait()
    # In the second case the child, which shares all that was open, still lives.
    open_bucket(str(root), patience=5).write("k", b"", expected=ABSENT)
    process.stdin.close()
    process.stdout.close()


def test_readers_do_not_wait_for_writers(bucket: Bucket, root: Path) -> None:
    version = bucket.write("k", b"x", expected=ABSENT)
    locks = [path.open("rb") for path in (root / ".kaggleops" / "locks").iterdir()]
    for lock in locks:
        fcntl.flock(lock, fcntl.LOCK_EX)
    assert bucket.read("k") is not None
    assert bucket.stat("k") is not None
    assert [entry.version for entry in bucket.list()] == [version]
    for lock in locks:
        lock.close()


# What a disk can refuse

REFUSED = """
import os, sys
from kaggleops.bucket import ABSENT, open_bucket
bucket = open_bucket(sys.argv[1])
if sys.argv[2] == "nobody" and os.geteuid() == 0:
    os.setuid(65534)
uses = {
    "read": lambda: bucket.read("k"),
    "list": lambda: list(bucket.list()),
    "write": lambda: bucket.write("new", bytes(1_000_000), expected=ABSENT),
    "delete": lambda: bucket.delete("k"),
}
for name, use in uses.items():
    try:
        use()
        print(name, "done")
    except Exception as error:
        print(name, type(error).__name__, error)
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may look into, unlike pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_folder_of_somebody_elses(open_folder: Path) -> None:
    open_bucket(str(open_folder)).write("k", b"", expected=ABSENT)
    hidden = open_folder / ".kaggleops"
    hidden.chmod(0)
    open_folder.chmod(0o555)
    said = _said(python(REFUSED, open_folder, "nobody"))
    open_folder.chmod(0o755)
    hidden.chmod(0o755)
    assert said[:2] == ["read done", "list done"]
    for line, name in zip(said[2:4], ("write", "delete"), strict=True):
        assert line.startswith(f"{name} AccessDeniedError")
        assert "Permission denied" in line
        assert f"You need to own {open_folder}, or to be given write access to it." in line


def test_a_closed_folder(open_folder: Path) -> None:
    open_bucket(str(open_folder)).write("k", b"", expected=ABSENT)
    open_folder.chmod(0)
    said = _said(python(REFUSED, open_folder, "nobody"))
    open_folder.chmod(0o755)
    assert [" ".join(line.split()[:2]) for line in said] == [
        f"{name} AccessDeniedError" for name in ("read", "list", "write", "delete")
    ]


def test_a_full_disk(root: Path) -> None:
    said = _said(_mounted(root, "size=256k"))
    assert said[0].startswith("read ObjectNotFoundError")
    assert said[2].startswith("write BucketUnavailableError writing bucket+file://")
    assert f"No space left on device. Free some space at {root}." in said[2]


def test_a_read_only_disk(root: Path) -> None:
    said = _said(_mounted(root, "ro"))
    assert said[1] == "list done"
    assert said[2].startswith("write AccessDeniedError writing bucket+file://")
    assert "Read-only file system" in said[2]


def _mounted(root: Path, options: str) -> subprocess.Popen[str]:
    """Run `REFUSED` on a disk of its own, which only that process sees."""
    unshare = shutil.which("unshare")
    command = [str(unshare), "-r", "-m", "mount", "-t", "tmpfs", "-o", options, "none", str(root)]
    if unshare is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("this machine does not let us mount a disk")
    shell = f'mount -t tmpfs -o {options} none "$1" && exec "$2" -c "$3" "$1" root'
    run = [unshare, "-r", "-m", "sh", "-c", shell, "sh", str(root), sys.executable, REFUSED]
    return subprocess.Popen(run, stdout=subprocess.PIPE, text=True)


def _said(process: subprocess.Popen[str]) -> list[str]:
    return process.communicate()[0].splitlines()
