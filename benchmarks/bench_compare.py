"""What `leaderboard`, `compare`, `reproduce` and `status` take from the start of the process.

    python benchmarks/bench_compare.py                             1,000 runs
    python benchmarks/bench_compare.py 10000 --keep FOLDER         keeps what is made for it
    python benchmarks/bench_compare.py 10000 --only cold           one part: warm, cold or peers
    python benchmarks/bench_compare.py 10000 --only warm --row status

`warm` has an index of the bucket, a folder; `status` asks the bucket all the same what is new.
`cold` is a machine that has nothing, 30 ms from Cloud Storage, where another one has made an index
before. The peer is what people would do otherwise: `mlflow.search_runs` for the same experiment,
in a process of its own, over REST (from `kaggleops serve`) and over the file store.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import generated
from bench_server import Made, ours
from common import BUCKET, Storage, median, print_caption, print_table, scratch, storage

TIMES = 5
LATENCY = 0.030  # seconds
LIVE = 5  # runs

_PEER = """
import mlflow
runs = mlflow.search_runs([{home!r}], max_results=50_000)
by_commit = runs.groupby("tags.git_commit")["metrics.metric_3"].agg(["mean", "std", "max"])
print(by_commit.sort_values("mean").tail(20))
"""


class Took(NamedTuple):
    """What a process took: seconds, the processors' seconds, and bytes of memory at its peak."""

    seconds: float
    busy: float
    memory: int


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", type=int, nargs="?", default=1000)
    parser.add_argument("--keep", type=Path, help="where to keep the bucket and the peers' stores")
    parser.add_argument("--only", choices=["warm", "cold", "peers"])
    parser.add_argument("--row", default="", help="only rows whose name begins so")
    options = parser.parse_args()
    with scratch() as folder:
        made = Made(options.keep or folder, folder, options.runs)
        for part in (warm, cold, peers):
            if options.only in (None, part.__name__):
                part(made, options.row)
        print_caption(f"{options.runs:,} runs of 40 params, 12 tags and 8 metrics of 50 points.")


