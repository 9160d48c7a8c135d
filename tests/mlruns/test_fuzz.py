"""Whatever becomes of an archive, it gives a reason or an entity that MLflow can read.

A failure prints seed and number; `mutated(SEED, number)` makes that archive again.
"""

import gzip
import io
import random
import resource
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.entities import ViewType
from mlflow.store.model_registry.file_store import FileStore as FileRegistry
from mlflow.store.tracking.file_store import FileStore

from kaggleops.mlruns import BrokenEntityError, Entity, EntityId, Kind, Notes, experiment, pack
from kaggleops.mlruns.archive import unpack
from kaggleops.mlruns.entity import Stamp
from kaggleops.mlruns.folder import read_folder, write_folder
from tests.mlruns.corpus import allowed
from tests.mlruns.entities import RUN, main_file

__all__ = ["allowed"]

SEED = 20261121
WHERE = "gs://b/mlruns/x.tar.gz"
HOME = RUN.experiment_id
MODEL = EntityId(Kind.LOGGED_MODEL, HOME, "m-" + "0" * 32)
TRACE = EntityId(Kind.TRACE, HOME, "tr-" + "0" * 32)
REGISTERED = EntityId(Kind.REGISTERED_MODEL, "", "tweets")
_NOTES = Notes(
    written={"tags/a": 1_700_000_000_000},
    deleted={"tags/gone": 5},
    registers={"status": Stamp(1, 2, 3)},
    heartbeat=7,
)


def _link(source: str, destination: str) -> bytes:
    ends = f"destination_id: d1\ndestination_type: {destination}\nsource_id: d1\n"
    return f"{ends}source_type: {source}\ntags: {{}}\n".encode()


def _valid(entity_id: EntityId, **files: bytes) -> Entity:
    named = {path.replace("__", "/"): data for path, data in files.items()}
    notes = _NOTES if entity_id == RUN else Notes()
    return Entity(entity_id, {**main_file(entity_id), **named}, frozenset({"tags"}), notes)


ENTITIES = [
    _valid(
        RUN,
        metrics__loss=b"1 0.5 0\n2 0.25 1\n" * 20,
        params__lr=b"0.1",
        tags__a="é".encode(),
        **{"inputs__i1__meta.yaml": _link("DATASET", "RUN")},
        **{"outputs__m-1__meta.yaml": _link("RUN_OUTPUT", "MODEL_OUTPUT") + b"step: 2\n"},
    ),
    _valid(experiment(HOME), tags__owner=b"ada"),
    _valid(MODEL, metrics__f1=b"1 0.5 0 " + RUN.name.encode() + b"\n", params__n=b"2"),
    _valid(TRACE, request_metadata__user=b"ada", **{"assessments__a-1.yaml": b"a: 1\n"}),
    _valid(REGISTERED, tags__t=b"x", aliases__champion=b"1"),
]
ARCHIVES = [(entity.id, pack(entity)) for entity in ENTITIES]

Mutation = Callable[[random.Random, bytes, bytes], bytes]


