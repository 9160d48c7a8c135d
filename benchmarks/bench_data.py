"""Fetch 2,000 small files and one of 2 GB from a bucket 30 ms away, and once more unchanged.

    python benchmarks/bench_data.py [gs] [s3] [small] [large]

Ours: `kaggleops data fetch`, which verifies every file's checksum before it gets its name. The
peers: gcsfs, and `gcloud storage cp` where Google's SDK is installed; of S3, s3fs where it is
installed, and boto3. Each is a process of its own, its start included, and writes into an empty
folder.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from common import (
    BUCKET,
    NAMES,
    Storage,
    chosen,
    print_caption,
    print_table,
    scratch,
    storage,
)

LATENCY = 0.030
SMALL, SMALL_SIZE = 2000, 10_000
LARGE_SIZE = 2_000_000_000
TRIED = 3  # files, to see which peers work


@dataclass(frozen=True)
class Took:
    """What a command took; its requests are those that arrived."""

    seconds: float
    processor: float
    requests: int
    memory: int

    @property
    def cells(self) -> list[str]:
        """Return it for a table."""
        times = [f"{self.seconds:.1f} s", f"{self.processor:.1f} s"]
        return [*times, f"{self.requests:,}", f"{self.memory >> 20} MB"]


Peer = Callable[[str, Path], list[str]]
"""Returns the command that copies the objects below a prefix into a folder."""

MANIFEST = """\
data:
  source: {source}
  destination: data
"""


def main() -> None:
    kinds, sizes = chosen(("gs", "s3"), ("small", "large"))
    titles = {"small": f"{SMALL:,} files of {SMALL_SIZE // 1000} kB", "large": "One file of 2 GB"}
    tables: dict[str, list[list[str]]] = {size: [] for size in sizes}
    for kind in kinds:
        with scratch() as folder, storage(kind) as server:
            for size, rows in tables.items():
                rows += rows_of(kind, size, folder, server)
    columns = ["", "time", "processor", "requests", "memory", "again: time", "requests"]
    for size, rows in tables.items():
        print_table(titles[size], columns, rows)
    print_caption(
        "Every request takes 30 ms longer than the loopback server needs, which runs in a process "
        "of its own on the same cores. Each command is a process of its own, its start included: "
        "processor is the time for which it kept one busy, memory is the most that one process of "
        "it had. gsutil cannot be led to a server without TLS.",
    )


def rows_of(kind: str, size: str, folder: Path, server: Storage) -> list[list[str]]:
    server.slow_down(0)
    server.fill_numbered(size, *((SMALL, SMALL_SIZE) if size == "small" else (1, LARGE_SIZE)))
    server.fill_numbered("try", TRIED, SMALL_SIZE)
    server.slow_down(LATENCY)

    def asked() -> int:
        return server.requests().all

    project = folder / size
    (project / "config/data").mkdir(parents=True)
    manifest = MANIFEST.format(source=f"{server.address}/{size}")
    (project / "config/data/resources.yaml").write_text(manifest)
    ours = [sys.executable, "-m", "kaggleops", "data"]
    run([*ours, "lock"], project, asked)
    first, second = (run([*ours, "fetch"], project, asked) for _ in range(2))
    check(project / "data", size)
    shutil.rmtree(project / "data")
    again = [f"{second.seconds:.1f} s", f"{second.requests:,}"]
    rows = [[f"{NAMES[kind]}: `kaggleops data fetch`", *first.cells, *again]]
    for name, command in usable(kind, folder).items():
        target = folder / f"{size}-{name.strip('`').split()[0]}"
        target.mkdir()
        copy = command(size, target)
        first, second = (run(copy, target, asked, environment(folder)) for _ in "12")
        check(target, size)
        shutil.rmtree(target)
        again = [f"{second.seconds:.1f} s", f"{second.requests:,}"]
        rows.append([f"{NAMES[kind]}: {name}", *first.cells, *again])
    return rows


def run(
    command: list[str], cwd: Path, asked: Callable[[], int], more: Mapping[str, str] | None = None
) -> Took:
    """Run a command and measure it.

    Raises:
        RuntimeError: it failed.
    """
    asked()
    begun = time.perf_counter()
    with (cwd.parent / "log").open("w+b") as log:
        process = subprocess.Popen(
            command, cwd=cwd, env={**os.environ, **(more or {})}, stdout=log, stderr=log
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - begun
        if process.returncode:
            log.seek(0)
            raise RuntimeError(log.read().decode(errors="replace")[-2000:])
    took = Took(seconds, used.ru_utime + used.ru_stime, asked(), used.ru_maxrss << 10)
    print(" ".join(command)[:60], *took.cells, file=sys.stderr, flush=True)
    return took


def check(folder: Path, prefix: str) -> None:
    """Make sure that a command brought everything."""
    files = [path for path in folder.rglob("*.bin") if path.is_file()]
    count, size = (SMALL, SMALL_SIZE) if prefix == "small" else (1, LARGE_SIZE)
    assert [path.stat().st_size for path in files] == [size] * count, (folder, len(files))


# -- peers -------------------------------------------------------------------------------------

_GCSFS = """
import sys, gcsfs
gcsfs.GCSFileSystem(token="anon").get(sys.argv[1] + "/", sys.argv[2], recursive=True)
"""
_S3FS = """
import sys, s3fs
s3fs.S3FileSystem().get(sys.argv[1] + "/", sys.argv[2], recursive=True)
"""
_BOTO3 = """
import sys, boto3
from concurrent.futures import ThreadPoolExecutor
from botocore.config import Config
client = boto3.client("s3", config=Config(max_pool_connections=16))
bucket, _, prefix = sys.argv[1].removeprefix("s3://").partition("/")
pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix + "/")
keys = [each["Key"] for page in pages for each in page["Contents"]]
with ThreadPoolExecutor(16) as pool:
    def fetch(key):
        client.download_file(bucket, key, sys.argv[2] + "/" + key.rpartition("/")[2])
    list(pool.map(fetch, keys))
