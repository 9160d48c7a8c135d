"""What `kaggleops.bucket.base` promises to threads and processes that write at once."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

from kaggleops.bucket import (
    ABSENT,
    Bucket,
    ConflictError,
)
from tests.bucket import processes
from tests.buckets import EVERY_KIND

pytestmark = EVERY_KIND


def test_of_racing_threads_one_creates(bucket: Bucket) -> None:
    barrier = threading.Barrier(16)

    def create(number: int) -> bool:
        barrier.wait()
        try:
            bucket.write("contested", b"%d" % number, expected=ABSENT)
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(16) as threads:
        won = list(threads.map(create, range(16)))

    assert sum(won) == 1
    stored = bucket.read("contested")
    assert stored is not None
    assert stored.data == b"%d" % won.index(True)


def test_of_racing_processes_one_creates(bucket: Bucket) -> None:
    tasks = [(bucket.uri, "contested", b"%d" % number) for number in range(6)]
    won = processes.together(processes.create, tasks)
    assert won.count(True) == 1, won
    assert won.count(False) == 5, won
    stored = bucket.read("contested")
    assert stored is not None
    assert stored.data == b"%d" % won.index(True)


def test_no_update_is_lost_between_processes(bucket: Bucket) -> None:
    bucket.write("counter", b"0", expected=ABSENT)
    conflicts = processes.together(processes.increment, [(bucket.uri, "counter", 25)] * 4)
    assert all(isinstance(each, int) for each in conflicts), conflicts
    stored = bucket.read("counter")
    assert stored is not None
    assert stored.data.split()[0] == b"100"


def test_nobody_reads_half_an_object(bucket: Bucket) -> None:
    first = bucket.write("changing", bytes(200_000), expected=ABSENT)
    done = threading.Event()

    def overwrite() -> int:
        version, number = first, 0
        while not done.is_set():
            number += 1
            version = bucket.write("changing", bytes([number % 256]) * 200_000, expected=version)
        return number

    with ThreadPoolExecutor(1) as thread:
        writing = thread.submit(overwrite)
        try:
            tasks = [(bucket.uri, "changing", 100)] * 2
            whole = processes.together(processes.read_while_written, tasks)
        finally:
            done.set()
    assert whole == [True, True]
    assert writing.result() > 1


def test_a_forked_child_may_use_its_parents_bucket(bucket: Bucket) -> None:
    version = bucket.write("k", b"parent", expected=ABSENT)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            bucket.write("k", b"child", expected=version)
            status = 0
        finally:
            os._exit(status)
    # Meanwhile the parent goes on over its own connections.
    for _ in range(20):
        assert bucket.read("k") is not None
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    stored = bucket.read("k")
    assert stored is not None
    assert stored.data == b"child"
