"""What a run and an idle server ask of a bucket in operations, which is what costs money there.

    python benchmarks/bench_operations.py [gs] [s3]

The real store on a loopback service, nine hours long: only the clock is simulated, and the flushing
thread's work is done step by step at the moments of its schedule.
"""

import os
import threading
import time

from common import (
    NAMES,
    Requests,
    Storage,
    chosen,
    print_caption,
    print_table,
    scratch,
    storage,
)

HOUR = 3600.0
RUN = 9 * HOUR
LOG_EVERY = 10.0
RUNS_A_MONTH = 200
METRICS = ("loss", "learning_rate", "grad_norm")


def main() -> None:
    from kaggleops.cli.cost import Operations, charges, prices_at
    from kaggleops.tracking.live import IDLE_LOOK

    [kinds] = chosen(("gs", "s3"))
    rows = []
    for kind in kinds:
        runs, month, said = asked_of(kind)
        rows += [[f"{NAMES[kind]}: {name}", *cells] for name, cells in said.items()]
    columns = ["operations", "class A", "class B", "`kaggleops cost` says: A", "B"]
    print_table("What is asked of the bucket", columns, rows)

    prices = prices_at()
    free_a, free_b = (each * 1e6 for each in prices.free[1:])
    months = []
    looks = RUNS_A_MONTH * RUN / IDLE_LOOK
    for name, asked in runs.items():
        class_a = RUNS_A_MONTH * asked.class_a + month.class_a
        class_b = RUNS_A_MONTH * asked.class_b + month.class_b + looks
        bill = charges(0, Operations(class_a, class_b), prices)
        dollars = sum(charge.cost for charge in bill)
        months.append([name, f"{class_a:,.0f}", f"{class_b:,.0f}", f"{dollars:.2f}"])
    columns = [f"{RUNS_A_MONTH} such runs and the server", "class A", "class B", "US dollars"]
    print_table(f"A month, at the prices of {prices.service}", columns, months)
    print_caption(
        f"Free are {free_a:,.0f} A and {free_b:,.0f} B a month (prices read on {prices.read}). "
        f"Three metrics logged every {LOG_EVERY:.0f} s; no artifacts (each file is one of class A)."
        f" The server looks every {IDLE_LOOK:.0f} s, at the change log and at each live run, and "
        "lists the bucket once a day."
    )


def asked_of(kind: str) -> tuple[dict[str, Requests], Requests, dict[str, list[str]]]:
    """Return what runs ask for, what a server does in a month, and both as rows of a table."""
    from kaggleops.cli.cost import of_idle_server, of_run
    from kaggleops.tracking.live import IDLE_LOOK

    runs, said = {}, {}
    steps = [LOG_EVERY * number for number in range(1, int(RUN / LOG_EVERY))]
    with scratch(), storage(kind) as server:
        for name, seconds, logged in (
            ("9-hour run, logs every 10 s", "", steps),
            ("… with KAGGLEOPS_FLUSH_SECONDS=600", "600", steps),
            ("… with KAGGLEOPS_FLUSH_SECONDS=2000", "2000", steps),
            ("9-hour run that logs nothing", "", []),
        ):
            os.environ["KAGGLEOPS_FLUSH_SECONDS"] = seconds
            runs[name] = nine_hours(server, logged)
            said[name] = row_of(runs[name], of_run(RUN, logged))
        os.environ["KAGGLEOPS_FLUSH_SECONDS"] = ""
        idle = a_day_of_a_server(server, IDLE_LOOK)
    month = Requests(idle.class_a * 30, idle.class_b * 30, 0)
    said["idle server, a month"] = row_of(month, of_idle_server())
    return runs, month, said


def row_of(asked: Requests, estimate: object) -> list[str]:
    said = f"{estimate.class_a:,.0f}", f"{estimate.class_b:,.0f}"  # type: ignore[attr-defined]
    return [f"{asked.class_a:,}", f"{asked.class_b:,}", *said]


def nine_hours(server: Storage, logged: list[float]) -> Requests:
    from mlflow.entities import Metric, RunStatus

    from kaggleops.tracking import session as sessions
    from kaggleops.tracking.live import LiveRuns, flush_interval
    from kaggleops.tracking.store import BucketTrackingStore

    sessions._sessions.clear()
    now = 0.0
    store = BucketTrackingStore(f"{server.address}/mlruns")
    session = store._session
    session._thread = threading.current_thread()  # its work is done here
    session.working.live = LiveRuns(lambda: now)
    session.working.store._changes._clock = lambda: (now, now)
    session._send_left_behind = lambda: None
    server.requests()

    name = f"operations {time.time_ns()}"
    run = store.create_run(store.create_experiment(name), "ada", 0, [], None)
    waiting = list(reversed(logged))
    while (now := now + flush_interval(now)) < RUN:
        while waiting and waiting[-1] <= now:
            at = waiting.pop()
            for metric in METRICS:
                store.log_metric(run.info.run_id, Metric(metric, 0.5, int(at * 1000), int(at)))
        session._tick()
    now = RUN
    store.update_run_info(run.info.run_id, RunStatus.FINISHED, int(RUN * 1000), None)
    session.close()
    return server.requests()


def a_day_of_a_server(server: Storage, interval: float) -> Requests:
    from kaggleops.bucket import open_bucket
    from kaggleops.mlruns import EntityStore, Poll

    now = 0.0
    poll = Poll(EntityStore(open_bucket(server.address)), clock=lambda: now)
    list(poll.changed())
    now = 24 * HOUR  # whatever is open has long been let go of
    list(poll.changed())
    server.requests()
    for look in range(int(24 * HOUR / interval)):
        now += interval
        list(poll.changed(full=look == 0))
    return server.requests()


if __name__ == "__main__":
    main()
