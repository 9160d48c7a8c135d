"""Many small files from a bucket: as fast as its client has them, and as safe as one by one."""

import gzip

import pytest

from kaggleops.bucket import AccessDeniedError
from kaggleops.errors import KaggleOpsError
from kaggleops.resources.files import DamagedError, File
from kaggleops.resources.manifest import Manifest
from kaggleops.resources.origins import ChangedError, Origin
from kaggleops.resources.sources import BucketOrigin
from kaggleops.resources.sync import fetch, lock
from tests.buckets import ON_EACH_SERVICE
from tests.fakes.object_server import ObjectServer

from .conftest import Project

pytestmark = ON_EACH_SERVICE

MANY = {f"deep/{number}.bin": b"%d" % number * number for number in range(150)}


@pytest.fixture
def server(service: ObjectServer) -> ObjectServer:
    """A service with 150 small objects."""
    service.create_bucket("b-1")
    for name, content in MANY.items():
        service.put("b-1", f"p/{name}", content)
    return service


@pytest.fixture
def origin(server: ObjectServer) -> Origin:
    return BucketOrigin(server.address("b-1", "p"))


@pytest.fixture
def manifest(server: ObjectServer, project: Project) -> Manifest:
    made = project.declare(p={"source": server.address("b-1", "p")})
    lock(made)
    server.reset_counts()
    return made


def read_many(origin: Origin, files: list[File]) -> dict[str, bytes]:
    came: dict[str, bytes] = {}
    origin.read_many(files, lambda file, content: came.update({file.name: content}))
    return came


def test_a_fault_that_stays_leaves_out_what_has_not_come(
    server: ObjectServer, origin: Origin
) -> None:
    files = origin.list([])
    server.reset_counts()
    server.fail(403, op="read", times=None)
    assert read_many(origin, files) == {}
    assert server.count("B") < 50


def test_what_cannot_be_taken_ends_it(server: ObjectServer, origin: Origin) -> None:
    files = origin.list([])
    server.reset_counts()

    def refuse(file: File, content: bytes) -> None:
        raise OSError(28, "the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        origin.read_many(files, refuse)
    assert server.count("B") < len(MANY)


def test_they_come_whole_each_for_one_request(
    server: ObjectServer, project: Project, manifest: Manifest
) -> None:
    came: list[int] = []
    done = fetch(manifest, progress=came.append)
    assert project.files("data/p") == MANY
    assert sum(came) == done.size == sum(map(len, MANY.values()))
    assert server.count("B") == len(MANY)
    assert fetch(manifest).right == len(MANY)
    assert server.count("B") == len(MANY)


def test_what_comes_damaged_is_read_again(
    server: ObjectServer, project: Project, manifest: Manifest
) -> None:
    server.fail("corrupt", op="read", times=3)
    server.fail(503, op="read")
    fetch(manifest)
    assert project.files("data/p") == MANY


def test_one_that_stays_damaged_is_named_and_the_others_are_there(
    server: ObjectServer, project: Project, manifest: Manifest
) -> None:
    server.fail("corrupt", op="read", key="p/deep/7.bin", times=None)
    with pytest.raises(DamagedError, match=r"deep/7.bin: its checksum is (crc32c|md5):"):
        fetch(manifest)
    assert MANY.keys() - project.files("data/p").keys() == {"deep/7.bin"}


def test_one_that_changed_at_the_source_is_named(
    server: ObjectServer, project: Project, manifest: Manifest
) -> None:
    server.put("b-1", "p/deep/7.bin", b"another")
    with pytest.raises(ChangedError, match=r"deep/7.bin: it has changed at the source"):
        fetch(manifest)
    server.put("b-1", "p/deep/7.bin", MANY["deep/7.bin"])
    fetch(manifest)
    assert project.files("data/p") == MANY


def test_what_is_stored_compressed_comes_as_it_is_stored(
    server: ObjectServer, project: Project
) -> None:
    packed = {f"deep/{number}.bin": gzip.compress(b"%d" % number) for number in range(5)}
    for name, content in packed.items():
        server.put("b-1", f"p/{name}", content, contentEncoding="gzip")
    fetch(project.declare(p={"source": server.address("b-1", "p")}))
    assert project.files("data/p") == {**MANY, **packed}


def test_without_permission(server: ObjectServer, manifest: Manifest) -> None:
    server.fail(403, op="read", times=None)
    with pytest.raises(AccessDeniedError, match="Ask the owner"):
        fetch(manifest)


def test_a_folder_in_a_files_place(project: Project, manifest: Manifest) -> None:
    (project.folder / "data/p/deep/7.bin").mkdir(parents=True)
    with pytest.raises(KaggleOpsError, match="a folder is in its place"):
        fetch(manifest, force=True)


def test_a_file_in_a_folders_place(project: Project, manifest: Manifest) -> None:
    (project.folder / "data").mkdir()
    (project.folder / "data/p").write_text("mine")
    with pytest.raises(KaggleOpsError, match=r"fetching into .*data/p: .*exists|Not a directory"):
        fetch(manifest)
    assert project.files() == {"p": b"mine"}
