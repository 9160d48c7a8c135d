"""What `compare` and `leaderboard` take from the start of the process, on a fresh index.

The peer is what people would do otherwise: `mlflow.search_runs` for the same experiment, in a
process of its own, over REST (from `kaggleops serve`) and over the file store.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import generated
from bench_server import Made, ours
from common import median, print_caption, print_table, scratch

TIMES = 5

_PEER = """
import mlflow
runs = mlflow.search_runs([{home!r}], max_results=50_000)
by_commit = runs.groupby("tags.git_commit")["metrics.metric_3"].agg(["mean", "std", "max"])
print(by_commit.sort_values("mean").tail(20))
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", type=int, nargs="?", default=1000)
    parser.add_argument("--keep", type=Path, help="where to keep the bucket and the peers' stores")
    options = parser.parse_args()
    rows = []
    with scratch() as folder:
        made = Made(options.keep or folder, folder, options.runs)
        made.import_()
        made.unpack()
        marker = {"KAGGLEOPS_INDEX": f"sqlite:///{made.index}", "KAGGLEOPS_HOME": str(folder)}
        first, last = (f"{number:010x}" + "0" * 30 for number in (0, options.runs // 20 - 1))
        run_ids = generated.run_id(0), generated.run_id(1)
        kaggleops = [sys.executable, "-m", "kaggleops"]
        where = ["--bucket", made.bucket, "--json"]
        subprocess.run([*kaggleops, "leaderboard", *where], env={**os.environ, **marker},
                       check=True, stdout=subprocess.DEVNULL)  # fmt: skip
        metric = ["--metric", "metric_3"]
        for name, command in {
            "leaderboard": ["leaderboard", *metric],
            "compare two runs": ["compare", *run_ids],
            "compare two commits": ["compare", first, last],
            "reproduce a run": ["reproduce", run_ids[0]],
        }.items():
            took = [timed([*kaggleops, *command, *where], marker, folder) for _ in range(TIMES)]
            rows.append([f"`kaggleops {name}`", f"{median(took):.2f}"])
        peer = [sys.executable, "-c", _PEER.format(home=generated.HOME)]
        with ours(made, made.index) as server:
            took = [timed(peer, {"MLFLOW_TRACKING_URI": server.url}, folder) for _ in range(2)]
        rows.append(
            ["`mlflow.search_runs` over REST, from `kaggleops serve`", f"{median(took):.2f}"]
        )
        files = {"MLFLOW_TRACKING_URI": str(made.unpacked), "MLFLOW_ALLOW_FILE_STORE": "true"}
        rows.append(
            ["`mlflow.search_runs` over the file store", f"{timed(peer, files, folder):.2f}"]
        )
        title = f"From the start of the process to the answer, {options.runs:,} runs"
        print_table(title, ["", "s"], rows)
        print_caption("The index is fresh; the peers' figures are grouped by commit with pandas.")


def timed(command: list[object], environment: dict[str, str], folder: Path) -> float:
    """Return the seconds that a command takes."""
    for marker in (folder / "serve").glob("*/fresh-*"):
        marker.touch()  # as it is while a server refreshes it
    begun = time.perf_counter()
    done = subprocess.run(
        list(map(str, command)),
        env={**os.environ, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
