"""A reader and a writer made from docs/bucket-format.md alone agree with ours."""

import hashlib
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaggleops.mlruns import Entity, Notes, experiment, pack, run, unpack
from kaggleops.mlruns.change_log import Announcement, Log
from kaggleops.mlruns.entity import Stamp

RUN_ID = "0123456789abcdef0123456789abcdef"
KEY = f"mlruns/12/{RUN_ID}.tar.gz"
META = (
    f"artifact_uri: gs://b/artifacts/12/{RUN_ID}/artifacts\nend_time: null\nexperiment_id: '12'\n"
    f"lifecycle_stage: active\nrun_id: {RUN_ID}\nrun_name: owl\nstart_time: 1700000000000\n"
    "status: 1\nuser_id: ada\n"
)
FILES = {
    "meta.yaml": META.encode(),
    "metrics/val/f1": b"1700000000001 0.5 1\n1700000000002 0.75 2\n",
    "params/trainer.lr": b"3e-5",
    "tags/mlflow.user": b"ada",
    "tags/größe": "groß".encode(),
    f"tags/{'long/' * 30}name": b"x",
}
NOTES = {
    "format": 1,
    "written": {"tags/mlflow.user": 1700000000003},
    "deleted": {"tags/gone": 1700000000004},
    "registers": {"status": [1, 1, 1700000000005]},
    "heartbeat": [1700000000006, 1200],
}


def header(name: bytes, mode: str, size: int, kind: bytes) -> bytes:
    numbers = f"{mode}\0{0:07}\0{0:07}\0{size:011o}\0{0:011}\0".encode()
    block = name.ljust(100, b"\0") + numbers + b" " * 8 + kind + bytes(100) + b"ustar\x0000"
    block = block.ljust(512, b"\0")
    return block[:148] + f"{sum(block):06o}\0 ".encode() + block[156:]


def padded(content: bytes, to: int = 512) -> bytes:
    return content + bytes(-len(content) % to)


def entry(name: str, content: bytes, mode: str, kind: bytes) -> bytes:
    before = b""
    if not name.isascii() or len(name) > 100:
        record = f" path={name}\n".encode()
        length = len(record)
        while length != len(record) + len(str(length)):
            length = len(record) + len(str(length))
        record = str(length).encode() + record
        before = header(b"././@PaxHeader", "0000000", len(record), b"x") + padded(record)
    shown = name.encode("ascii", "replace")[:100]
    return before + header(shown, mode, len(content), kind) + padded(content)


def write(files: dict[str, bytes], notes: dict[str, object]) -> bytes:
    parents = {path[:at] for path in files for at, letter in enumerate(path) if letter == "/"}
    folders = sorted(parents | {"artifacts", "metrics", "params"})
    text = json.dumps(notes, ensure_ascii=False, separators=(",", ":")).encode()
    tar = entry(".kaggleops.json", text, "0000644", b"0")
    tar += b"".join(entry(f"{folder}/", b"", "0000755", b"5") for folder in folders)
    tar += b"".join(entry(path, files[path], "0000644", b"0") for path in sorted(files))
    return padded(tar + bytes(1024), 10_240)


def compressed(tar: bytes) -> bytes:
    gzip = zlib.compressobj(6, wbits=31)
    return gzip.compress(tar) + gzip.flush()


def entries(archive: bytes) -> Iterator[tuple[str, bytes]]:
    tar, at, long = zlib.decompress(archive, wbits=31), 0, ""
    while (block := tar[at : at + 512]).strip(b"\0"):
        size = int(block[124:135], 8)
        content = tar[at + 512 : at + 512 + size]
        at += 512 + len(padded(content))
        if block[156:157] == b"x":
            long = content.decode().partition(" path=")[2][:-1]
            continue
        yield long or block[:100].rstrip(b"\0").decode(), content
        long = ""


@pytest.fixture
def entity() -> Entity:
    """What the specification says that FILES and NOTES are."""
    notes = Notes(
        written={"tags/mlflow.user": 1700000000003},
        deleted={"tags/gone": 1700000000004},
        registers={"status": Stamp(round=1, rank=1, at=1700000000005)},
        heartbeat=1700000000006,
        promise=1200,
    )
    folders = frozenset({"artifacts", "metrics", "params"})
    return Entity(run("12", RUN_ID), FILES, folders, notes)


def test_what_it_writes_is_read_and_is_what_we_write(entity: Entity) -> None:
    tar = write(FILES, NOTES)
    assert unpack(compressed(tar), entity.id, KEY) == entity
    assert zlib.decompress(pack(entity), wbits=31) == tar


