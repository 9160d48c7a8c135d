"""`kaggleops data fetch`: what comes, what does not come twice, and what is never replaced."""

import gzip
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kaggleops.bucket import AccessDeniedError, Bucket
from kaggleops.cli import main
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.resources.files import DamagedError
from kaggleops.resources.manifest import Manifest
from kaggleops.resources.origins import ChangedError, GoneError
from kaggleops.resources.sync import Fetched, fetch, lock
from tests.buckets import EACH_KIND, ON_EACH_SERVICE
from tests.fakes.gcs_server import GcsServer
from tests.fakes.object_server import ObjectServer

from .conftest import Project, fill


def names(done: Fetched) -> list[str]:
    return [step.file.name for step in done.steps]


@pytest.fixture
def manifest(bucket: Bucket, project: Project) -> Manifest:
    """One resource of three files, of which the manifest wants two."""
    fill(bucket, exp1__oof_csv=b"a,b\n", exp1__deep__x_csv=b"1", exp1__log_txt=b"", other__x=b"no")
    source = f"{bucket.uri}/exp1"
    return project.declare(exp1={"source": source, "files": ["*.csv", "deep/*"]})


@EACH_KIND
def test_what_is_wanted_comes_once(bucket: Bucket, project: Project, manifest: Manifest) -> None:
    would = fetch(manifest, dry_run=True)
    assert (names(would), would.size) == (["deep/x.csv", "oof.csv"], 5)
    assert project.files() == {}
    assert not project.lock.exists()
    came: list[int] = []
    done = fetch(manifest, progress=came.append)
    assert project.files() == {"exp1/oof.csv": b"a,b\n", "exp1/deep/x.csv": b"1"}
    assert (names(done), sum(came)) == (["deep/x.csv", "oof.csv"], 5)
    again = fetch(manifest)
    assert (again.steps, again.right) == ([], 2)
    locked = json.loads(project.lock.read_text())["exp1"]["files"]
    assert locked["oof.csv"]["size"] == 4
    assert locked["oof.csv"]["checksum"].startswith(("crc32c:", "md5:"))
    (project.folder / "data/exp1/oof.csv").unlink()
    assert names(fetch(manifest, ["exp1", "exp1"])) == ["oof.csv"]


