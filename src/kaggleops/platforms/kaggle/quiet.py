"""Silence for what Kaggle's client prints, also where several threads use it at once."""

import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_lock = threading.Lock()
_inside = 0
_stdout: TextIO = sys.stdout


@contextmanager
def quiet() -> Iterator[None]:
    """Let what is printed meanwhile go nowhere.

    `redirect_stdout` would let the thread that leaves last put back what the first had put there:
    from then on the whole process would be silent.
    """
    global _inside, _stdout
    with _lock:
        if not _inside:
            _stdout, sys.stdout = sys.stdout, io.StringIO()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside = max(0, _inside - 1)
            if not _inside:
                sys.stdout = _stdout


def _after_fork_in_child() -> None:
    # Threads that were quiet in the parent are not there to put it back.
    global _lock, _inside
    _lock = threading.Lock()
    if _inside:
        _inside, sys.stdout = 0, _stdout


os.register_at_fork(after_in_child=_after_fork_in_child)
