"""Somebody writes into the bucket what no run of ours would: it is named, the rest is served."""

import gzip
import io
import logging
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from kaggleops.bucket import ABSENT, Bucket
from kaggleops.mlruns import Entity, EntityId, EntityStore, Kind, Notes, experiment, pack, run
from kaggleops.mlruns import archive as archive_module
from kaggleops.mlruns.entity import META, NOTES
from kaggleops.tracking.store import BucketTrackingStore
from tests.buckets import ON_SERVICES
from tests.mlruns.entities import main_file

GOOD = [run("1", letter * 32) for letter in "ab"]
BAD = run("1", "c" * 32)
MOST_ENTRIES = 2000

Hostile = Callable[[EntityId], bytes]


def archive(bad: EntityId, *members: tuple[str, bytes, bytes]) -> bytes:
    """Return an archive of a run's `meta.yaml` and these members (name, type, content)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, kind, content in ((META, tarfile.REGTYPE, main_file(bad)[META]), *members):
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(content), "/etc/passwd"
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def with_file(name: str, content: bytes = b"x", kind: bytes = tarfile.REGTYPE) -> Hostile:
    return lambda bad: archive(bad, (name, kind, content))


def with_meta(**changes: object) -> Hostile:
    return lambda bad: pack(Entity(bad, main_file(bad, **changes)))


def with_raw_meta(content: bytes) -> Hostile:
    return lambda bad: pack(Entity(bad, {META: content}))


def with_written(path: str, at: int) -> Hostile:
    notes = Notes(written={path: at})
    return lambda bad: pack(Entity(bad, {**main_file(bad), "tags/x": b"x"}, notes=notes))


def just(data: bytes) -> Hostile:
    return lambda bad: data


def huge_claim() -> bytes:
    info = tarfile.TarInfo("tags/x")
    info.size = 1 << 40
    return gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + b"x" * 512)


def bomb(mebibytes: int) -> bytes:
    squeezer = zlib.compressobj(1, wbits=31)
    pieces = [squeezer.compress(bytes(1 << 20)) for _ in range(mebibytes)]
    return b"".join([*pieces, squeezer.flush()])


def many_entries(count: int) -> bytes:
    header = tarfile.TarInfo("tags").tobuf()
    names = (b"tags/%07d" % number for number in range(count))
    blocks = []
    for name in names:
        block = bytearray(header)
        block[: len(name)] = name
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        blocks.append(bytes(block))
    return gzip.compress(b"".join(blocks) + bytes(1024), compresslevel=1)


LAUGHS = b"a: &a [x, x]\n" + b"".join(
    b"%c: &%c [*%c, *%c, *%c]\n" % (ord("b") + n, ord("b") + n, *[ord("a") + n] * 3)
    for n in range(20)
)

LINK = b"""destination_id: d1
destination_type: RUN
source_id: d1
source_type: DATASET
tags: {}
"""

HOSTILE = {
    "truncated": lambda bad: with_meta()(bad)[:-9],
    "no archive": just(b"<html>Sign in to the hotel's network</html>"),
    "empty": just(b""),
    "a bomb": lambda _: bomb(9),
    "a tar that claims a terabyte": just(huge_claim()),
    "more entries than anything has": lambda _: many_entries(MOST_ENTRIES + 1),
    "an absolute path": with_file("/tmp/kaggleops-escaped"),
    "dots": with_file("tags/../../escaped"),
    "a symbolic link": with_file("tags/x", b"", tarfile.SYMTYPE),
    "a hard link": with_file("tags/x", b"", tarfile.LNKTYPE),
    "a device": with_file("tags/x", b"", tarfile.CHRTYPE),
    "a name of 10,000 characters": with_file("n" * 10_000),
    "a folder 1,000 levels deep": with_file("/".join("d" * 1000)),
    "a name twice": lambda bad: archive(bad, *[("tags/x", tarfile.REGTYPE, b"x")] * 2),
    "a metric of garbage": with_file("metrics/loss", b"\xff\xfe garbage \0\n"),
    "a metric of one word": with_file("metrics/loss", b"1 2 three\n"),
    "a metric with no name for MLflow": with_file("metrics/lo$$", b"1 2 3\n"),
    "a tag that is no text": with_file("tags/x", b"\xff\xfe"),
    "an input that names what lies elsewhere": with_file(
        "inputs/1/meta.yaml", LINK.replace(b"source_id: d1", b"source_id: ../../x")
    ),
    "an input of no known type": with_file("inputs/1/meta.yaml", LINK.replace(b"DATASET", b"WISH")),
    "an input without its fields": with_file("inputs/1/meta.yaml", b"a: 1\n"),
    "YAML that builds objects": with_raw_meta(b"!!python/object/apply:os.system ['touch /tmp/x']"),
    "a billion laughs": with_raw_meta(LAUGHS),
    "YAML nested until the parser crashes": with_raw_meta(b"[" * 200_000),
    "no YAML": with_raw_meta(b"\0\1\2"),
    "a list": with_raw_meta(b"- a\n"),
    "nothing in it": with_raw_meta(b""),
    "no meta.yaml": lambda bad: pack(Entity(bad, {"tags/x": b"x"})),
    "another run": with_meta(run_id=GOOD[0].name),
    "another experiment": with_meta(experiment_id="2"),
    "no such status": with_meta(status=77),
    "a start that is no time": with_meta(start_time="yesterday"),
    "notes that are not notes": with_file(NOTES, b"[1, 2]"),
    "notes of infinity": with_file(
        NOTES,
        b'{"format":1,"written":{"tags/x":Infinity},"deleted":{},"registers":{},"heartbeat":[0,0]}',
    ),
    "notes of the year 10^20": with_written("tags/x", 10**25),
    "notes of nobody's file": with_written("../../x", 1),
}


def fill(bucket: Bucket) -> None:
    store = EntityStore(bucket)
    for entity_id in (experiment("1"), *GOOD):
        store.merge_in(Entity(entity_id, main_file(entity_id), frozenset({"tags"})))


@ON_SERVICES
def test_hostile_runs_are_named_and_the_others_are_served(
    bucket: Bucket,
    tracking_uri: str,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Each is read three times.
    monkeypatch.setattr(archive_module, "MAX_BYTES", 8 << 20)
    monkeypatch.setattr(archive_module, "MAX_ENTRIES", MOST_ENTRIES)
    fill(bucket)
    runs = {name: run("1", f"{number:032x}") for number, name in enumerate(HOSTILE)}
    for name, bad in runs.items():
        bucket.write(bad.key, HOSTILE[name](bad), expected=ABSENT)
    store = BucketTrackingStore(tracking_uri)
    caplog.set_level(logging.WARNING, "kaggleops")
    for _ in range(2):
        found = store.search_runs(["1"], "", 3, 10)
        assert {each.info.run_id for each in found} == {entity_id.name for entity_id in GOOD}
    for name, bad in runs.items():
        warnings = [each for each in caplog.messages if bucket.object_uri(bad.key) in each]
        assert len(warnings) == 1, name
        assert len(warnings[0]) < 700, name
        with pytest.raises(MlflowException, match=bad.name):
            store.get_run(bad.name)
    assert not list(tmp_path.rglob("escaped"))
    assert not Path("/tmp/kaggleops-escaped").exists()
    store._session.close()


def test_a_trace_that_mlflow_cannot_build_hides_no_other(bucket: Bucket, tracking_uri: str) -> None:
    fill(bucket)
    good, bad = (EntityId(Kind.TRACE, "1", f"tr-{number}") for number in range(2))
    EntityStore(bucket).merge_in(Entity(good, main_file(good)))
    EntityStore(bucket).merge_in(Entity(bad, main_file(bad, surprise=1, request_time="teatime")))
    store = BucketTrackingStore(tracking_uri)
    assert [each.trace_id for each in store.search_traces(["1"])[0]] == [good.name]
    with pytest.raises(MlflowException, match=bad.name):
        store.get_trace_info(bad.name)
    store._session.close()


SPANS = "tags/mlflow.trace.spansLocation"


@pytest.mark.parametrize(
    ("spans", "tags"),
    [
        *((spans, {}) for spans in (b"[]", b"null", b'{"spans": 3}', b'{"spans": [1]}')),
        *((spans, {}) for spans in (b'{"spans": [{"name": 1}]}', b"[" * 100_000, b"\xff", b"")),
        (None, {}),
        (None, {"tags/mlflow.artifactLocation": b"file:///etc"}),
        (None, {SPANS: b"TRACKING_STORE"}),
        (None, {SPANS: b"ARCHIVE_REPO", "tags/mlflow.trace.archiveLocation": b"file:///etc"}),
    ],
)
def test_a_trace_with_hostile_spans_hides_no_other(
    bucket: Bucket, fluent: str, spans: bytes | None, tags: dict[str, bytes]
) -> None:
    fill(bucket)
    store = EntityStore(bucket)
    good, bad = (EntityId(Kind.TRACE, "1", f"tr-{number}") for number in range(2))
    for entity_id, more in ((good, {}), (bad, tags)):
        place = f"{store.artifact_root}/{entity_id.folder}/artifacts".encode()
        files = {**main_file(entity_id), "tags/mlflow.artifactLocation": place, **more}
        store.merge_in(Entity(entity_id, files))
    for entity_id, data in ((good, b'{"spans": []}'), (bad, spans)):
        if data is not None:
            key = f"artifacts/{entity_id.folder}/artifacts/traces.json"
            bucket.write(key, data, expected=ABSENT)
    found = MlflowClient(fluent).search_traces(["1"])
    assert [each.info.trace_id for each in found] == [good.name]


@pytest.mark.parametrize(
    ("entity_id", "data"),
    [
        (EntityId(Kind.LOGGED_MODEL, "1", "m-1"), b"no archive"),
        (EntityId(Kind.TRACE, "1", "tr-1"), b"no archive"),
        (EntityId(Kind.DATASET, "1", "d1"), b"no archive"),
        (experiment("2"), b"no archive"),
    ],
    ids=lambda value: str(value) if isinstance(value, EntityId) else "",
)
def test_another_hostile_entity_hides_nothing_else(
    bucket: Bucket, tracking_uri: str, entity_id: EntityId, data: bytes
) -> None:
    fill(bucket)
    other = EntityId(entity_id.kind, entity_id.experiment_id, entity_id.name + "0")
    if entity_id.kind is Kind.EXPERIMENT:
        other = experiment("3")
    EntityStore(bucket).merge_in(Entity(other, main_file(other), frozenset({"tags"})))
    bucket.write(entity_id.key, data, expected=ABSENT)
    store = BucketTrackingStore(tracking_uri)
    assert len(store.search_runs(["1"], "", 3, 10)) == 2
    assert len(store.search_logged_models(["1"])) == (entity_id.kind is Kind.LOGGED_MODEL)
    assert len(store.search_traces(["1"])[0]) == (entity_id.kind is Kind.TRACE)
    names = {each.experiment_id for each in store.search_experiments(3, max_results=10)}
    assert names == {"0", "1"} | ({"3"} if entity_id.kind is Kind.EXPERIMENT else set())
    store._session.close()


def test_a_run_whose_dataset_is_broken_is_served_without_it(
    bucket: Bucket, tracking_uri: str
) -> None:
    fill(bucket)
    files = {**main_file(BAD), "inputs/1/meta.yaml": LINK}
    EntityStore(bucket).merge_in(Entity(BAD, files, frozenset({"tags"})))
    bucket.write(EntityId(Kind.DATASET, "1", "d1").key, b"no archive", expected=ABSENT)
    store = BucketTrackingStore(tracking_uri)
    assert len(store.search_runs(["1"], "", 3, 10)) == 3
    assert store.get_run(BAD.name).info.run_id == BAD.name
    store._session.close()
