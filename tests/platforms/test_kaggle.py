"""Threads that use Kaggle's client at once: `kaggleops status` asks about eight runs at a time."""

import sys
import threading

import pytest

from kaggleops.platforms.kaggle.quiet import quiet


def test_two_that_are_quiet_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    first_in, second_in, first_out = (threading.Event() for _ in range(3))

    def first() -> None:
        with quiet():
            first_in.set()
            second_in.wait()
            sys.stdout.write("something of the client's\n")
        first_out.set()

    def second() -> None:
        first_in.wait()
        with quiet():
            second_in.set()
            first_out.wait()
            sys.stdout.write("something more\n")

    threads = [threading.Thread(target=each) for each in (first, second)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    sys.stdout.write("a result\n")
    assert capsys.readouterr().out == "a result\n"
