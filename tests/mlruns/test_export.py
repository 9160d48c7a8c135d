"""A bucket exported to what stock MLflow opens."""

from pathlib import Path

import pytest
from mlflow.store.tracking.file_store import FileStore

from kaggleops.bucket import ABSENT, Bucket, open_bucket
from kaggleops.bucket.directory import DirectoryBucket
from kaggleops.errors import UsageError
from kaggleops.layout import parse_key
from kaggleops.mlruns import Entity, EntityId, EntityStore, Kind, experiment, run
from kaggleops.mlruns.export import export
from kaggleops.mlruns.folder import entities_in
from kaggleops.mlruns.import_sources import opened
from kaggleops.mlruns.importer import import_into
from tests.buckets import ON_EACH_SERVICE_AND_DIALECT, server_of
from tests.command import kaggleops_here
from tests.fakes.object_server import ObjectServer
from tests.mlruns.corpus import (
    WITH_ARTIFACTS,
    add_artifacts,
    allowed,
    artifacts_through_mlflow,
    content_of,
    make_mlruns,
    plain_tree,
)
from tests.mlruns.entities import main_file
from tests.tracking.scenario import picture, tree

__all__ = ["allowed"]


@pytest.fixture
def store(bucket: Bucket) -> EntityStore:
    return EntityStore(bucket)


def bring(store: EntityStore, source: Path) -> None:
    with opened(str(source)) as found:
        assert import_into(store, found).problems == []


def content(store: EntityStore) -> dict[str, tuple[object, object]]:
    """Return every entity of a bucket, read, and every other object."""
    found = {}
    for entry in store.bucket.list():
        stored = store.bucket.read(entry.key)
        if entry.key.endswith(".tar.gz"):
            entity = store.unpack(_id_of(entry.key), stored.data)
            found[entry.key] = (entity.files, entity.folders)
        elif not entry.key.endswith("changes.json"):
            found[entry.key] = (stored.data, None)
    return found


def _id_of(key: str) -> EntityId:
    entity_id = parse_key(key)
    assert entity_id is not None
    return entity_id


def write(store: EntityStore, entity_id: EntityId, **files: bytes) -> None:
    content = {**main_file(entity_id), **{f"tags/{name}": data for name, data in files.items()}}
    store.merge_in(Entity(entity_id, content))


A_RUN, OTHER = run("1", "a" * 32), run("1", "b" * 32)


@ON_EACH_SERVICE_AND_DIALECT
def test_a_proxy_that_answers_in_the_buckets_place_is_not_noticed(
    service: ObjectServer, tmp_path: Path
) -> None:
    service.create_bucket("our", versioned=True)
    expected = {}
    for number in range(25):
        key = f"artifacts/1/{'a' * 32}/artifacts/{number}.bin"
        expected[f"{number}.bin"] = b"%d" % number * (number * 997)
        service.put("our", key, expected[f"{number}.bin"])
    store = EntityStore(open_bucket(service.address("our"), patience=5))
    for seed, fault in enumerate(("page", "redirect", "garbled", "truncate", "corrupt")):
        service.fail(fault, times=None, probability=0.04, seed=seed)
    write(store, experiment("1"), a=b"1")
    write(store, A_RUN, a=b"1")
    assert export(store, tmp_path / "out", artifacts=True).problems == []
    folder = tmp_path / "out/1" / ("a" * 32) / "artifacts"
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == expected


