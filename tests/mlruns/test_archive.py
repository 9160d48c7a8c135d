"""An entity as one archive: exact, deterministic, and nobody's way in."""

import gzip
import io
import json
import os
import random
import signal
import tarfile
import threading
from pathlib import Path

import pytest
from hypothesis import given

from kaggleops.bucket import ABSENT, open_bucket
from kaggleops.mlruns import BrokenEntityError, Entity, EntityStore, pack, unpack
from kaggleops.mlruns import archive as archive_module
from kaggleops.mlruns.entity import META, NOTES, dump_yaml

from .entities import RUN, main_file, run_meta, runs


@given(runs())
def test_round_trip(entity: Entity) -> None:
    assert unpack(pack(entity), RUN, "x") == entity


def test_equal_entities_give_equal_bytes() -> None:
    files = {META: dump_yaml(run_meta()), "tags/a": b"1", "params/b": b"2"}
    backwards = dict(reversed(files.items()))
    assert pack(Entity(RUN, files)) == pack(Entity(RUN, backwards))


def test_empty_folders_are_kept() -> None:
    entity = Entity(RUN, main_file(RUN), frozenset({"metrics", "params", "artifacts"}))
    assert unpack(pack(entity), RUN, "x").folders == {"metrics", "params", "artifacts"}


def test_what_nobody_could_read_again_is_not_written(tmp_path: Path) -> None:
    store = EntityStore(open_bucket(str(tmp_path)))
    written = store.write(Entity(RUN, main_file(RUN)), expected=ABSENT)
    large = Entity(RUN, {**main_file(RUN), "params/x": bytes(archive_module.MAX_BYTES)})
    with pytest.raises(BrokenEntityError, match=r"it is larger than 512 MiB"):
        store.write(large, expected=written)
    with pytest.raises(BrokenEntityError, match=r"it is larger than 512 MiB"):
        store.merge_in(large, known=written)
    found = store.read(RUN)
    assert found
    assert found.version == written


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """Return an archive with exactly these members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def member(
    name: str, data: bytes = b"x", kind: bytes = tarfile.REGTYPE
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = len(data) if kind == tarfile.REGTYPE else 0
    info.linkname = "/etc/passwd"
    return info, data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cut off"),
        (b"not an archive", "not a gzip archive"),
        (gzip.compress(b"not a tar archive" * 100), "tar archive"),
        (pack(Entity(RUN, {META: b"a: 1\n"}))[:-20], "cut off|gzip"),
        (archive(member("../up")), "leads out"),
        (archive(member("/etc/cron.d/x")), "leads out"),
        (archive(member("tags/../../x")), "leads out"),
        (archive(member("tags\\x")), "leads out"),
        (archive(member("artifacts/model.bin")), "artifacts do not belong"),
        (archive(member("n" * 10_000)), "too long"),
        (archive(member("tags/x", kind=tarfile.SYMTYPE)), "neither a file nor a folder"),
        (archive(member("tags/x", kind=tarfile.LNKTYPE)), "neither a file nor a folder"),
        (archive(member("tags/x", kind=tarfile.CHRTYPE)), "neither a file nor a folder"),
        (archive(member("tags/x", kind=tarfile.FIFOTYPE)), "neither a file nor a folder"),
        (archive(member("tags/x"), member("tags/x")), "twice"),
        (archive(member("tags"), member("tags/x")), "both a file and a folder"),
        (archive(member(NOTES, b"[1, 2")), "not JSON"),
        (archive(member(NOTES, b"[1, 2]")), "not readable"),
        (archive(member(NOTES, json.dumps({"format": 99}).encode())), "newer version"),
    ],
)
def test_hostile_archives_are_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BrokenEntityError, match=reason) as caught:
        unpack(data, RUN, "gs://b/mlruns/1/x.tar.gz")
    assert "gs://b/mlruns/1/x.tar.gz" in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_bomb_is_refused_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr(archive_module, "_LARGE", 1 << 16)
    bomb = archive(member("tags/x", b"\0" * (2 << 20)))
    assert len(bomb) < 1 << 14
    with pytest.raises(BrokenEntityError, match="unpacks to more than 1 MiB"):
        unpack(bomb, RUN, "x")


def test_a_sparse_file_that_claims_a_terabyte_is_refused() -> None:
    info = tarfile.TarInfo("tags/x")
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.realsize": str(1 << 40),
        "GNU.sparse.name": "tags/x",
    }
    body = b"1\n0\n0\n".ljust(512, b"\0")
    info.size = len(body)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(body))
    with pytest.raises(BrokenEntityError):
        unpack(buffer.getvalue(), RUN, "x")


def test_mutated_archives_give_an_entity_or_a_reason() -> None:
    chance = random.Random(7)
    files = {META: dump_yaml(run_meta()), "metrics/loss": b"1 2 3\n" * 50, "tags/a": b"b"}
    whole = gzip.decompress(pack(Entity(RUN, files, frozenset({"params"}))))
    for _ in range(500):
        mutated = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            mutated[chance.randrange(len(mutated))] = chance.randrange(256)
        try:
            unpack(gzip.compress(bytes(mutated)), RUN, "x")
        except BrokenEntityError:
            continue


def test_a_megabyte_of_digits_is_refused_in_one_pass() -> None:
    # A pattern that tries each way to split them takes hours.
    files = {**main_file(RUN), "metrics/loss": b"1 " + b"9" * 1_000_000 + b" 0\n"}
    with pytest.raises(BrokenEntityError, match="metric points"):
        unpack(pack(Entity(RUN, files)), RUN, "x")


def test_a_process_that_is_forked_while_a_large_one_is_read_reads_one_too() -> None:
    large = gzip.compress(bytes(33 << 20), compresslevel=1)
    inside, enough = threading.Event(), threading.Event()

    def read() -> None:
        with archive_module._inflated(large, "reading"):
            inside.set()
            enough.wait()

    thread = threading.Thread(target=read)
    thread.start()
    inside.wait()
    child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)
        with archive_module._inflated(large, "reading"):
            os._exit(0)
    enough.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
