"""The chart of one metric of many runs: their points come from the bucket, at first and again.

    python benchmarks/bench_points.py            100 runs
    python benchmarks/bench_points.py 20

The peer is MLflow's own store over SQLite, with the same runs. Each is asked as MLflow's interface
does, through the stock application in this process. A request to the bucket takes 30 ms.
"""

import argparse
import os
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import generated
from common import BUCKET, median, print_caption, print_table, scratch, storage

os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # for its migration

LATENCY = 0.03  # seconds
POINTS = 320  # of a run that MLflow's interface asks for
AGAIN = 10


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", type=int, nargs="?", default=100)
    runs = parser.parse_args().runs
    with scratch() as folder, storage() as cloud:
        ours, stock = stores(folder, runs)
        cloud.slow_down(LATENCY)
        rows = []
        for name, metric, times in (
            ("first", 0, 1),
            ("again", 0, AGAIN),
            ("another metric of these runs", 1, 1),
        ):
            cloud.requests()
            took = [chart(ours, runs, metric) for _ in range(times)]
            asked = cloud.requests().all
            peer = [chart(stock, runs, metric) for _ in range(times)]
            rows.append([name, *(f"{1000 * median(each):,.0f}" for each in (took, peer)), asked])
        columns = ["ms", "ours", "`mlflow server`, SQLite", "our requests"]
        print_table(f"The chart of one metric of {runs} runs", columns, rows)
        print_caption(f"Runs of 8 metrics of 50 points; a request takes {1000 * LATENCY:.0f} ms.")


def stores(folder: Path, runs: int) -> tuple[Any, Any]:
    """Return our store and MLflow's over so many runs; the first has read none of their points."""
    from mlflow.store.fs2db import migrate
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    from kaggleops.bucket import ABSENT, open_bucket
    from kaggleops.index.refresh import Index
    from kaggleops.index.stores import ReplicaTrackingStore
    from kaggleops.mlruns import EntityStore
    from kaggleops.mlruns.export import export

    bucket = open_bucket(f"gs://{BUCKET}")
    store = EntityStore(bucket)
    for key, data in generated.objects(runs, store.artifact_root):
        bucket.write(key, data, expected=ABSENT)
    index = Index(f"sqlite:///{folder}/index.db", store)
    index.refresh()
    index.close()
    export(store, folder / "unpacked", artifacts=False)
    with redirect_stdout(None):
        migrate(folder / "unpacked", f"sqlite:///{folder}/stock.db", progress=False)
    stock = SqlAlchemyStore(f"sqlite:///{folder}/stock.db", str(folder / "artifacts"))
    return ReplicaTrackingStore(f"kaggleops+sqlite:///{folder}/index.db"), stock


def chart(store: Any, runs: int, metric: int) -> float:
    """Ask for a chart; return the seconds that it took."""
    from mlflow.server import app, handlers

    handlers._tracking_store = store
    asked = {
        "run_ids": [generated.run_id(number) for number in range(runs)],
        "metric_key": f"metric_{metric}",
        "max_results": POINTS,
    }
    begun = time.perf_counter()
    path = "/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval"
    answer = app.test_client().get(path, query_string=asked)
    took = time.perf_counter() - begun
    assert len(answer.get_json()["metrics"]) == 50 * runs, answer.get_data()
    return took


if __name__ == "__main__":
    main()
