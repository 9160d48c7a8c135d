"""Bring 1,000 runs, one large file and 2,000 small ones into a bucket of each kind, and back.

    python benchmarks/bench_transfer.py [runs] [large] [small] [gs] [s3] [folder] [ours] [peers]

Runs, 30 ms away. Ours: one object a run, with 16 threads. The peer: one object a file, with 16
threads of the service's own client, as the best of the notebooks do that carry `mlruns` to a
bucket. An index takes the runs' content from memory; `kaggleops export` makes files of it.

Files, 5 ms away, as a training logs them: by MLflow's artifact repository. The peers: MLflow's own
repository of that kind, the service's own client, s3fs where it is installed.
"""

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from common import (
    BUCKET,
    KINDS,
    NAMES,
    Storage,
    Took,
    chosen,
    measured,
    print_caption,
    print_table,
    scratch,
    storage,
)

RUNS = 1000
PEER_RUNS = 50
WORKERS = 16
LATENCY = 0.030
FILES = 62

LARGE_SIZE = 500_000_000
SMALL, SMALL_SIZE = 2000, 10_000
FILE_LATENCY = 0.005


def main() -> None:
    parts, kinds, whose = chosen(("runs", "large", "small"), KINDS, ("ours", "peers"))
    if "runs" in parts:
        rows = [row for kind in kinds for row in rows_of_runs(kind)]
        columns = ["1,000 runs of 62 files", "requests, ours", "one a file", "", "time, ours"]
        print_table("A thousand runs, 30 ms away", [*columns, "one a file", ""], rows)
    titles = {"large": "One file of 500 MB", "small": f"{SMALL:,} files of {SMALL_SIZE // 1000} kB"}
    for part in [part for part in parts if part in titles]:
        rows = [row for kind in kinds for row in rows_of_files(kind, part, whose)]
        columns = ["", "up: time", "processor", "requests", "down: time", "processor", "requests"]
        print_table(f"{titles[part]}, 5 ms away", columns, rows)
    print_caption(
        f"Runs: {WORKERS} threads each; every request takes {LATENCY * 1000:.0f} ms longer than "
        "the loopback server needs, which runs in a process of its own (that of S3 is moto). One "
        f"object a file was measured with {PEER_RUNS} runs and multiplied by "
        f"{RUNS / PEER_RUNS:.0f}; in a folder, nothing is counted. The downloads include the "
        f"listing. Files: every request takes {FILE_LATENCY * 1000:.0f} ms longer; processor is "
        "the time for which the process kept one busy. Small ones go one after the other wherever "
        "the client does no better.",
    )


# -- runs --------------------------------------------------------------------------------------


def rows_of_runs(kind: str) -> list[list[str]]:
    with scratch() as folder, storage(kind, LATENCY) as server:
        ours = through_entities(server, folder)
        peer = through_files(server, CLIENTS[kind](), folder)
    rows = []
    ways = ("upload", "download into memory", "download onto the disk")
    for way, one, other in zip(ways, ours, peer, strict=True):
        scale = RUNS / PEER_RUNS
        asked, taken = other.requests.all * scale, other.seconds * scale
        rows.append(
            [
                f"{NAMES[kind]}: {way}",
                f"{one.requests.all:,}",
                f"{asked:,.0f}",
                f"{asked / one.requests.all:.0f} x" if asked else "",
                f"{one.seconds:.1f} s",
                f"{taken:.0f} s",
                f"{taken / one.seconds:.0f} x",
            ]
        )
    return rows


def through_entities(server: Storage, folder: Path) -> list[Took]:
    from kaggleops.bucket import open_bucket
    from kaggleops.mlruns import Entity, EntityStore, Poll, run
    from kaggleops.mlruns.export import export

    bucket = open_bucket(f"{server.address}/ours")
    bucket.prepare()
    store = EntityStore(bucket)
    entities = []
    for number in range(RUNS):
        entity_id = run("1", f"{number:032x}")
        folders = frozenset({"metrics", "params", "tags", "artifacts"})
        entities.append(Entity(entity_id, files_of(entity_id.name), folders))
    with measured(server) as up, ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(store.merge_in, entities))
    with measured(server) as into_memory:
        found = [change.entity for change in Poll(store).changed()]
    assert all(entity is not None and len(entity.files) == FILES for entity in found)
    with measured(server) as onto_disk:
        exported = export(store, folder / "mlruns", artifacts=False)
    assert exported.entities == len(found) == RUNS
    return [up, into_memory, onto_disk]


