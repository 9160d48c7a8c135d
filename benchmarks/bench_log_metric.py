"""One `mlflow.log_metric` call, as a training loop makes it thousands of times.

    python benchmarks/bench_log_metric.py [folder] [gs] [s3] [file] [rest] [floor]

Each store in a process of its own, with and without MLflow's registry URI set: without it MLflow
looks for Spark at every call. "MLflow's own floor" is a store that does nothing.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common import (
    chosen,
    median,
    percentile,
    print_caption,
    print_table,
    scratch,
    storage,
)

ROUNDS = 5
CALLS = 1000
REST_CALLS = 50
WARM_UP = 200


ROWS = {
    "folder": "this project, folder",
    "gs": "this project, Cloud Storage",
    "s3": "this project, S3",
    "file": "stock file store",
    "rest": "REST server on SQLite",
    "floor": "MLflow's own floor",
}


def main() -> None:
    [names] = chosen(tuple(ROWS))
    rows = []
    with scratch() as folder:
        os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
        for name in names:
            with store(name, folder) as uri:
                rows.append([ROWS[name], *measure(uri)])
    columns = [
        "one call, µs",
        *("`mlflow.log_metric`", "p99"),
        *("with the registry URI set", "p99"),
        *("the store's own call", "p99"),
        "calls a second",
    ]
    print_table("One metric point logged", columns, rows)
    print_caption(
        "Calls a second are those of `mlflow.log_metric` with the registry URI set.",
        f"Medians of {CALLS:,} calls ({REST_CALLS} for REST), in the best of {ROUNDS} rounds, as "
        "whatever else this machine does only adds; each store in a process of its own.",
        "What may be lost when a machine dies: with this project, what was logged within the flush "
        "interval (10 s at first, growing to 60 s in an hour), and nothing where only the process "
        "dies, as each point is on the disk when the call returns; with a REST server nothing; "
        "with the file store everything, as it is on that machine only.",
    )


def measure(uri: str) -> list[str]:
    """Return the medians and 99th percentiles of the three ways to call."""
    done = subprocess.run(
        [sys.executable, __file__, uri],
        env={**os.environ, "MLFLOW_TRACKING_URI": uri},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    ways: list[list[float]] = json.loads(done.stdout.splitlines()[-1])
    figures = [each for times in ways for each in (median(times), percentile(times, 0.99))]
    return [f"{each:,.0f}" for each in (*figures, 1e6 / median(ways[1]))]


@contextmanager
def store(name: str, folder: Path) -> Iterator[str]:
    """Run what a row needs; yield its tracking URI."""
    if name == "rest":
        with rest_server(folder) as url:
            yield url
    elif name in ("file", "floor"):
        yield "nothing://" if name == "floor" else f"file://{folder}/mlruns"
    else:
        with storage(name) as server:
            yield f"{server.address}/mlruns"


@contextmanager
def rest_server(folder: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    try:
        while True:
            with suppress(OSError), urllib.request.urlopen(f"{url}/health"):
                break
            if process.poll() is not None:
                sys.exit((folder / "server.log").read_text())
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


# -- in a process of its own -------------------------------------------------------------------


def child(uri: str) -> None:
    import mlflow
    from mlflow.entities import Metric
    from mlflow.tracking._tracking_service.utils import _get_store

    if uri.startswith("nothing:"):
        register_nothing()
    mlflow.set_experiment("benchmark")
    with mlflow.start_run() as run:
        run_id = run.info.run_id
        store = _get_store()

        def fluent(step: int) -> None:
            mlflow.log_metric("loss", 0.5, step=step)

        def of_store(step: int) -> None:
            store.log_metric(run_id, Metric("loss", 0.5, int(time.time() * 1000), step))

        count = REST_CALLS if uri.startswith("http") else CALLS
        ways = [best(fluent, count)]
        os.environ["MLFLOW_REGISTRY_URI"] = uri
        ways += [best(fluent, count), best(of_store, count)]
    print(json.dumps(ways))


def best(call: Callable[[int], None], count: int) -> list[float]:
    """Return how many microseconds each call took, in the best round."""
    for step in range(WARM_UP):
        call(step)
    return min((timed(call, count) for _ in range(ROUNDS)), key=median)


def timed(call: Callable[[int], None], count: int) -> list[float]:
    times = []
    for step in range(count):
        begun = time.perf_counter_ns()
        call(step)
        times.append((time.perf_counter_ns() - begun) / 1000)
    return times


def register_nothing() -> None:
    """Register a tracking store that has one run and keeps nothing."""
    from mlflow.entities import Experiment, Run, RunData, RunInfo
    from mlflow.store.tracking.abstract_store import AbstractStore
    from mlflow.tracking._tracking_service import utils

    info = RunInfo("a" * 32, "1", "me", "RUNNING", 0, None, "active", "file:///nowhere")
    run = Run(info, RunData())
    experiment = Experiment("1", "benchmark", "file:///nowhere", "active")

    def nothing(self: AbstractStore, *args: object, **kwargs: object) -> None:
        pass

    methods = {name: nothing for name in vars(AbstractStore) if not name.startswith("_")}
    methods |= {name: lambda self, *_, **__: run for name in ("create_run", "get_run")}
    for name in ("get_experiment", "get_experiment_by_name"):
        methods[name] = lambda self, *_, **__: experiment
    store = type("NothingStore", (AbstractStore,), methods)
    utils._tracking_store_registry.register("nothing", lambda *_, **__: store())


if __name__ == "__main__":
    if "://" in sys.argv[-1]:
        child(sys.argv[-1])
    else:
        main()
