"""The fast reader answers what tarfile answers, or nothing."""

import gzip
import io
import random
import tarfile

import pytest
from hypothesis import given

from kaggleops.mlruns import Entity, pack
from kaggleops.mlruns.archive import read_plain_tar
from tests.mlruns.entities import entity, runs

Entries = list[tuple[str, bytes | None]]


def with_tarfile(content: bytes) -> Entries:
    found: Entries = []
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        for info in archive:
            assert info.isdir() or info.isreg()
            reader = archive.extractfile(info)
            found.append((info.name, reader.read() if reader else None))
        rest = content[archive.offset :]
    assert not rest.strip(b"\0")
    return found


def tar_of(packed: Entity) -> bytes:
    return gzip.decompress(pack(packed))


@given(runs())
def test_it_reads_what_pack_writes(packed: Entity) -> None:
    content = tar_of(packed)
    found = read_plain_tar(content, 1000)
    if all(path.isascii() for path in packed.files):
        assert found == with_tarfile(content)
    else:
        assert found is None


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_damaged_it_answers_as_tarfile_or_not_at_all(seed: int) -> None:
    chance = random.Random(seed)
    files = {"meta__yaml": b"a: b\n", "tags__a": b"x" * 600, "tags__b": b"", "metrics__m": b"1 2 3"}
    content = tar_of(entity(**files))
    answered = 0
    for _ in range(200):
        damaged = bytearray(content)
        for _ in range(chance.choice([1, 1, 2, 8])):
            # Headers are where it matters.
            at = chance.randrange(len(content) // 512) * 512 + chance.randrange(512)
            damaged[at] = chance.choice([0, 32, 47, 48, 53, 55, 120, 255, chance.randrange(256)])
        if chance.random() < 0.2:
            del damaged[chance.randrange(len(damaged)) :]
        if (found := read_plain_tar(bytes(damaged), 1000)) is not None:
            assert found == with_tarfile(bytes(damaged))
            answered += 1
    assert answered > 10


def test_it_leaves_to_tarfile_what_is_not_plain() -> None:
    assert read_plain_tar(tar_of(entity(**{"tags__" + "a" * 200: b""})), 1000) is None
    assert read_plain_tar(b"", 1000) is None
    content = tar_of(entity(a=b"", b=b""))
    assert read_plain_tar(content, 2) is None
    assert read_plain_tar(content, 3) is not None
    assert read_plain_tar(content[: content.index(b"b\0")], 3) is None
