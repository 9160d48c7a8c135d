"""Who writes to an index waits for one transaction of an import; who opens it waits for none."""

import threading

from kaggleops.index.database import INDEX, open_database, writing
from tests.index.worlds import World, world

__all__ = ["world"]


def test_an_edit_waits_for_one_transaction(world: World) -> None:
    importing, editing = (open_database(world.url, world.bucket.uri) for _ in range(2))
    begun, over = threading.Event(), threading.Event()
    transactions = 0

    def import_for_long() -> None:
        nonlocal transactions
        while not over.is_set() and transactions < 1000:
            with writing(importing) as connection:
                transactions += 1
                begun.set()
                # As long as a batch takes, in the database.
                connection.execute(INDEX.update().values(analyzed=transactions))
                over.wait(0.02)

    thread = threading.Thread(target=import_for_long)
    thread.start()
    assert begun.wait(60)
    waited = []
    for _ in range(5):
        before = transactions
        with writing(editing) as connection:
            waited.append(transactions - before)
            connection.execute(INDEX.update().values(analyzed=0))
    over.set()
    thread.join()
    for each in (importing, editing):
        each.dispose()
    # Some more where this machine is busy; without turns, hundreds.
    assert sum(waited) <= 50, waited


def test_nobody_waits_who_opens_it(world: World) -> None:
    importing = open_database(world.url, world.bucket.uri)
    with writing(importing):  # as long as a snapshot takes; this thread would wait for itself
        open_database(world.url, world.bucket.uri, for_mlflow=True).dispose()
    importing.dispose()