def through_files(server: Storage, client: "Client", folder: Path) -> list[Took]:
    source = folder / "loose"
    names = []
    for number in range(PEER_RUNS):
        for path, data in files_of(f"{number:032x}").items():
            names.append(f"loose/1/{number:032x}/{path}")
            (folder / names[-1]).parent.mkdir(parents=True, exist_ok=True)
            (folder / names[-1]).write_bytes(data)
    assert source.is_dir()

    def download(key: str) -> None:
        path = folder / "peer" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        client.download(key, path)

    with ThreadPoolExecutor(WORKERS) as pool:
        with measured(server) as up:
            list(pool.map(lambda key: client.upload(folder / key, key), names))
        with measured(server) as into_memory:
            contents = list(pool.map(client.read, client.keys("loose/")))
        with measured(server) as onto_disk:
            list(pool.map(download, client.keys("loose/")))
    assert len(contents) == len(names) == PEER_RUNS * FILES
    return [up, into_memory, onto_disk]


# -- files -------------------------------------------------------------------------------------

Way = tuple[Callable[[Path], object], Callable[[Path], object]]
"""Brings all files of a folder into a bucket, and back into another folder."""


def rows_of_files(kind: str, part: str, whose: Iterable[str]) -> list[list[str]]:
    from kaggleops.tracking import artifact_uploads

    rows = []
    count, size = (1, LARGE_SIZE) if part == "large" else (SMALL, SMALL_SIZE)
    with scratch() as folder, storage(kind, FILE_LATENCY) as server:
        source = folder / "source"
        source.mkdir()
        for number in range(count):
            with (source / f"{number:05}.bin").open("wb") as file:
                for _ in range(0, size, 1 << 20):
                    file.write(os.urandom(min(size - file.tell(), 1 << 20)))
        for name, (up, down) in ways_of(kind, server, whose).items():
            target = folder / "target"
            target.mkdir()
            with measured(server) as sent:
                up(source)
            with measured(server) as came:
                down(target)
            sizes = [path.stat().st_size for path in target.rglob("*.bin") if path.is_file()]
            assert sizes == [size] * count, (name, len(sizes))
            shutil.rmtree(target)
            rows.append([f"{NAMES[kind]}: {name}", *cells(sent), *cells(came)])
        artifact_uploads.close_all()
        artifact_uploads._all.clear()  # the next server has this one's bucket, at another port
    return rows


def cells(took: Took) -> list[str]:
    return [f"{took.seconds:.1f} s", f"{took.processor:.1f} s", f"{took.requests.all:,}"]


def ways_of(kind: str, server: Storage, whose: Iterable[str]) -> dict[str, Way]:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    from kaggleops.bucket import open_bucket

    ways: dict[str, Way] = {}
    bucket = open_bucket(server.address)
    bucket.prepare()
    root = f"{bucket.artifact_uri}/artifacts"
    if "ours" in whose:
        tracked = f"{server.address}/mlruns"
        ways["this project"] = by_repository(
            get_artifact_repository(f"{root}/1/{'a' * 32}/artifacts", tracking_uri=tracked)
        )
    if "peers" not in whose:
        return ways
    ways["MLflow's own"] = by_repository(MLFLOWS[kind](f"{root}/mlflow"))
    client = CLIENTS[kind]()
    ways[client.name] = (
        lambda source: [client.upload(path, f"own/{path.name}") for path in source.iterdir()],
        lambda target: [
            client.download(key, target / key.rpartition("/")[2]) for key in client.keys("own/")
        ],
    )
    if kind == "s3" and importlib.util.find_spec("s3fs"):
        import s3fs

        files = s3fs.S3FileSystem()
        ways["s3fs"] = (
            lambda source: files.put(f"{source}/", f"{BUCKET}/fs/", recursive=True),
            lambda target: files.get(f"{BUCKET}/fs/", f"{target}/", recursive=True),
        )
    return ways


def by_repository(repository: Any) -> Way:
    return (
        lambda source: repository.log_artifacts(str(source)),
        lambda target: repository.download_artifacts("", dst_path=str(target)),
    )


