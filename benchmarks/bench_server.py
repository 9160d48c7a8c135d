"""`kaggleops serve` over a bucket of many runs: from an empty disk to the first page, its searches
and its memory, beside MLflow's own servers over the same runs.

    python benchmarks/bench_server.py                        1,000 runs
    python benchmarks/bench_server.py 10000 --keep FOLDER    keeps what is made for it

Peers: MLflow's server over its file store (the bucket unpacked), and over SQLite (migrated from
that by `mlflow migrate-filestore`). Each run has 40 params, 12 tags and 8 metrics of 50 points.
"""

import argparse
import contextlib
import os
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import generated
from common import median, percentile, print_caption, print_table, scratch
from servers import PAGE, PATIENCE, Made, Server, ours, theirs

SOME_METRIC = "metrics.`metric_3`"
LIMIT = 1 << 30
ARTIFACT = 200 << 20
CGROUPS = Path("/sys/fs/cgroup/memory")

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
    from kaggleops.index.refresh import Index
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
    page = min(50, max(2, made.runs // PAGE // 2))
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
            return bool(server.search(**search))
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


def times(peer: float, ours: float) -> str:
    return f"{peer / ours:.1f} x"


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


if __name__ == "__main__":
    main()
