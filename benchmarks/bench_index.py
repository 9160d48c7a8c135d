"""1,000 runs from a bucket into MLflow's SQL schema, and one changed run until it is found there.

Each run has 40 params, 13 tags and 8 metrics of 50 points: 400,000 points in all. The peer is
`mlflow migrate-filestore` on the same runs, unpacked beforehand: all that MLflow has for this. It
takes a whole folder into an empty database, so after one change it has to take everything again.
"""

import io
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout

from common import BUCKET, median, print_caption, print_table, scratch, storage

RUNS = 1000
CHANGES = 20
HOME = "1"


def main() -> None:
    from bench_transfer import files_of
    from mlflow.store.fs2db import migrate
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    from kaggleops.bucket import ABSENT, open_bucket
    from kaggleops.index.refresh import Index
    from kaggleops.mlruns import ChangeLog, Entity, EntityStore, experiment, run
    from kaggleops.mlruns.entity import dump_yaml
    from kaggleops.mlruns.export import export

    with scratch() as folder, storage():
        bucket = open_bucket(f"gs://{BUCKET}/ours")
        store = EntityStore(bucket)
        meta = {
            "artifact_location": f"{store.artifact_root}/{HOME}",
            "creation_time": 1,
            "experiment_id": HOME,
            "last_update_time": 1,
            "lifecycle_stage": "active",
            "name": "tweets",
        }
        home = Entity(experiment(HOME), {"meta.yaml": dump_yaml(meta)})
        ids = [run(HOME, f"{number:032x}") for number in range(RUNS)]
        entities = [home, *(Entity(each, files_of(each.name)) for each in ids)]
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda each: store.write(each, expected=ABSENT), entities))
        export(store, folder / "mlruns", artifacts=False)

        Index(f"sqlite:///{folder}/first.db", store).close()  # what both import, is imported
        with redirect_stdout(io.StringIO()):
            theirs = seconds(
                lambda: migrate(folder / "mlruns", f"sqlite:///{folder}/peer.db", progress=False)
            )
        url = f"sqlite:///{folder}/index.db"
        begun = time.perf_counter()
        index = Index(url, store)
        made = time.perf_counter() - begun
        ours = made + seconds(index.refresh)
        again = seconds(lambda: Index(url, store).refresh())

        server = SqlAlchemyStore(url, "unused")
        writer = EntityStore(bucket, ChangeLog(bucket))
        index.refresh()

        def change(number: int) -> None:
            entity = Entity(ids[number], {**files_of(ids[number].name), "tags/new": b"%d" % number})
            writer.merge_in(entity)

        def until_found(number: int) -> None:
            index.refresh()
            [found] = server.search_runs([HOME], f"tags.new = '{number}'", 1)
            assert found.info.run_id == ids[number].name

        took = []
        for number in range(CHANGES):
            change(number)
            took.append(seconds(lambda number=number: until_found(number)))
        one = median(took)
    rows = [
        [
            "everything into an empty database",
            f"{ours:.1f} s",
            f"{theirs:.1f} s",
            ratio(theirs, ours),
        ],
        ["again, with nothing new", f"{again:.2f} s", f"{theirs:.1f} s", ratio(theirs, again)],
        ["one changed run, until found", f"{one:.3f} s", f"{theirs:.1f} s", ratio(theirs, one)],
    ]
    print_table(
        "A bucket's runs in MLflow's SQL schema",
        [f"{RUNS:,} runs", "ours", "`mlflow migrate-filestore`", ""],
        rows,
    )
    print_caption(
        f"SQLite. Ours includes fetching the runs from a loopback Cloud Storage in a process of "
        f"its own; both include MLflow's own migrations, which make the schema ({made:.1f} s). "
        f"The changed run is the median of {CHANGES}, from the poll to its being found by "
        "MLflow's own SqlAlchemyStore."
    )


def seconds(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def ratio(theirs: float, ours: float) -> str:
    return f"{theirs / ours:,.0f} x"


if __name__ == "__main__":
    main()