def test_it_reads_what_we_write(entity: Entity) -> None:
    found = dict(entries(pack(entity)))
    assert json.loads(found.pop(".kaggleops.json")) == NOTES
    assert {name: content for name, content in found.items() if not name.endswith("/")} == FILES
    assert {name[:-1] for name in found if name.endswith("/")} == entity.folders


def test_keys_and_the_change_log(entity: Entity) -> None:
    assert (experiment("12").key, entity.id.key) == ("mlruns/12.tar.gz", KEY)
    line = {"key": KEY, "writer": "a1", "open_for": 43200.0, "sequence": 7}
    log = {"format": 1, "id": "6f0c", "sequence": 7, "dropped": 0, "entries": [line]}
    text = json.dumps(log, separators=(",", ":")).encode()
    ours = Log("6f0c", 7, 0, (Announcement(KEY, "a1", 43200.0, 7),))
    assert Log.from_bytes(text) == ours
    assert ours.to_bytes() == text


SNAPSHOT_COLUMNS = {
    "experiment": {
        "experiments": [
            *["name", "artifact_location", "lifecycle_stage", "creation_time", "last_update_time"]
        ],
        "experiment_tags": ["key", "value"],
    },
    "run": {
        "runs": [
            *["name", "source_type", "source_name", "entry_point_name", "user_id", "status"],
            *["start_time", "end_time", "deleted_time", "source_version", "lifecycle_stage"],
            "artifact_uri",
        ],
        "params": ["key", "value"],
        "tags": ["key", "value"],
        "latest_metrics": ["key", "value", "timestamp", "step", "is_nan"],
        "inputs": [
            *["input_uuid", "source_type", "source_id", "destination_type", "destination_id"],
            "step",
        ],
        "input_tags": ["input_uuid", "name", "value"],
    },
}


def test_the_snapshot_of_an_index(tmp_path: Path) -> None:
    from kaggleops.index import snapshot
    from kaggleops.index.database import MARK, open_database, reading, writing

    home = [[1], ["owls"], ["artifacts/12"], ["active"], [1], [None]]
    place = f"artifacts/12/{RUN_ID}/artifacts"
    row = ["owl", "LOCAL", "", "", "ada", "FINISHED", 1, 2, None, "", "active", place]
    metric = ["val/f1", 0.75, 1700000000002, 2, 0]
    tables = [
        [[1], *([cell] for cell in row)],
        [[2], ["trainer.lr", "größe"], ["3e-5", 'groß"\n']],
        [[0], [], []],
        [[1], *([cell] for cell in metric)],
        [[0], *([] for _ in range(6))],
        [[0], *([] for _ in range(3))],
    ]
    log = {"id": "6f0c", "sequence": 7, "open": {KEY: {"a1": 41000.5}}}
    head = {
        "format": 1,
        "bucket": hashlib.blake2b(b"gs://b", digest_size=16).hexdigest(),
        "log": log,
        "listed": 1795000000.0,
        "entities": 2,
        "default": False,
        "columns": SNAPSHOT_COLUMNS,
    }
    blocks = [
        ["experiment", ["mlruns/12.tar.gz"], ["v1"], [home, [[0], [], []]]],
        ["run", [KEY], ["v2"], tables],
    ]
    end = {"entities": 2, "unsettled": []}

    def lines(*content: object) -> bytes:
        text = (json.dumps(each, ensure_ascii=False, separators=(",", ":")) for each in content)
        return "".join(f"{line}\n" for line in text).encode()

    engine = open_database(f"sqlite:///{tmp_path}/index.db", "gs://b")
    root, ours = "gs://b/artifacts", io.BytesIO()
    # Those of the other kinds are named there, too; nothing of them is in this one.
    every = snapshot.Head("", None, 0.0, 0, default=False).content["columns"]
    assert {kind: every[kind] for kind in SNAPSHOT_COLUMNS} == SNAPSHOT_COLUMNS
    head["columns"] = every
    theirs = lines(head, *blocks, end)
    with writing(engine) as connection:
        found = snapshot.load(connection, io.BytesIO(compressed(theirs)), "gs://b", root, 0)
        assert found.mark is not None
        assert (found.entities, found.mark.sequence, found.head.listed) == (2, 7, head["listed"])
        mark = {"log_id": "6f0c", "sequence": 7, "open": json.dumps(log["open"])}
        connection.execute(MARK.insert().values(listed=found.head.listed, **mark))
    with reading(engine) as connection:
        snapshot.save(connection, ours, "gs://b", root)
    engine.dispose()
    assert zlib.decompress(ours.getvalue(), wbits=31) == theirs