def _flip(chance: random.Random, data: bytes, other: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _write_over(chance: random.Random, data: bytes, other: bytes) -> bytes:
    start = chance.randrange(len(data))
    noise = chance.choice([chance.randbytes(chance.randint(1, 64)), b"\0" * 64, b"9" * 40, b"../"])
    return data[:start] + noise + data[start + len(noise) :]


def _truncate(chance: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: chance.randrange(len(data))]


def _splice(chance: random.Random, data: bytes, other: bytes) -> bytes:
    block = chance.choice([1, 512])  # tar is made of blocks of 512
    cut = block * chance.randrange(len(data) // block + 1)
    return data[:cut] + other[block * chance.randrange(len(other) // block + 1) :]


def _repeat(chance: random.Random, data: bytes, other: bytes) -> bytes:
    start = 512 * chance.randrange(len(data) // 512 + 1)
    end = start + 512 * chance.randint(1, 4)
    return data[:end] + data[start:end] + data[end:]


_NAMES = [
    b"../up",
    b"/tmp/kaggleops-escaped",
    b"tags/..",
    b"artifacts/m",
    b".kaggleops.json/x",
    b"meta.yaml/x",
]
_SIZES = [b"77777777777", b"\x80" + b"\xff" * 11, b"00000000000", b"-0000000001", b"00000001000"]


def _forge(chance: random.Random, tar: bytes) -> bytes:
    """Change one entry's header and make its checksum fit, as only somebody who means it would."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        start = chance.choice(archive.getmembers()).offset
    header = bytearray(tar[start : start + 512])
    match chance.randrange(4):
        case 0:
            header[:100] = chance.choice([*_NAMES, chance.randbytes(20)]).ljust(100, b"\0")
        case 1:
            header[124:136] = chance.choice(_SIZES).ljust(12, b"\0")
        case 2:
            header[156] = chance.choice(b"1234567LKxgSVDMN\0Z")
        case _:
            for _ in range(chance.randint(1, 4)):
                header[chance.choice([*range(148), *range(156, 512)])] = chance.randrange(256)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return tar[:start] + bytes(header) + tar[start + 512 :]


MUTATIONS: list[Mutation] = [_flip, _write_over, _truncate, _splice, _repeat]


def mutated(seed: int, number: int) -> tuple[EntityId, bytes]:
    """Return a broken archive and the entity that it should be."""
    chance = random.Random(f"{seed}/{number}")
    entity_id, data = chance.choice(ARCHIVES)
    _, other = chance.choice(ARCHIVES)
    mutate = chance.choice(MUTATIONS)
    layer = chance.choice(["gzip", "tar", "header", "file"])
    if layer == "gzip":
        return entity_id, mutate(chance, data, other)
    if layer == "tar":
        content = mutate(chance, gzip.decompress(data), gzip.decompress(other))
        return entity_id, gzip.compress(content, compresslevel=1)
    if layer == "header":
        content = _forge(chance, gzip.decompress(data))
        return entity_id, gzip.compress(content, compresslevel=1)
    entity = next(each for each in ENTITIES if each.id == entity_id)
    path = chance.choice(sorted(entity.files))
    content = mutate(chance, entity.files[path], chance.choice(list(entity.files.values())))
    return entity_id, pack(Entity(entity_id, {**entity.files, path: content}, entity.folders))


def peak_memory() -> int:
    """Return the most memory that this process has used, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_mutated_archive_gives_a_reason_or_an_entity(
    count: int, tmp_path: Path, allowed: None
) -> None:
    mlruns = tmp_path / "mlruns"
    stock = FileStore(str(mlruns))
    write_folder(ENTITIES[1], mlruns / HOME, notes=False)
    before, accepted = peak_memory(), 0
    for number in range(count):
        entity_id, data = mutated(SEED, number)
        told = f"seed {SEED}, number {number}"
        found = _unpacked(data, entity_id, told)
        if isinstance(found, Entity):
            accepted += 1
            _check_accepted(found, mlruns, stock, told)
        else:
            assert WHERE in str(found), told
            assert len(str(found)) < 600, told
    assert accepted > count / 50  # else this looks at nothing but refusals
    assert {path.name for path in tmp_path.iterdir()} == {"mlruns"}
    assert {path.name for path in mlruns.iterdir()} <= {"0", HOME, "models", ".trash"}
    assert peak_memory() - before < 300 << 20


def _unpacked(data: bytes, entity_id: EntityId, told: str) -> Entity | BrokenEntityError:
    try:
        return unpack(data, entity_id, WHERE)
    except BrokenEntityError as error:
        return error
    except Exception as error:
        raise AssertionError(f"{told}: {type(error).__name__}: {error}") from error


def _check_accepted(entity: Entity, mlruns: Path, stock: FileStore, told: str) -> None:
    """Check that it can be written, read back, packed and read by MLflow."""
    folder = mlruns / entity.id.folder
    try:
        write_folder(entity, folder)
        assert read_folder(entity.id, folder).files == entity.files, told
        assert unpack(pack(entity), entity.id, WHERE) == entity, told
        write_folder(entity, folder, notes=False)
        (folder / ".kaggleops.json").unlink()
        stock.search_experiments()
        stock.search_runs([HOME], "", ViewType.ALL, 10)
        stock.search_logged_models([HOME])
        FileRegistry(str(mlruns)).search_registered_models(max_results=10)
    except Exception as error:
        raise AssertionError(f"{told}: {type(error).__name__}: {error}") from error
