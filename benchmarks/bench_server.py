"""`kaggleops serve` over a bucket of many runs: from an empty disk to the first page, its searches
and its memory, beside MLflow's own servers over the same runs.

    python benchmarks/bench_server.py                        1,000 runs, some ten minutes
    python benchmarks/bench_server.py 10000 --keep FOLDER    an hour; what was made for it is kept

Peers: MLflow's server over its file store (the bucket unpacked), and over SQLite (migrated from
that by `mlflow migrate-filestore`). Each run has 40 params, 12 tags and 8 metrics of 50 points.
"""

import argparse
import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import generated
from common import median, percentile, print_caption, print_table, scratch

SOME_METRIC = "metrics.`metric_3`"
PAGE = 100
LIMIT = 1 << 30
ARTIFACT = 200 << 20
CGROUPS = Path("/sys/fs/cgroup/memory")
PATIENCE = 3600.0  # seconds for one answer: the file store takes its time

Search = Mapping[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", type=int, nargs="?", default=1000)
    parser.add_argument("--keep", type=Path, help="where to keep the bucket and the peers' stores")
    parser.add_argument("--only", choices=["cold", "change", "search", "memory", "limit"])
    options = parser.parse_args()
    with scratch() as folder:
        made = Made(options.keep or folder, folder, options.runs)
        for name, measure in {
            "cold": cold_start,
            "change": one_change,
            "search": searches,
            "memory": memory,
            "limit": under_a_limit,
        }.items():
            if options.only in (None, name):
                measure(made)
        print_caption(f"{options.runs:,} runs of 40 params, 12 tags and 8 metrics of 50 points.")


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
        return self.seconds("unpacked", lambda: kaggleops("pull", "--unpack", self.unpacked, self))

    def migrate(self) -> tuple[float, float]:
        self.unpack()
        url = f"sqlite:///{self.migrated}"
        command = ["mlflow", "migrate-filestore", "--source", self.unpacked, "--target", url]
        return self.seconds("migrated", lambda: run("-m", *command))

    def import_(self) -> tuple[float, float]:
        def refresh() -> None:
            run("-c", _IMPORT, self.bucket, f"sqlite:///{self.index}")

        return self.seconds("indexed", refresh)


_IMPORT = """
import sys
from kaggleops.bucket import open_bucket
from kaggleops.index import Index
from kaggleops.mlruns import EntityStore
Index(sys.argv[2], EntityStore(open_bucket(sys.argv[1]))).refresh()
"""


def kaggleops(command: str, option: str, value: Path, made: Made) -> None:
    run("-m", "kaggleops", command, "--bucket", made.bucket, option, value)


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
        env={**os.environ, "MLFLOW_ALLOW_FILE_STORE": "true"},
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


# -- what is measured --------------------------------------------------------------------------


def cold_start(made: Made) -> None:
    begun = time.perf_counter()
    with ours(made, made.folder / "cold.db"):
        cold = time.perf_counter() - begun
    unpacked, migrated = made.unpack()[0], made.migrate()[0]
    begun = time.perf_counter()
    with theirs(made, made.unpacked):
        from_files = unpacked + time.perf_counter() - begun
    begun = time.perf_counter()
    with theirs(made, f"sqlite:///{made.migrated}"):
        from_sql = unpacked + migrated + time.perf_counter() - begun
    rows = [
        ["`kaggleops serve`", f"{cold:.1f} s", ""],
        ["sync to files, `mlflow server`", f"{from_files:.1f} s", times(from_files, cold)],
        ["sync, migration, `mlflow server`", f"{from_sql:.1f} s", times(from_sql, cold)],
    ]
    print_table("From an empty disk to the first page", ["", "time", ""], rows)
    compared = zip(("time", "processors' time"), made.import_(), made.migrate(), strict=True)
    rows = [[name, f"{a:.1f} s", f"{b:.1f} s", times(b, a)] for name, a, b in compared]
    columns = ["", "ours", "`mlflow migrate-filestore`", ""]
    print_table("The import alone, into an empty database", columns, rows)


def one_change(made: Made) -> None:
    from kaggleops.bucket import open_bucket
    from kaggleops.index import Index
    from kaggleops.mlruns import ChangeLog, Entity, EntityStore, run

    made.import_()
    bucket = open_bucket(str(made.bucket))
    writer = EntityStore(bucket, ChangeLog(bucket))
    index = Index(f"sqlite:///{made.index}", EntityStore(bucket))
    index.refresh()
    took = []
    with theirs(made, f"sqlite:///{made.index}") as server:
        for number in range(20):
            files = generated.files_of(number, writer.artifact_root)
            files["tags/new"] = b"%d %d" % (number, time.time_ns())
            writer.merge_in(Entity(run(generated.HOME, generated.run_id(number)), files))
            begun = time.perf_counter()
            index.refresh()
            wanted = files["tags/new"].decode()
            assert len(server.search(filter=f"tags.new = '{wanted}'")) == 1
            took.append(time.perf_counter() - begun)
    index.close()
    rows = [[f"{median(took):.2f} s", f"{max(took):.2f} s", f"{made.migrate()[0]:.0f} s"]]
    columns = ["median of 20", "longest", "peer: `mlflow migrate-filestore`, all anew"]
    print_table("One changed run, from the poll until REST finds it", columns, rows)


def kinds(made: Made) -> dict[str, Search]:
    from mlflow.utils.search_utils import SearchUtils

    newest = {"order_by": ["attributes.start_time DESC"]}
    page = min(50, made.runs // PAGE // 2)
    token = SearchUtils.create_page_token((page - 1) * PAGE).decode()
    return {
        "first page": newest,
        "sorted by a metric": {"order_by": [f"{SOME_METRIC} DESC"]},
        "filtered by a tag": {"filter": "tags.backend = 'kaggle'", **newest},
        "filtered by a metric": {"filter": f"{SOME_METRIC} > 0.5", **newest},
        f"page {page}": {"page_token": token, **newest},
    }


def searches(made: Made) -> None:
    made.import_()
    made.migrate()
    peers = {
        "ours": (lambda: ours(made, made.index), 30),
        "SQLite, migrated": (lambda: theirs(made, f"sqlite:///{made.migrated}"), 10),
        "file store": (lambda: theirs(made, made.unpacked), 2),
    }
    figures: dict[str, list[float]] = {}
    for start, times_asked in peers.values():
        with start() as server:
            for name, asked in kinds(made).items():
                server.search(**asked)
                took = [seconds(partial(server.search, **asked)) for _ in range(times_asked)]
                figures.setdefault(name, []).extend((median(took), percentile(took, 0.95)))
    rows = [
        [name, *(f"{1000 * each:,.0f}" for each in found), times(found[3], found[1])]
        for name, found in figures.items()
    ]
    columns = ["ms", *(f"{name}: {which}" for name in peers for which in ("p50", "p95"))]
    print_table("The UI's searches over REST, 100 runs a page", [*columns, "p95, SQLite"], rows)


def memory(made: Made) -> None:
    made.import_()
    made.migrate()
    peers = {
        "`kaggleops serve`": lambda: ours(made, made.index),
        "`mlflow server`, as it comes": lambda: theirs(made, f"sqlite:///{made.migrated}"),
    }
    rows = []
    for name, start in peers.items():
        with start() as server:
            idle = server.memory()
            ask_all(server, [kinds(made)["first page"]] * 1000)
            rows.append([name, megabytes(idle), megabytes(server.memory())])
    columns = ["all processes together (PSS)", "idle", "after 1,000 first pages, 4 at a time"]
    print_table("Memory", columns, rows)


def under_a_limit(made: Made) -> None:
    try:
        group = CGROUPS / f"bench-{os.getpid()}"
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(LIMIT))
    except OSError as error:
        print(f"\nNot measured under a memory limit: {error}.")
        return
    run_id = generated.run_id(0)
    artifact = made.bucket / "artifacts" / generated.HOME / run_id / "artifacts" / "large.bin"
    artifact.parent.mkdir(parents=True, exist_ok=True)
    with artifact.open("wb") as file:
        file.truncate(ARTIFACT)
    try:
        with ours(made, made.folder / "limited.db", cgroup=group) as server:
            download = f"{server.url}/get-artifact?path=large.bin&run_uuid={run_id}"
            with ThreadPoolExecutor(1) as pool:
                opened = pool.submit(lambda: [length(download) for _ in range(3)])
                asked = list(kinds(made).values()) * 20
                failed = ask_all(server, asked)
                assert opened.result() == [ARTIFACT] * 3
            alive = server.process.poll() is None and len(server.search()) == PAGE
            rss = int(stat(group)["total_rss"])
        peak = int((group / "memory.max_usage_in_bytes").read_text())
    finally:
        artifact.unlink()
        with contextlib.suppress(OSError):
            group.rmdir()
    row = [len(asked), failed, "yes" if alive else "no", megabytes(rss), megabytes(peak)]
    columns = ["searches", "failed", "alive", "memory at the end", "most, with the page cache"]
    print_table("From an empty disk under a limit of 1 GB", columns, [row])


def ask_all(server: Server, asked: Sequence[Search]) -> int:
    """Ask four at a time; return how many failed."""

    def ask(search: Search) -> bool:
        try:
            return len(server.search(**search)) == PAGE
        except OSError:
            return False

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(ask, asked)).count(False)


def length(url: str) -> int:
    total = 0
    with urllib.request.urlopen(url, timeout=PATIENCE) as response:
        while piece := response.read(1 << 20):
            total += len(piece)
    return total


def stat(group: Path) -> dict[str, str]:
    lines = (group / "memory.stat").read_text().splitlines()
    return dict(line.split() for line in lines)


def seconds(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def processors() -> float:
    """Return the seconds for which processes that were started, and have ended, kept one busy."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def times(peer: float, ours: float) -> str:
    return f"{peer / ours:.1f} x"


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


if __name__ == "__main__":
    main()