def commands(runs: int) -> dict[str, list[str]]:
    first, last = (f"{number:010x}" + "0" * 30 for number in (0, runs // 20 - 1))
    run_ids = generated.run_id(0), generated.run_id(1)
    return {
        "leaderboard": ["leaderboard", "--metric", "metric_3"],
        "compare, two runs": ["compare", *run_ids],
        "compare, two commits": ["compare", first, last],
        "reproduce, a run": ["reproduce", run_ids[0]],
        "status": ["status"],
    }


def warm(made: Made, chosen: str) -> None:
    made.import_()
    announce(str(made.bucket), 0)
    here = {"KAGGLEOPS_INDEX": f"sqlite:///{made.index}", "KAGGLEOPS_HOME": str(made.folder)}
    every = {
        **commands(made.runs),
        "status, all of them": ["status", "--since", "99999d", "--json"],
    }
    ask(every["status"], made.bucket, here)
    rows = []
    for name, command in every.items():
        if name.startswith(chosen):
            took = []
            for _ in range(TIMES):
                for marker in (made.folder / "serve").glob("*/fresh-*"):
                    marker.touch()  # as it is while a server refreshes it
                took.append(ask(command, made.bucket, here))
            rows.append([f"`kaggleops {name}`", *shown(took)])
    title = f"With an index at hand, {made.runs:,} runs: from the process's start to the answer"
    print_table(title, ["", "s", "processor", "memory"], rows)


def cold(made: Made, chosen: str) -> None:
    with storage() as server:
        server.fill_from(str(made.bucket))
        announce(f"gs://{BUCKET}", 0)
        rows = []
        name = "the first machine's leaderboard, which makes the index"
        rows.append([name, *on_a_new_machine(server, commands(made.runs)["leaderboard"])])
        for name, command in commands(made.runs).items():
            if name.startswith(chosen):
                rows.append([f"`kaggleops {name}`", *on_a_new_machine(server, command)])
        if "status".startswith(chosen):
            announce(f"gs://{BUCKET}", LIVE)
            name = f"`kaggleops status`, {LIVE} runs live"
            rows.append([name, *on_a_new_machine(server, ["status"])])
            rows.append([f"{name}, again", *on_a_new_machine(server, ["status"], after=1)])
    title = f"A machine that has nothing, {1000 * LATENCY:.0f} ms away, {made.runs:,} runs"
    print_table(title, ["", "s", "processor", "memory", "class A", "class B"], rows)


def on_a_new_machine(server: Storage, command: Sequence[str], after: int = 0) -> Iterator[str]:
    """Yield what a command takes on a machine that has run it so many times."""
    with tempfile.TemporaryDirectory(prefix="kaggleops-bench-") as home:
        here = {"KAGGLEOPS_HOME": home}
        for _ in range(after):
            ask(command, f"gs://{BUCKET}", here)
        server.requests()
        server.slow_down(LATENCY)
        took = ask(command, f"gs://{BUCKET}", here)
        server.slow_down(0)
        counted = server.requests()
    yield from (*shown([took]), f"{counted.class_a:,}", f"{counted.class_b:,}")


def peers(made: Made, chosen: str) -> None:
    rows = []
    peer = ["-c", _PEER.format(home=generated.HOME)]
    if "REST".startswith(chosen):
        made.import_()
        with ours(made, made.index) as server:
            took = [process(peer, {"MLFLOW_TRACKING_URI": server.url}) for _ in range(2)]
        rows.append(["over REST, from `kaggleops serve`", *shown(took)])
    if "files".startswith(chosen):
        made.unpack()
        files = {"MLFLOW_TRACKING_URI": str(made.unpacked), "MLFLOW_ALLOW_FILE_STORE": "true"}
        rows.append(["over the file store", *shown([process(peer, files)])])
    title = f"`mlflow.search_runs`, {made.runs:,} runs, grouped by commit with pandas"
    print_table(title, ["", "s", "processor", "memory"], rows)


def announce(place: str, live: int) -> None:
    """Let a writer have written: the bucket has a change log, and so many runs are live."""
    from kaggleops.bucket import open_bucket
    from kaggleops.mlruns import ChangeLog, Entity, EntityStore, Notes, run
    from kaggleops.mlruns.entity import META, dump_yaml, parse_yaml

    bucket = open_bucket(place)
    store = EntityStore(bucket, ChangeLog(bucket))
    store.announce([run(generated.HOME, generated.run_id(0))])
    store.close()
    for number in range(live):
        files = generated.files_of(number, store.artifact_root)
        meta = {**parse_yaml(files[META], ""), "status": 1, "end_time": None}
        meta |= {"run_id": f"{number:032x}", "run_uuid": f"{number:032x}"}
        new = run(generated.HOME, f"{number:032x}")
        meta["artifact_uri"] = f"{store.artifact_root}/{generated.HOME}/{new.name}/artifacts"
        notes = Notes(heartbeat=time.time_ns() // 10**6, promise=600)
        store.merge_in(Entity(new, {**files, META: dump_yaml(meta)}, notes=notes))


def ask(command: Sequence[str], place: object, environment: dict[str, str]) -> Took:
    asked = ["-m", "kaggleops", *command, "--bucket", str(place)]
    return process(asked if "--json" in command else [*asked, "--json"], environment)


def process(arguments: Sequence[str], environment: dict[str, str]) -> Took:
    """Run a Python process, and return what it took."""
    with tempfile.TemporaryFile() as said, tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        started = subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, **environment},
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        _, ended, used = os.wait4(started.pid, 0)
        seconds = time.perf_counter() - begun
        started.returncode = os.waitstatus_to_exitcode(ended)
        if started.returncode:
            said.seek(0)
            raise RuntimeError(said.read().decode())
    return Took(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss << 10)


def shown(took: Sequence[Took]) -> list[str]:
    seconds, busy, memory = (median(each) for each in zip(*took, strict=True))
    return [f"{seconds:.2f}", f"{busy:.2f}", f"{memory / 1e6:.0f} MB"]


if __name__ == "__main__":
    main()
