"""What grows with the number of runs in a bucket, and what does not: a process's first look at an
index of so many runs and the next look, both over a change log that announces nothing new.

    python benchmarks/bench_large.py                     10,000, 100,000 and 1,000,000 runs
    python benchmarks/bench_large.py 100000

Simulated: the index holds at which version each run is, and none of their rows; the bucket is a
folder that holds an experiment and a change log.
"""

import argparse
import json
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import generated
from common import print_caption, print_table, scratch

_LOOK = """
import json, resource, sys, time
from kaggleops.bucket import open_bucket
from kaggleops.index.refresh import Index
from kaggleops.mlruns import EntityStore

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

index = Index(sys.argv[2], EntityStore(open_bucket(sys.argv[1])))
before, looks = peak(), []
for _ in range(2):
    begun = time.perf_counter()
    refreshed = index.refresh()
    assert not refreshed.listed and not refreshed.removed, refreshed
    looks.append(time.perf_counter() - begun)
print(json.dumps([*looks, peak() - before]))
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    options = parser.parse_args()
    rows = []
    with scratch() as folder:
        for runs in options.runs:
            index, bucket = folder / f"{runs}.db", folder / f"bucket-{runs}"
            generated.make_index(0, index, bucket)
            _know(runs, index)
            done = subprocess.run(
                [sys.executable, "-c", _LOOK, bucket, f"sqlite:///{index}"],
                check=True,
                capture_output=True,
                text=True,
            )
            first, next_one, memory = json.loads(done.stdout)
            rows.append(
                [
                    f"{runs:,}",
                    f"{first:.2f} s",
                    f"{1000 * next_one:.0f} ms",
                    f"{memory / 1e6:.0f} MB",
                    f"{-(-runs // 1000):,}",
                ]
            )
    columns = ["runs", "first look", "the next", "memory", "a listing: requests"]
    print_table("A process's looks at a bucket where nothing is new", columns, rows)
    print_caption("Versions only; the rows of the runs are not there.")


def _know(runs: int, index: Path) -> None:
    """Let the index have so many runs, as far as a look is concerned."""
    from kaggleops.mlruns import run

    connection = sqlite3.connect(index)
    connection.execute("PRAGMA synchronous = OFF")
    rows = (
        (run(generated.HOME, generated.run_id(number)).key, f"{number:016}", "", "", 0)
        for number in range(runs)
    )
    connection.executemany(
        "INSERT INTO kaggleops_entities (key, version, problem, waits_for, heard_ms) "
        "VALUES (?, ?, ?, ?, ?)",
        rows,
    )
    connection.execute("UPDATE kaggleops_mark SET listed = ?", (time.time(),))
    # As if the bucket's snapshot had just been read: else this one would write it.
    connection.execute(
        "INSERT INTO kaggleops_snapshot (version, log_id, sequence, entities, looked) "
        "SELECT 'some', log_id, sequence, ?, ? FROM kaggleops_mark",
        (runs, time.time()),
    )
    connection.commit()
    connection.close()


if __name__ == "__main__":
    main()
