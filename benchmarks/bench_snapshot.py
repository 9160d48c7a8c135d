"""The snapshot of an index: its size, writing it, and a new machine that fills its index from it.

    python benchmarks/bench_snapshot.py [RUNS] [BUCKET]      # of 200 runs or more

RUNS (1,000) are generated in a folder, unless BUCKET is a folder that has some already. It is
copied by hard links; nothing in it changes. The peer is an index made of the runs themselves.
"""

import shutil
import subprocess
import sys
import time
from pathlib import Path

from common import print_caption, print_table, scratch
from generated import objects

RUNS = int(sys.argv[1]) if len(sys.argv) > 1 else 1000


def main() -> None:
    from kaggleops.bucket import ABSENT, open_bucket
    from kaggleops.layout import INDEX_KEY
    from kaggleops.mlruns import EntityStore

    with scratch() as folder:
        place = folder / "bucket"
        if len(sys.argv) > 2:
            shutil.copytree(sys.argv[2], place, copy_function=lambda a, b: Path(b).hardlink_to(a))
        bucket = open_bucket(str(place))
        if len(sys.argv) < 3:
            for key, content in objects(RUNS, EntityStore(bucket).artifact_root):
                bucket.write(key, content, expected=ABSENT)
        runs = sum(entry.size for entry in bucket.list("mlruns/1/"))
        bucket.delete(INDEX_KEY)
        rows = [["made of the runs", f"{runs / 1e6:.1f} MB", *refreshed(bucket.uri, folder, "a")]]
        snapshot = bucket.stat(INDEX_KEY)
        assert snapshot is not None
        size = f"{snapshot.size / 1e6:.1f} MB"
        rows.append(["filled from the snapshot", size, *refreshed(bucket.uri, folder, "b")])
        written = [f"{each:.1f} s" for each in saved(bucket.uri, folder)]
        rows.append(["the snapshot alone: written", size, written[0], "", ""])
        rows.append(["… read", size, written[1], "", ""])
    columns = [f"{RUNS:,} runs, from a folder", "read", "time", "memory", "index"]
    print_table("An index of a new machine", columns, rows)
    print_caption("Each in a process of its own, its start and writing the snapshot included.")


def refreshed(uri: str, folder: Path, name: str) -> list[str]:
    """Make an index in another process; return its seconds, its memory and the index's size."""
    database = folder / f"{name}.db"
    command = (
        "import resource; from kaggleops.bucket import open_bucket;"
        "from kaggleops.index.refresh import Index; from kaggleops.mlruns import EntityStore;"
        f"index = Index('sqlite:///{database}', EntityStore(open_bucket('{uri}')));"
        "index.refresh(); index.close();"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", command], check=True, capture_output=True)
    seconds = time.perf_counter() - begun
    return [
        f"{seconds:.1f} s",
        f"{int(done.stdout) >> 10} MB",
        f"{database.stat().st_size / 1e6:.0f} MB",
    ]


def saved(uri: str, folder: Path) -> tuple[float, float]:
    """Return how long it takes to write a snapshot into a file, and to read it from there."""
    from kaggleops.bucket import open_bucket
    from kaggleops.index import snapshot
    from kaggleops.index.database import open_database, reading, writing
    from kaggleops.mlruns import EntityStore

    root = EntityStore(open_bucket(uri)).artifact_root
    file = folder / "snapshot"
    first, second = (open_database(f"sqlite:///{folder}/{each}.db", uri) for each in "bc")
    begun = time.perf_counter()
    with file.open("w+b") as into, reading(first) as connection:
        snapshot.save(connection, into, uri, root)
    between = time.perf_counter()
    with file.open("rb") as content, writing(second) as connection:
        snapshot.load(connection, content, uri, root, 0)
    return between - begun, time.perf_counter() - between


if __name__ == "__main__":
    main()