def _gcs_repository(uri: str) -> Any:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage
    from mlflow.store.artifact.gcs_artifact_repo import GCSArtifactRepository

    return GCSArtifactRepository(uri, client=storage.Client("project", AnonymousCredentials()))


def _s3_repository(uri: str) -> Any:
    from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository

    return S3ArtifactRepository(uri)


def _local_repository(uri: str) -> Any:
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    return LocalArtifactRepository(uri)


MLFLOWS = {"gs": _gcs_repository, "s3": _s3_repository, "folder": _local_repository}


# -- the services' own clients ------------------------------------------------------------------


class Client(Protocol):
    """Moves one object at a time."""

    name: str

    def upload(self, path: Path, key: str) -> object: ...

    def download(self, key: str, path: Path) -> object: ...

    def read(self, key: str) -> bytes: ...

    def keys(self, prefix: str) -> list[str]: ...


class Google:
    name = "google-cloud-storage"

    def __init__(self) -> None:
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        self._bucket = storage.Client("project", AnonymousCredentials()).bucket(BUCKET)

    def upload(self, path: Path, key: str) -> object:
        return self._bucket.blob(key).upload_from_filename(str(path))

    def download(self, key: str, path: Path) -> object:
        return self._bucket.blob(key).download_to_filename(str(path))

    def read(self, key: str) -> bytes:
        return bytes(self._bucket.blob(key).download_as_bytes())

    def keys(self, prefix: str) -> list[str]:
        return [blob.name for blob in self._bucket.list_blobs(prefix=prefix)]


class Boto3:
    name = "boto3"

    def __init__(self) -> None:
        import boto3
        from botocore.config import Config

        self._client = boto3.client("s3", config=Config(max_pool_connections=WORKERS))

    def upload(self, path: Path, key: str) -> object:
        return self._client.upload_file(str(path), BUCKET, key)

    def download(self, key: str, path: Path) -> object:
        return self._client.download_file(BUCKET, key, str(path))

    def read(self, key: str) -> bytes:
        return bytes(self._client.get_object(Bucket=BUCKET, Key=key)["Body"].read())

    def keys(self, prefix: str) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [each["Key"] for page in pages for each in page.get("Contents", [])]


class Copies:
    name = "shutil.copyfile"

    def __init__(self) -> None:
        self._folder = Path(os.environ["KAGGLEOPS_HOME"]).with_name("copies")

    def upload(self, path: Path, key: str) -> object:
        to = self._folder / key
        to.parent.mkdir(parents=True, exist_ok=True)
        return shutil.copyfile(path, to)

    def download(self, key: str, path: Path) -> object:
        return shutil.copyfile(self._folder / key, path)

    def read(self, key: str) -> bytes:
        return (self._folder / key).read_bytes()

    def keys(self, prefix: str) -> list[str]:
        found = (self._folder / prefix).rglob("*")
        return [path.relative_to(self._folder).as_posix() for path in found if path.is_file()]


CLIENTS: dict[str, Callable[[], Client]] = {"gs": Google, "s3": Boto3, "folder": Copies}


def files_of(run_id: str) -> dict[str, bytes]:
    """Return the 62 files that MLflow keeps of a run with 40 params, 13 tags and 8 metrics."""
    from kaggleops.mlruns.entity import dump_yaml

    meta = {
        "artifact_uri": f"gs://{BUCKET}/ours/artifacts/1/{run_id}/artifacts",
        "end_time": 1_700_000_360_000,
        "entry_point_name": "",
        "experiment_id": "1",
        "lifecycle_stage": "active",
        "run_id": run_id,
        "run_name": f"run {run_id[-4:]}",
        "run_uuid": run_id,
        "source_name": "",
        "source_type": 4,
        "source_version": "",
        "start_time": 1_700_000_000_000,
        "status": 3,
        "tags": [],
        "user_id": "ada",
    }
    files = {"meta.yaml": dump_yaml(meta)}
    files |= {f"params/param_{number}": b"0.%d" % number for number in range(40)}
    files |= {f"tags/tag_{number}": b"value %d" % number for number in range(13)}
    for number in range(8):
        points = [f"{1_700_000_000_000 + at} {at / 7 + number} {at}\n" for at in range(50)]
        files[f"metrics/metric_{number}"] = "".join(points).encode()
    return files


if __name__ == "__main__":
    main()
