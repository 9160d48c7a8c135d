"""What the benchmarks share: their table, its caption, and a bucket of each kind."""

import datetime
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the fake services of the tests

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
# Else Google's client asks for buckets' metadata in a thread of its own, and spoils the counts.
os.environ["DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA"] = "true"

from tests.fakes.gcs_server import GcsServer  # noqa: E402
from tests.fakes.object_server import ObjectServer  # noqa: E402
from tests.fakes.s3_server import S3Server  # noqa: E402

BUCKET = "a-bucket"
CLIENTS = ("google-cloud-storage", "boto3")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a Markdown table; the first column is text, the others are figures."""
    print(f"\n**{title}**\n")
    print(f"| {' | '.join(columns)} |")
    print(f"|{'---|' + '---:|' * (len(columns) - 1)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")


def print_caption(*remarks: str) -> None:
    """Print how the tables above were measured: commit, machine, versions, and what to know."""
    command = " ".join((Path(sys.argv[0]).name, *sys.argv[1:]))
    made_by = f"`python benchmarks/{command}`"
    today = datetime.datetime.now(datetime.UTC).date()
    versions = ", ".join(f"{name} {version(name)}" for name in ("mlflow", *CLIENTS))
    print(
        f"\n{made_by}, commit {_commit()}, {today}, {_processor()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {versions}. {' '.join(remarks)}",
        flush=True,
    )


def _commit() -> str:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "src", "benchmarks")
    return (git("rev-parse", "--short=10", "HEAD") or "none") + (" with changes" if changed else "")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def median(values: Sequence[float]) -> float:
    """Return the middle one."""
    return statistics.median(values)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which this share of them lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


# -- a bucket of each kind ----------------------------------------------------------------------


@dataclass(frozen=True)
class Requests:
    """How many requests there were, by price class."""

    class_a: int = 0
    class_b: int = 0
    free: int = 0

    @property
    def all(self) -> int:
        """All of them."""
        return self.class_a + self.class_b + self.free


class _Verbs(ObjectServer):
    """With methods only, as it is used from another process."""

    def begin(self) -> str:
        self.start()
        self.create_bucket(BUCKET)  # type: ignore[attr-defined]
        return self.url

    def taken(self) -> tuple[int, int, int]:
        counts = self.count("A"), self.count("B"), self.count("free")
        self.reset_counts()
        return counts

    def slow_down(self, latency: float) -> None:
        self.latency = latency

    def fill(self, keys: list[str], data: bytes) -> None:
        for key in keys:
            self.put(BUCKET, key, data)  # type: ignore[attr-defined]

    def fill_numbered(self, prefix: str, count: int, size: int) -> None:
        block = os.urandom(1 << 20)
        data = (block * (size // len(block) + 1))[:size]  # need not travel
        self.fill([f"{prefix}/{number:05}.bin" for number in range(count)], data)

    def fill_from(self, folder: str) -> None:
        for path in Path(folder).glob("mlruns/**/*.gz"):
            self.fill([path.relative_to(folder).as_posix()], path.read_bytes())


class _CloudStorage(_Verbs, GcsServer):
    pass


class _S3(_Verbs, S3Server):
    pass


class _Manager(BaseManager):
    """Runs a server where it does not share our interpreter's lock."""


_VERBS = ("begin", "taken", "slow_down", "fill", "fill_numbered", "fill_from", "stop")
_Manager.register("gs", _CloudStorage, exposed=_VERBS)
_Manager.register("s3", _S3, exposed=_VERBS)

KINDS = ("gs", "s3", "folder")
NAMES = {"gs": "Cloud Storage", "s3": "S3", "folder": "a folder"}


class Storage:
    """A loopback service with one bucket, `BUCKET`, in a process of its own.

    Args:
        server: the service.
        address: the bucket's.
    """

    def __init__(self, server: Any, address: str) -> None:
        self._server = server
        self.address = address

    def requests(self) -> Requests:
        """Return what was asked of it since the last call."""
        return Requests(*self._server.taken())

    def slow_down(self, latency: float) -> None:
        """Let each request take so many seconds longer."""
        self._server.slow_down(latency)

    def fill(self, keys: list[str], data: bytes) -> None:
        """Put an object at every key, past all counters."""
        self._server.fill(keys, data)

    def fill_numbered(self, prefix: str, count: int, size: int) -> None:
        """Put so many objects below a prefix, past all counters."""
        self._server.fill_numbered(prefix, count, size)

    def fill_from(self, folder: str) -> None:
        """Put the runs of a bucket that is a folder, past all counters."""
        self._server.fill_from(folder)


class _Folder:
    """A folder in a service's place: nobody counts what is asked of it."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def taken(self) -> tuple[int, int, int]:
        return 0, 0, 0

    def slow_down(self, latency: float) -> None:
        pass

    def put(self, _: str, key: str, data: bytes) -> None:
        path = self._folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    fill, fill_numbered, fill_from = _Verbs.fill, _Verbs.fill_numbered, _Verbs.fill_from


@contextmanager
def storage(kind: str = "gs", latency: float = 0.0) -> Iterator[Storage]:
    """Run a service; every client in this process and its children goes there."""
    if kind == "folder":
        with tempfile.TemporaryDirectory(prefix="kaggleops-bench-") as folder:
            yield Storage(_Folder(folder), f"bucket+file://{folder}")
        return
    with _Manager() as manager:
        server = getattr(manager, kind)(latency)
        url = server.begin()
        own = {
            "gs": {"STORAGE_EMULATOR_HOST": url},
            "s3": {
                "AWS_ENDPOINT_URL": url,
                "AWS_ACCESS_KEY_ID": "anybody",
                "AWS_SECRET_ACCESS_KEY": "anything",
                "AWS_DEFAULT_REGION": "us-east-1",
            },
        }[kind]
        os.environ.update(own)
        address = {"gs": f"gs://{BUCKET}", "s3": f"s3+http://{BUCKET}@{url.partition('://')[2]}"}
        try:
            yield Storage(server, address[kind])
        finally:
            server.stop()
            for name in own:
                del os.environ[name]


def chosen(*groups: Sequence[str]) -> list[Sequence[str]]:
    """Return what the command line names of each group; all of one of which it names nothing."""
    named = sys.argv[1:]
    if unknown := set(named).difference(*groups):
        known = ", ".join(each for group in groups for each in group)
        sys.exit(f"unknown: {', '.join(unknown)}; there are {known}")
    return [[each for each in group if each in named] or group for group in groups]


@contextmanager
def measured(server: Storage) -> Iterator["Took"]:
    """Measure a block."""
    took = Took()
    server.requests()
    begun, used = time.perf_counter(), time.process_time()
    yield took
    took.seconds, took.processor = time.perf_counter() - begun, time.process_time() - used
    took.requests = server.requests()


@dataclass
class Took:
    """What a block took: seconds, those for which it kept a processor busy, requests."""

    seconds: float = 0.0
    processor: float = 0.0
    requests: Requests = Requests()


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for everything, where working copies lie too; removed in the end."""
    with tempfile.TemporaryDirectory(prefix="kaggleops-bench-") as folder:
        os.environ["KAGGLEOPS_HOME"] = f"{folder}/home"
        yield Path(folder)
