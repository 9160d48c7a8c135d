"""Is there anything new among 10,000 runs? The change log against a listing, on each kind.

python benchmarks/bench_poll.py [gs] [s3] [folder]
"""

from collections.abc import Callable

from common import (
    KINDS,
    NAMES,
    Storage,
    chosen,
    measured,
    print_caption,
    print_table,
    scratch,
    storage,
)

RUNS = 10_000
LATENCY = 0.030


def main() -> None:
    [kinds] = chosen(KINDS)
    rows = [row for kind in kinds for row in rows_of(kind)]
    columns = [f"{RUNS:,} runs", "class A", "class B", "time", "processor"]
    print_table(
        "A look for what is new, 30 ms away",
        [*columns, "a listing: class A", "class B", "time", "processor"],
        rows,
    )
    print_caption(
        f"Every request takes {LATENCY * 1000:.0f} ms longer than the loopback server needs, which "
        "runs in a process of its own (that of S3 is moto, and slow at listing). Processor is the "
        "time for which this process kept one busy. A listing costs one request of class A for "
        "every 1,000 objects, 12.5 times the price of one of class B.",
    )


def rows_of(kind: str) -> list[list[str]]:
    from bench_transfer import files_of

    from kaggleops.bucket import open_bucket
    from kaggleops.layout import parse_key
    from kaggleops.mlruns import ChangeLog, Entity, EntityStore, Poll, run

    with scratch(), storage(kind) as server:
        bucket = open_bucket(server.address)
        store = EntityStore(bucket)
        log = ChangeLog(bucket)
        ids = [run("1", f"{number:032x}") for number in range(RUNS)]
        server.fill([each.key for each in ids], bytes(7600))
        log.announce(ids[:1])
        log.close(ids[:1])
        listed = {
            entity_id: entry.version
            for entry in bucket.list("mlruns/")
            if (entity_id := parse_key(entry.key)) is not None
        }
        poll = Poll(store, listed)
        list(poll.changed())
        server.slow_down(LATENCY)

        def look() -> None:
            list(poll.changed())

        def listing() -> None:
            found = {entry.key: entry.version for entry in bucket.list("mlruns/")}
            assert len(found) == RUNS + 1

        def listing_and_reading() -> None:
            listing()
            store.read(ids[0])

        version = listed[ids[0]]

        def change(number: int) -> None:
            nonlocal version
            log.announce(ids[:1])
            files = {**files_of(ids[0].name), "tags/changed": b"%d" % number}
            version = store.write(Entity(ids[0], files), expected=version)
            log.close(ids[:1])

        rows = [row_of(f"{NAMES[kind]}, nothing changed", server, look, listing)]
        change(1)
        rows.append(row_of("… one changed", server, look, listing_and_reading))
        log.announce(ids[:5])
        look()
        rows.append(row_of("… nothing changed, five runs live", server, look, listing))
    return rows


def row_of(
    name: str, server: Storage, ours: Callable[[], None], peer: Callable[[], None]
) -> list[str]:
    row = [name]
    for way in (ours, peer):
        with measured(server) as took:
            way()
        row += [f"{took.requests.class_a}", f"{took.requests.class_b}"]
        row += [f"{took.seconds * 1000:,.0f} ms", f"{took.processor * 1000:,.0f} ms"]
    return row


if __name__ == "__main__":
    main()
