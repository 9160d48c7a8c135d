"""Bring 1,000 runs into a bucket, and from there to a new server, 30 ms away.

Ours: one object a run, with 16 threads. The peer: one object a file, with 16 workers of the
transfer manager of Google's own client, as the best of the notebooks do that carry `mlruns` to a
bucket. An index takes the runs' content from memory; `kaggleops export` makes files of it.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from common import (
    BUCKET,
    CloudStorage,
    Requests,
    cloud_storage,
    print_caption,
    print_table,
    scratch,
)

RUNS = 1000
PEER_RUNS = 50
WORKERS = 16
LATENCY = 0.030
FILES = 62


@dataclass
class Took:
    """What a transfer took."""

    seconds: float = 0.0
    requests: Requests = field(default_factory=lambda: Requests(0, 0, 0))


def main() -> None:
    with scratch() as folder, cloud_storage(LATENCY) as server:
        ours = through_entities(server, folder)
        peer = through_files(server, folder)
    rows = []
    ways = ("upload", "download into memory", "download onto the disk")
    for way, one, other in zip(ways, ours, peer, strict=True):
        scale = RUNS / PEER_RUNS
        asked, taken = other.requests.all * scale, other.seconds * scale
        rows.append(
            [
                way,
                f"{one.requests.all:,}",
                f"{asked:,.0f}",
                f"{asked / one.requests.all:.0f} x",
                f"{one.seconds:.1f} s",
                f"{taken:.0f} s",
                f"{taken / one.seconds:.0f} x",
            ]
        )
    columns = ["1,000 runs of 62 files", "requests, ours", "one a file", "", "time, ours"]
    print_table("A thousand runs, 30 ms away", [*columns, "one a file", ""], rows)
    print_caption(
        f"{WORKERS} threads each; every request takes {LATENCY * 1000:.0f} ms longer than the "
        f"loopback server needs, which runs in a process of its own. One object a file was "
        f"measured with {PEER_RUNS} runs and multiplied by {RUNS / PEER_RUNS:.0f}. The downloads "
        "include the listing.",
    )


@contextmanager
def measured(server: CloudStorage) -> Iterator[Took]:
    took = Took()
    server.requests()
    begun = time.perf_counter()
    yield took
    took.seconds = time.perf_counter() - begun
    took.requests = server.requests()


def through_entities(server: CloudStorage, folder: Path) -> list[Took]:
    from kaggleops.bucket import open_bucket
    from kaggleops.mlruns import Entity, EntityStore, Poll, run
    from kaggleops.mlruns.export import export

    store = EntityStore(open_bucket(f"gs://{BUCKET}/ours"))
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


def through_files(server: CloudStorage, folder: Path) -> list[Took]:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage
    from google.cloud.storage import transfer_manager

    source = folder / "loose"
    names = []
    for number in range(PEER_RUNS):
        for path, data in files_of(f"{number:032x}").items():
            names.append(f"1/{number:032x}/{path}")
            (source / names[-1]).parent.mkdir(parents=True, exist_ok=True)
            (source / names[-1]).write_bytes(data)
    bucket = storage.Client("project", AnonymousCredentials()).bucket(BUCKET)
    workers = {"worker_type": transfer_manager.THREAD, "max_workers": WORKERS}
    with measured(server) as up:
        transfer_manager.upload_many_from_filenames(
            bucket,
            names,
            source_directory=str(source),
            blob_name_prefix="loose/",
            raise_exception=True,
            **workers,
        )
    with measured(server) as into_memory, ThreadPoolExecutor(WORKERS) as pool:
        blobs = list(bucket.list_blobs(prefix="loose/"))
        contents = list(pool.map(lambda blob: blob.download_as_bytes(), blobs))
    with measured(server) as onto_disk:
        transfer_manager.download_many_to_path(
            bucket,
            [blob.name for blob in bucket.list_blobs(prefix="loose/")],
            destination_directory=str(folder / "peer"),
            raise_exception=True,
            **workers,
        )
    assert len(contents) == len(names) == PEER_RUNS * FILES
    return [up, into_memory, onto_disk]


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
