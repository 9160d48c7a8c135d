"""Servers over the same runs, started with all that they need, and what they take."""

import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import generated

PAGE = 100
PATIENCE = 3600.0  # seconds for one answer: the file store takes its time


MOST_OBJECTS = 20_000
"""Runs up to which the bucket holds them all; of more, only the index does."""


class Made:
    """The bucket, and what the peers need: made once."""

    def __init__(self, kept: Path, folder: Path, runs: int) -> None:
        self.runs = runs
        self.folder = folder
        self.bucket = kept / f"bucket-{runs}"
        self.unpacked = kept / f"unpacked-{runs}"
        self.migrated = kept / f"migrated-{runs}.db"
        self.index = kept / f"index-{runs}.db"
        self.took = kept / f"took-{runs}.json"
        self.has_objects = runs <= MOST_OBJECTS
        if not self.has_objects and not self.index.exists():
            generated.make_index(runs, self.index, self.bucket)
        if not self.bucket.exists():
            for key, data in generated.objects(runs, f"{self.bucket.as_uri()}/artifacts"):
                path = self.bucket / key
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)

    def seconds(self, what: str, make: Callable[[], object]) -> tuple[float, float]:
        """Make it, unless it is made; return the time that took, and the processors' time."""
        took = json.loads(self.took.read_text()) if self.took.exists() else {}
        if what not in took:
            begun, used = time.perf_counter(), processors()
            make()
            took[what] = time.perf_counter() - begun, processors() - used
            self.took.write_text(json.dumps(took))
        return tuple(took[what])

    def unpack(self) -> tuple[float, float]:
        return self.seconds(
            "unpacked",
            lambda: run("-m", "kaggleops", "export", "--bucket", self.bucket, self.unpacked),
        )

    def migrate(self) -> tuple[float, float]:
        self.unpack()
        url = f"sqlite:///{self.migrated}"
        command = ["mlflow", "migrate-filestore", "--source", self.unpacked, "--target", url]
        return self.seconds("migrated", lambda: run("-m", *command))

    def import_(self) -> tuple[float, float]:
        if not self.has_objects:
            return 0.0, 0.0

        def refresh() -> None:
            run("-c", _IMPORT, self.bucket, f"sqlite:///{self.index}")

        return self.seconds("indexed", refresh)


_IMPORT = """
import sys
from kaggleops.bucket import open_bucket
from kaggleops.index.refresh import Index
from kaggleops.mlruns import EntityStore
Index(sys.argv[2], EntityStore(open_bucket(sys.argv[1]))).refresh()
"""


def run(*arguments: object) -> None:
    subprocess.run([sys.executable, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


# -- servers -----------------------------------------------------------------------------------


class Server:
    """A server that was started, with everything that it has started."""

    def __init__(self, process: "subprocess.Popen[bytes]", url: str) -> None:
        self.process = process
        self.url = url

    def search(self, **asked: Any) -> list[Any]:
        body = {"experiment_ids": [generated.HOME], "max_results": PAGE, **asked}
        request = urllib.request.Request(
            f"{self.url}/ajax-api/2.0/mlflow/runs/search",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return json.load(response).get("runs", [])

    def is_complete(self) -> bool:
        """Return whether all of the bucket is in the index of ours."""
        with contextlib.suppress(urllib.error.HTTPError):  # 503 until then
            urllib.request.urlopen(f"{self.url}/kaggleops/health.json", timeout=PATIENCE).close()
            return True
        return False

    def memory(self) -> int:
        """Return what all of its processes take together, in bytes; what they share, once."""
        children: dict[int, list[int]] = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                parent = int(path.read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(path.parent.name))
        total, waiting = 0, [self.process.pid]
        while waiting:
            each = waiting.pop()
            waiting += children.get(each, [])
            with contextlib.suppress(OSError):
                total += proportional(each)
        return total


def proportional(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


# As on anybody's machine, where what is imported a second time is not compiled again.
_ENVIRONMENT = {**os.environ, "MLFLOW_ALLOW_FILE_STORE": "true"}
_ENVIRONMENT.pop("PYTHONDONTWRITEBYTECODE", None)


@contextmanager
def served(made: Made, *arguments: object, cgroup: Path | None = None) -> Iterator[Server]:
    """Run a server until the first page is there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def enter() -> None:
        if cgroup:
            (cgroup / "cgroup.procs").write_text(str(os.getpid()))

    log = (made.folder / f"server-{port}.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments), "--port", str(port)],
        stdout=log,
        stderr=log,
        preexec_fn=enter,
        env=_ENVIRONMENT,
    )
    server = Server(process, f"http://127.0.0.1:{port}")
    try:
        while process.poll() is None:
            with contextlib.suppress(OSError):
                if len(server.search()) == PAGE:
                    break
            time.sleep(0.05)
        else:
            raise RuntimeError(Path(log.name).read_text()[-2000:])
        yield server
    finally:
        process.terminate()
        process.wait()
        log.close()


def ours(made: Made, index: Path, **options: Any) -> Any:
    url = f"sqlite:///{index}"
    return served(made, "kaggleops", "serve", "--bucket", made.bucket, "--index", url, **options)


def theirs(made: Made, store: object) -> Any:
    return served(made, "mlflow", "server", "--backend-store-uri", store)


def processors() -> float:
    """Return the seconds for which processes that were started, and have ended, kept one busy."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
