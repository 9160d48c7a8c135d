"""What child processes print, as lines where `print` shows."""

import re
import subprocess
import sys
from pathlib import Path

from kaggleops.notebook import BAR_INTERVAL, Lines


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_whole_lines_come_at_once_and_pieces_when_they_are_whole() -> None:
    shown: list[str] = []
    lines = Lines(shown.append)
    lines.feed("one\r\ntw")
    assert shown == ["one"]
    lines.feed("o\n\nthree")
    assert shown == ["one", "two", ""]
    lines.end()
    assert shown == ["one", "two", "", "three"]


def test_of_a_progress_bar_a_state_now_and_then_and_the_last() -> None:
    shown: list[str] = []
    clock = Clock()
    lines = Lines(shown.append, clock)
    for percent in range(100):
        clock.now += BAR_INTERVAL / 10
        lines.feed(f"\r{percent}%|###")
    lines.feed("\r100%|####\nnext\n")
    assert shown[-2:] == ["100%|####", "next"]
    assert len(shown) == 2 + 10
    lines.feed("\rbar ended by its carriage return\r")
    lines.end()
    assert shown[-1] == "bar ended by its carriage return"


def test_in_a_process_with_a_plain_stdout(tmp_path: Path) -> None:
    script = """
import subprocess, sys
from kaggleops.notebook import child_output_shown
with child_output_shown():
    print("from here", flush=True)
    child = "import sys; print('out é', flush=True); print('err', file=sys.stderr)"
    subprocess.run([sys.executable, "-c", child])
print("after")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [re.sub(r"^ +\d+:\d\d  ", "| ", line) for line in done.stdout.splitlines()]
    assert lines == ["| from here", "| out é", "| err", "after"]
    assert done.stderr == ""
