"""`kaggleops serve` over a bucket of many runs: its start from an empty disk, its start again, its
searches and its memory; with `--peers`, beside MLflow's own servers over the same runs.

    python benchmarks/bench_server.py 10000 --peers             all tables
    python benchmarks/bench_server.py 10000 cold restart        some of them
    python benchmarks/bench_server.py 100000 search memory limit change

`--keep FOLDER` keeps what is made for it: a bucket `bucket-10000`, the index and the peers' stores.
Peers: MLflow's server over its file store (the bucket unpacked), and over SQLite (migrated from
that by `mlflow migrate-filestore`). Each run has 40 params, 12 tags and 8 metrics of 50 points. Of
more than 20,000 runs only the index is made, from rows: their objects would take an hour.
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
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {' '.join(PARTS)}")
    parser.add_argument("--peers", action="store_true", help="measure MLflow's servers, too")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(unknown)}")
    with scratch() as folder:
        made = Made(options.keep or folder, folder, options.runs)
        for name in options.parts or PARTS:
            PARTS[name](made, options.peers)
        print_caption(f"{options.runs:,} runs of 40 params, 12 tags and 8 metrics of 50 points.")


# -- what is measured --------------------------------------------------------------------------


def cold_start(made: Made, peers: bool) -> None:
    if not made.has_objects:
        print("\nNot measured from an empty disk: there is an index only.")
        return
    begun = time.perf_counter()
    with ours(made, made.folder / "cold.db") as server:
        cold = time.perf_counter() - begun
        while not server.is_complete():
            time.sleep(0.2)
        complete = time.perf_counter() - begun
    rows = [["`kaggleops serve`", f"{cold:.1f} s", "", f"{complete:.1f} s"]]
    if peers:
        unpacked, migrated = made.unpack()[0], made.migrate()[0]
        begun = time.perf_counter()
        with theirs(made, made.unpacked):
            from_files = unpacked + time.perf_counter() - begun
        begun = time.perf_counter()
        with theirs(made, f"sqlite:///{made.migrated}"):
            from_sql = unpacked + migrated + time.perf_counter() - begun
        rows += [
            ["sync to files, `mlflow server`", f"{from_files:.1f} s", times(from_files, cold), ""],
            ["sync, migration, `mlflow server`", f"{from_sql:.1f} s", times(from_sql, cold), ""],
        ]
    columns = ["", "time", "", "all runs are in"]
    print_table("From an empty disk to the first page", columns, rows)


def restart(made: Made, peers: bool) -> None:
    made.import_()
    servers = {"`kaggleops serve`": lambda: ours(made, made.index)}
    if peers:
        made.migrate()
        servers["`mlflow server`"] = lambda: theirs(made, f"sqlite:///{made.migrated}")
    rows = []
    for name, start in servers.items():
        took = []
        for _ in range(5):
            begun = time.perf_counter()
            with start():
                took.append(time.perf_counter() - begun)
        rows.append([name, f"{median(took):.1f} s", f"{max(took):.1f} s"])
    columns = ["", "median of 5", "longest"]
    print_table("Started again, to the first page", columns, rows)


def import_alone(made: Made, peers: bool) -> None:
    columns, names = ["", "ours"], ("time", "processors' time")
    rows = [[name, f"{each:.1f} s"] for name, each in zip(names, made.import_(), strict=True)]
    if peers:
        columns += ["`mlflow migrate-filestore`", ""]
        for row, mine, other in zip(rows, made.import_(), made.migrate(), strict=True):
            row += [f"{other:.1f} s", times(other, mine)]
    print_table("The import alone, into an empty database", columns, rows)
    print(f"\nThe index: {megabytes(made.index.stat().st_size)}.")


def one_change(made: Made, peers: bool) -> None:
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
    rows = [[f"{median(took):.2f} s", f"{max(took):.2f} s"]]
    columns = ["median of 20", "longest"]
    if peers:
        rows[0].append(f"{made.migrate()[0]:.0f} s")
        columns.append("peer: `mlflow migrate-filestore`, all anew")
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


def searches(made: Made, peers: bool) -> None:
    made.import_()
    servers = {
        "ours": (lambda: ours(made, made.index), 30),
    }
    if peers:
        made.migrate()
        servers |= {
            "SQLite, migrated": (lambda: theirs(made, f"sqlite:///{made.migrated}"), 10),
            "file store": (lambda: theirs(made, made.unpacked), 2),
        }
    figures: dict[str, list[float]] = {}
    for start, times_asked in servers.values():
        with start() as server:
            for name, asked in kinds(made).items():
                server.search(**asked)
                took = [seconds(partial(server.search, **asked)) for _ in range(times_asked)]
                figures.setdefault(name, []).extend((median(took), percentile(took, 0.95)))
    rows = [
        [name, *(f"{1000 * each:,.0f}" for each in found)]
        + ([times(found[3], found[1])] if peers else [])
        for name, found in figures.items()
    ]
    columns = ["ms", *(f"{name}: {which}" for name in servers for which in ("p50", "p95"))]
    columns += ["p95, SQLite"] if peers else []
    print_table("The UI's searches over REST, 100 runs a page", columns, rows)


def memory(made: Made, peers: bool) -> None:
    made.import_()
    servers = {"`kaggleops serve`": lambda: ours(made, made.index)}
    if peers:
        made.migrate()
        command = "`mlflow server`, as it comes"
        servers[command] = lambda: theirs(made, f"sqlite:///{made.migrated}")
    rows = []
    for name, start in servers.items():
        with start() as server:
            idle = server.memory()
            ask_all(server, [kinds(made)["first page"]] * 1000)
            rows.append([name, megabytes(idle), megabytes(server.memory())])
    columns = ["all processes together (PSS)", "idle", "after 1,000 first pages, 4 at a time"]
    print_table("Memory", columns, rows)


def under_a_limit(made: Made, peers: bool) -> None:
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
        index = made.folder / "limited.db" if made.has_objects else made.index
        with ours(made, index, cgroup=group) as server:
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
    begun = "From an empty disk" if made.has_objects else "Started again"
    print_table(f"{begun} under a limit of 1 GB", columns, [row])


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


PARTS = {
    "cold": cold_start,
    "restart": restart,
    "import": import_alone,
    "change": one_change,
    "search": searches,
    "memory": memory,
    "limit": under_a_limit,
}


if __name__ == "__main__":
    main()
