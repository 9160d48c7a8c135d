"""What the benchmarks share: their table, its caption, and a Cloud Storage in another process."""

import datetime
import os
import platform
import statistics
import subprocess
import sys
import tempfile
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
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
# Else Google's client asks for buckets' metadata in a thread of its own, and spoils the counts.
os.environ["DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA"] = "true"

from tests.fakes.gcs_server import GcsServer  # noqa: E402

BUCKET = "a-bucket"


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a Markdown table; the first column is text, the others are figures."""
    print(f"\n**{title}**\n")
    print(f"| {' | '.join(columns)} |")
    print(f"|{'---|' + '---:|' * (len(columns) - 1)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")


def print_caption(*remarks: str) -> None:
    """Print how the tables above were measured: commit, machine, versions, and what to know."""
    made_by = f"`python benchmarks/{Path(sys.argv[0]).name}`"
    today = datetime.datetime.now(datetime.UTC).date()
    versions = ", ".join(f"{name} {version(name)}" for name in ("mlflow", "google-cloud-storage"))
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


# -- a Cloud Storage in another process --------------------------------------------------------


@dataclass(frozen=True)
class Requests:
    """How many requests there were, by price class."""

    class_a: int
    class_b: int
    free: int

    @property
    def all(self) -> int:
        """All of them."""
        return self.class_a + self.class_b + self.free


class _Server(GcsServer):
    """With methods only, as it is used from another process."""

    def begin(self) -> str:
        self.start()
        self.create_bucket(BUCKET)
        return self.url

    def taken(self) -> tuple[int, int, int]:
        counts = self.count("A"), self.count("B"), self.count("free")
        self.reset_counts()
        return counts

    def slow_down(self, latency: float) -> None:
        self.latency = latency

    def fill(self, keys: list[str], data: bytes) -> None:
        for key in keys:
            self.put(BUCKET, key, data)

    def fill_from(self, folder: str) -> None:
        for path in Path(folder).glob("mlruns/**/*.gz"):
            self.put(BUCKET, path.relative_to(folder).as_posix(), path.read_bytes())


class _Manager(BaseManager):
    """Runs the server where it does not share our interpreter's lock."""


_VERBS = ("begin", "taken", "slow_down", "fill", "fill_from", "stop")
_Manager.register("server", _Server, exposed=_VERBS)


class CloudStorage:
    """A loopback Cloud Storage with one bucket, `BUCKET`, in a process of its own."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def requests(self) -> Requests:
        """Return what was asked of it since the last call."""
        return Requests(*self._server.taken())

    def slow_down(self, latency: float) -> None:
        """Let each request take so many seconds longer."""
        self._server.slow_down(latency)

    def fill(self, keys: list[str], data: bytes) -> None:
        """Put an object at every key, past all counters."""
        self._server.fill(keys, data)

    def fill_from(self, folder: str) -> None:
        """Put the runs of a bucket that is a folder, past all counters."""
        self._server.fill_from(folder)


@contextmanager
def cloud_storage(latency: float = 0.0) -> Iterator[CloudStorage]:
    """Run one; every client in this process and its children goes there."""
    with _Manager() as manager:
        server = manager.server(latency)  # type: ignore[attr-defined]
        os.environ["STORAGE_EMULATOR_HOST"] = server.begin()
        try:
            yield CloudStorage(server)
        finally:
            server.stop()
            del os.environ["STORAGE_EMULATOR_HOST"]


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for everything, where working copies lie too; removed in the end."""
    with tempfile.TemporaryDirectory(prefix="kaggleops-bench-") as folder:
        os.environ["KAGGLEOPS_HOME"] = f"{folder}/home"
        yield Path(folder)