"""


def environment(folder: Path) -> dict[str, str]:
    """Return what leads Google's command-line tools to the loopback server, without credentials."""
    url = os.environ.get("STORAGE_EMULATOR_HOST", "")
    return {
        "CLOUDSDK_CONFIG": str(folder / "gcloud"),
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": f"{url}/storage/v1/",
        "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "true",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
        "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true",
    }


def usable(kind: str, folder: Path) -> dict[str, Peer]:
    """Return the peers that work on this machine."""

    def python(script: str) -> Peer:
        return lambda prefix, to: [
            *(sys.executable, "-c", script, f"{kind}://{BUCKET}/{prefix}", str(to))
        ]

    def gcloud(prefix: str, to: Path) -> list[str]:
        copy = ("gcloud", "storage", "cp", "--recursive", "--no-clobber")
        return [*copy, f"gs://{BUCKET}/{prefix}/*", str(to)]

    # gsutil is none of them: it speaks https only.
    peers: dict[str, dict[str, Peer]] = {
        "gs": {"`gcsfs` `get`": python(_GCSFS), "`gcloud storage cp`": gcloud},
        "s3": {"`s3fs` `get`": python(_S3FS), "`boto3`, 16 threads": python(_BOTO3)},
    }
    return {name: peer for name, peer in peers[kind].items() if _works(name, peer, folder)}


def _works(name: str, peer: Peer, folder: Path) -> bool:
    target = folder / "try"
    target.mkdir()
    command = peer("try", target)
    if shutil.which(command[0]) is None:
        shutil.rmtree(target)
        return False
    environ = {**os.environ, **environment(folder)}
    done = subprocess.run(command, env=environ, capture_output=True, timeout=600)
    arrived = len(list(target.rglob("*.bin")))
    shutil.rmtree(target)
    if done.returncode or arrived != TRIED:
        print(f"{name} does not run here: {done.stderr.decode()[-300:]}", file=sys.stderr)
        return False
    return True


if __name__ == "__main__":
    main()