@pytest.mark.usefixtures("allowed")
class TestExported:
    def test_what_was_imported_comes_out_byte_for_byte(
        self, store: EntityStore, tmp_path: Path
    ) -> None:
        make_mlruns(tmp_path / "mlruns", store.artifact_root)
        bring(store, tmp_path / "mlruns")
        exported = export(store, tmp_path / "out", artifacts=False)
        assert exported.problems == []
        assert plain_tree(tmp_path / "out") == plain_tree(tmp_path / "mlruns")

    def test_what_comes_out_can_be_imported_elsewhere_and_is_the_same(
        self, store: EntityStore, tmp_path: Path
    ) -> None:
        make_mlruns(tmp_path / "mlruns")
        add_artifacts(tmp_path / "mlruns", tmp_path / "mlruns")
        bring(store, tmp_path / "mlruns")
        export(store, tmp_path / "out", artifacts=True)
        second = EntityStore(open_bucket(str(tmp_path / "second")))
        second.bucket.prepare()
        bring(second, tmp_path / "out")
        rebased = {
            key: _with_root(value, second.artifact_root, store.artifact_root)
            for key, value in content(second).items()
        }
        assert rebased == content(store)

    def test_stock_mlflow_opens_it(self, store: EntityStore, tmp_path: Path) -> None:
        make_mlruns(tmp_path / "mlruns", store.artifact_root)
        bring(store, tmp_path / "mlruns")
        export(store, tmp_path / "out", artifacts=False)
        before, after = FileStore(str(tmp_path / "mlruns")), FileStore(str(tmp_path / "out"))
        assert picture(after) == picture(before)

    def test_artifacts_come_along_and_are_found_there(
        self, store: EntityStore, tmp_path: Path
    ) -> None:
        make_mlruns(tmp_path / "mlruns")
        add_artifacts(tmp_path / "mlruns", tmp_path / "mlruns")
        bring(store, tmp_path / "mlruns")
        exported = export(store, tmp_path / "out", artifacts=True)
        assert exported.artifacts == len([key for key in content(store) if "artifacts/" in key])
        # As the file store would have made it there, artifacts of deleted experiments included.
        moved = tree(tmp_path / "mlruns")
        here, there = str(tmp_path / "mlruns").encode(), str(tmp_path / "out").encode()
        expected = {path: data and data.replace(here, there) for path, data in moved.items()}
        assert tree(tmp_path / "out") == expected

    def test_without_artifacts_they_are_found_in_the_bucket(
        self,
        store: EntityStore,
        tmp_path: Path,
        request: pytest.FixtureRequest,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        if server := server_of(store.bucket, request):
            # MLflow's own is told of an S3 other than Amazon's by the variable alone.
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
        make_mlruns(tmp_path / "mlruns")
        add_artifacts(tmp_path / "mlruns", tmp_path / "mlruns")
        bring(store, tmp_path / "mlruns")
        export(store, tmp_path / "out", artifacts=False)
        got = artifacts_through_mlflow(str(tmp_path / "out"), tmp_path / "got")
        assert {each.kind for each in got} == set(WITH_ARTIFACTS)
        assert got == {entity_id: content_of(entity_id) for entity_id in got}


def _with_root(value: tuple[object, object], old: str, new: str) -> tuple[object, object]:
    files, folders = value
    if not isinstance(files, dict):
        return value
    return {path: data.replace(old.encode(), new.encode()) for path, data in files.items()}, folders


def test_a_folder_that_holds_something_is_not_overwritten(
    store: EntityStore, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match="not empty"):
        export(store, tmp_path / "out", artifacts=False)
    assert tree(tmp_path / "out") == {"thesis.txt": b"precious"}


def test_a_broken_entity_is_named_and_the_others_come(store: EntityStore, tmp_path: Path) -> None:
    write(store, experiment("1"))
    write(store, A_RUN)
    store.bucket.write(OTHER.key, b"no archive", expected=ABSENT)
    exported = export(store, tmp_path / "plain", artifacts=False)
    assert len(exported.problems) == 1
    assert store.bucket.object_uri(OTHER.key) in exported.problems[0]
    assert exported.entities == 2
    assert (tmp_path / "plain" / A_RUN.folder / "meta.yaml").is_file()
    assert not (tmp_path / "plain" / OTHER.folder).exists()


def test_an_artifact_that_would_lie_in_a_runs_own_files_stays_out(
    store: EntityStore, tmp_path: Path
) -> None:
    write(store, A_RUN)
    for key in (f"artifacts/{A_RUN.folder}/meta.yaml", "artifacts/.trash/x", "artifacts/models/m"):
        store.bucket.write(key, b"hostile", expected=ABSENT)
    exported = export(store, tmp_path / "out", artifacts=True)
    assert len(exported.problems) == 3
    assert (tmp_path / "out" / A_RUN.folder / "meta.yaml").read_bytes() != b"hostile"
    assert not any(data == b"hostile" for data in tree(tmp_path / "out").values())


class TestCommand:
    def test_export(self, tmp_path: Path) -> None:
        store = EntityStore(DirectoryBucket(tmp_path / "b"))
        write(store, experiment("1"))
        write(store, A_RUN)
        done = kaggleops_here("export", "plain", "--bucket", "b", cwd=tmp_path)
        assert done.code == 0
        assert "mlflow ui --backend-store-uri plain" in done.output
        assert (tmp_path / "plain" / A_RUN.folder / "metrics").is_dir()

    def test_a_broken_entity_is_one_line_and_exit_code_1(self, tmp_path: Path) -> None:
        store = EntityStore(DirectoryBucket(tmp_path / "b"))
        write(store, A_RUN)
        store.bucket.write(OTHER.key, b"no archive", expected=ABSENT)
        done = kaggleops_here("export", "plain", "--bucket", "b", cwd=tmp_path)
        assert (done.code, OTHER.name in done.error) == (1, True)

    def test_a_bucket_that_is_not_there(self, tmp_path: Path) -> None:
        done = kaggleops_here("export", "m", "--bucket", "nowhere", cwd=tmp_path)
        assert (done.code, "does not exist" in done.error) == (1, True)
        assert not (tmp_path / "m").exists()

    def test_a_folder_in_use_is_called_wrongly(self, tmp_path: Path) -> None:
        DirectoryBucket(tmp_path / "b").prepare()
        done = kaggleops_here("export", ".", "--bucket", "b", "--json", cwd=tmp_path)
        assert (done.code, "not empty" in done.error) == (2, True)


def test_the_kinds_of_the_corpus(allowed: None, tmp_path: Path) -> None:
    make_mlruns(tmp_path / "mlruns")
    assert {entity_id.kind for entity_id, _ in entities_in(tmp_path / "mlruns")} == set(Kind)