@ON_EACH_SERVICE
def test_a_second_fetch_asks_nobody(
    service: ObjectServer, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.create_bucket("b-1")
    for number in range(30):
        service.put("b-1", f"p/{number}", b"x" * number)
    manifest = project.declare(many={"source": service.address("b-1", "p")})
    fetch(manifest)
    looks = 0 if service.lists_checksums else 30
    assert (service.count("A"), service.count("B")) == (1, 30 + looks)
    service.reset_counts()
    assert fetch(manifest).right == 30
    assert service.requests == []


def test_what_somebody_changed_is_replaced_only_by_force(
    bucket: Bucket, project: Project, manifest: Manifest
) -> None:
    fetch(manifest)
    mine = project.folder / "data/exp1/oof.csv"
    before = mine.stat()
    mine.write_bytes(b"b,a\n")  # the same size, and a time to deceive with
    os.utime(mine, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(UsageError, match=r"oof.csv differs from the lock.*--force"):
        fetch(manifest)
    assert mine.read_bytes() == b"b,a\n"
    assert names(fetch(manifest, force=True)) == ["oof.csv"]
    assert mine.read_bytes() == b"a,b\n"


def test_a_dry_run_says_what_the_fetch_would(project: Project) -> None:
    source = project.folder / "bucket"
    source.mkdir()
    for number in range(30):
        (source / f"{number:02}").write_text("theirs")
    manifest = project.declare(many={"source": f"bucket+file://{source}"})

    def dry(*options: str) -> Result:
        return CliRunner().invoke(main, ["data", "fetch", "--dry-run", *options])

    assert "data/many/19  6 bytes\n… and 10 more\nWould fetch 30 files" in dry().stdout
    fetch(manifest)
    (project.folder / "data/many/29").write_text("mine")
    (project.folder / "data/many/28").unlink()
    refused = dry()
    assert refused.exit_code == 2
    assert "changed here; needs --force  " in refused.stdout.splitlines()[0]
    assert "missing  " in refused.stdout.splitlines()[1]
    assert "many/29 differs from the lock" in refused.stderr
    assert "Would fetch 2 files" in dry("--force").stdout
    refused = dry("--json")
    assert refused.exit_code == 2
    states = [each["state"] for each in json.loads(refused.stdout)["files"]]
    assert states == ["missing", "changed"]


@EACH_KIND
def test_what_is_merely_old_is_replaced(
    bucket: Bucket, project: Project, manifest: Manifest
) -> None:
    fetch(manifest)
    fill(bucket, exp1__oof_csv=b"new content")
    assert fetch(manifest).steps == []  # the lock decides, not the source
    lock(manifest)
    assert names(fetch(manifest)) == ["oof.csv"]
    assert project.files()["exp1/oof.csv"] == b"new content"


def test_data_may_be_linked_to_another_disk(project: Project, manifest: Manifest) -> None:
    elsewhere = project.folder.with_name("large-disk")
    elsewhere.mkdir()
    (project.folder / "data").symlink_to(elsewhere)
    fetch(manifest)
    assert (elsewhere / "exp1/oof.csv").read_bytes() == b"a,b\n"


@EACH_KIND
def test_skip_if_exist_takes_whatever_is_there(bucket: Bucket, project: Project) -> None:
    fill(bucket, exp1__a=b"theirs", exp1__b=b"theirs")
    source = {"source": f"{bucket.uri}/exp1", "skip_if_exist": True, "destination": "mine"}
    (project.folder / "mine").mkdir()
    (project.folder / "mine/a").write_bytes(b"mine")
    fetch(project.declare(exp1=source))
    assert project.files("mine") == {"a": b"mine", "b": b"theirs"}


@EACH_KIND
def test_a_file_gone_or_changed_at_the_source(
    bucket: Bucket, project: Project, manifest: Manifest
) -> None:
    lock(manifest)
    fill(bucket, exp1__oof_csv=b"c,d\n")
    expected = DamagedError if bucket.uri.startswith("bucket+file") else ChangedError
    with pytest.raises(expected, match=r"oof.csv: .*(changed at the source|its checksum is)"):
        fetch(manifest)
    bucket.delete("exp1/oof.csv")
    with pytest.raises(GoneError, match=r"oof.csv: it is gone at the source"):
        fetch(manifest)
    with pytest.raises(GoneError, match=r"listing .*exp1: there is no \*.csv"):
        lock(manifest)
    assert "exp1/oof.csv" not in project.files()


@EACH_KIND
def test_the_same_content_written_anew_is_the_same(
    bucket: Bucket, project: Project, manifest: Manifest
) -> None:
    lock(manifest)
    bucket.delete("exp1/oof.csv")
    fill(bucket, exp1__oof_csv=b"a,b\n")
    assert len(fetch(manifest).steps) == 2


@ON_EACH_SERVICE
def test_damage_on_the_way_is_mended_and_never_kept(
    service: ObjectServer, project: Project
) -> None:
    service.create_bucket("b-1")
    service.put("b-1", "p/x", b"content")
    manifest = project.declare(p={"source": service.address("b-1", "p")})
    service.fail("corrupt", op="read")
    fetch(manifest)
    assert project.files() == {"p/x": b"content"}
    (project.folder / "data/p/x").unlink()
    service.fail("corrupt", op="read", times=None)
    with pytest.raises(DamagedError, match=r"its checksum is (crc32c|md5):.* instead of \1:"):
        fetch(manifest)
    assert project.files() == {}
    assert not (project.folder / "data/p/.kaggleops-fetching").exists()


@ON_EACH_SERVICE
def test_faults_that_pass_are_waited_for(service: ObjectServer, project: Project) -> None:
    service.create_bucket("b-1")
    for number in range(8):
        service.put("b-1", f"p/{number}", b"content")
    for kind in (503, "reset", "truncate", "page", "redirect"):
        service.fail(kind, op="read")
    for kind in ("page", "garbled"):
        service.fail(kind, op="list")
    fetch(project.declare(p={"source": service.address("b-1", "p")}))
    assert set(project.files().values()) == {b"content"}


@ON_EACH_SERVICE
def test_many_small_files_come_right_through_a_proxy(
    service: ObjectServer, project: Project
) -> None:
    service.create_bucket("b-1")
    for number in range(150):
        service.put("b-1", f"p/{number}", b"content")
    pages = [
        service.fail(kind, op="read", times=5, probability=0.2, seed=seed)
        for seed, kind in enumerate(("page", "redirect"))
    ]
    fetch(project.declare(p={"source": service.address("b-1", "p")}))
    assert list(project.files().values()) == [b"content"] * 150
    assert [page.hits for page in pages] == [5, 5]


def test_a_bucket_that_keeps_old_generations_still_has_what_was_locked(
    gcs_server: GcsServer, project: Project
) -> None:
    gcs_server.create_bucket("b-1", versioned=True)
    gcs_server.put("b-1", "p/x", b"locked")
    manifest = project.declare(p={"source": "gs://b-1/p"})
    lock(manifest)
    gcs_server.put("b-1", "p/x", b"newer")
    fetch(manifest)
    assert project.files() == {"p/x": b"locked"}


def test_what_is_stored_compressed_comes_as_it_is_stored(
    gcs_server: GcsServer, project: Project
) -> None:
    small, large = (gzip.compress(random.Random(0).randbytes(size)) for size in (100, 3 << 20))
    gcs_server.create_bucket("their-bucket")
    for name, content in (("small.gz", small), ("a b/large.gz", large)):
        gcs_server.put("their-bucket", f"x/{name}", content, contentEncoding="gzip")
    fetch(project.declare(x={"source": "gs://their-bucket/x"}))
    assert project.files("data/x") == {"small.gz": small, "a b/large.gz": large}


@ON_EACH_SERVICE
def test_without_permission(service: ObjectServer, project: Project) -> None:
    service.create_bucket("b-1")
    service.put("b-1", "p/x", b"content")
    manifest = project.declare(
        p={"source": service.address("b-1", "p")}, q={"source": service.address("b-2", "p")}
    )
    lock(manifest, ["p"])
    service.deny("b-1", read=True)
    with pytest.raises(AccessDeniedError, match=r"fetching .*b-1.*/p/x: .*Ask the owner"):
        fetch(manifest, ["p"])
    with pytest.raises(GoneError, match="the bucket b-2 does not exist"):
        fetch(manifest, ["q"])


LARGE = bytes(range(256)) * (1 << 15) + b"the end"


def large_one(server: GcsServer, project: Project) -> Manifest:
    server.create_bucket("b-1")
    server.put("b-1", "p/large.bin", LARGE)
    return project.declare(p={"source": "gs://b-1/p"})


def test_a_large_file_goes_on_after_a_kill(gcs_server: GcsServer, project: Project) -> None:
    manifest = large_one(gcs_server, project)
    lock(manifest)
    gcs_server.fail("stall", op="objects.get_media", times=1)
    command = [sys.executable, "-m", "kaggleops", "data", "fetch"]
    hidden = project.folder / "data/p/.kaggleops-fetching"
    with subprocess.Popen(command, cwd=project.folder) as process:
        while not any(each.stat().st_size >= len(LARGE) // 4 for each in hidden.glob("*")):
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    assert list((project.folder / "data/p").iterdir()) == [hidden]
    gcs_server.reset_counts()
    came: list[int] = []
    fetch(manifest, progress=came.append)
    assert gcs_server.count("B") == 1
    assert project.files() == {"p/large.bin": LARGE}
    assert came[0] >= len(LARGE) // 4
    assert sum(came) == len(LARGE)


def test_a_full_disk_leaves_nothing_half_written(gcs_server: GcsServer, project: Project) -> None:
    manifest = large_one(gcs_server, project)
    lock(manifest)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        with pytest.raises(KaggleOpsError, match=r"the disk is full .*Free some space"):
            fetch(manifest)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert project.files() == {}


def test_what_cannot_fit_is_not_begun(gcs_server: GcsServer, project: Project) -> None:
    gcs_server.create_bucket("b-1")
    gcs_server.put("b-1", "p/x", b"content")
    manifest = project.declare(p={"source": "gs://b-1/p"})
    lock(manifest)
    text = project.lock.read_text().replace('"size": 7', f'"size": {10**18}')
    project.lock.write_text(text)
    gcs_server.reset_counts()
    with pytest.raises(KaggleOpsError, match=r"1000000000.0 GB to fetch, and only .* GB free"):
        fetch(manifest)
    assert gcs_server.requests == []


def test_a_folder_in_a_files_place(bucket: Bucket, project: Project, manifest: Manifest) -> None:
    (project.folder / "data/exp1/oof.csv").mkdir(parents=True)
    with pytest.raises(UsageError, match="differs from the lock"):
        fetch(manifest)
    with pytest.raises(KaggleOpsError, match="a folder is in its place"):
        fetch(manifest, force=True)


def test_two_processes_at_once_fetch_it_once(gcs_server: GcsServer, project: Project) -> None:
    manifest = large_one(gcs_server, project)
    lock(manifest)
    gcs_server.reset_counts()
    threads = [threading.Thread(target=fetch, args=(manifest,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gcs_server.count("B") == 1
    assert project.files() == {"p/large.bin": LARGE}


def test_a_broken_lock_is_named(project: Project) -> None:
    manifest = project.declare(p={"source": "gs://b-1/p"})
    project.lock.write_text("<<<<<<< HEAD\n")
    with pytest.raises(
        UsageError, match=r"resources.lock: it is not a lock file .*Take it from git"
    ):
        fetch(manifest)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("oof.csv", "../../../evil"), r"'../../../evil' does not name a file"),
        (("oof.csv", "/nowhere/x"), r"'/nowhere/x' does not name a file"),
        (("(?:crc32c|md5):", "crc64:"), r"csv has no size, or no checksum"),
        (('"size": 4', '"size": -1'), r"csv has no size, or no checksum"),
    ],
)
def test_a_hostile_lock_fetches_nothing(
    wrong: tuple[str, str], said: str, project: Project, manifest: Manifest
) -> None:
    lock(manifest)
    text = project.lock.read_text()
    files = text.index('"files"', text.index('"files"') + 1)  # behind what was asked for
    project.lock.write_text(text[:files] + re.sub(*wrong, text[files:]))
    with pytest.raises(UsageError, match=said):
        fetch(manifest)
    assert project.files("") == {
        "config/data/resources.yaml": manifest.path.read_bytes(),
        "config/data/resources.lock": project.lock.read_bytes(),
    }


def test_no_manifest(tmp_path: Path) -> None:
    from kaggleops.resources.manifest import find_manifest

    with pytest.raises(UsageError, match="kaggleops data add"):
        find_manifest(tmp_path)
