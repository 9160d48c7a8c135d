"""What child processes print, shown where `print` shows: in a notebook's cell, in Kaggle's log.

A child writes to the file descriptors of this process, and what happens to these differs between
kernels: some show it, some lose it. Here it is read, and written on as lines with the time that has
passed. Of a progress bar, which redraws its line, a state is shown now and then, and the last one:
a log keeps every state as a line of its own.
"""

import codecs
import io
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

BAR_INTERVAL = 10.0
"""Seconds between two states of a progress bar."""


@contextmanager
def child_output_shown() -> Iterator[None]:
    """Show what this process and its children write to descriptors 1 and 2 as timed lines."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    target = _target(kept[0])
    reading, writing = os.pipe()
    reader = threading.Thread(target=_show, args=(reading, target), daemon=True)
    reader.start()
    for descriptor in (1, 2):
        os.dup2(writing, descriptor)
    os.close(writing)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, before in zip((1, 2), kept, strict=True):
            os.dup2(before, descriptor)
        # A process that the training left behind holds its end open: it is not waited for.
        reader.join(timeout=5)
        for before in kept:
            os.close(before)


def _target(descriptor: int) -> TextIO:
    # A kernel's own stream leads to the notebook; a plain one leads to descriptor 1, our pipe.
    if isinstance(sys.stdout, io.TextIOWrapper):
        return os.fdopen(os.dup(descriptor), "w", encoding="utf-8", errors="replace")
    return sys.stdout


def _show(reading: int, target: TextIO) -> None:
    started = time.monotonic()
    decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def show(line: str) -> None:
        passed = int(time.monotonic() - started)
        target.write(f"{passed // 60:3d}:{passed % 60:02d}  {line}\n")
        target.flush()

    lines = Lines(show)
    with os.fdopen(reading, "rb", buffering=0) as stream:
        while data := stream.read(1 << 16):
            lines.feed(decoder.decode(data))
    lines.end()


class Lines:
    """Cuts text into lines, and thins out those that are redrawn.

    Args:
        show: called with each line to show, without its end.
        clock: the time in seconds.
    """

    def __init__(
        self, show: Callable[[str], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._show = show
        self._clock = clock
        self._line = ""
        self._redrawn = ""
        self._shown = clock()

    def feed(self, text: str) -> None:
        """Take in what was printed next."""
        for piece in re.findall(r"[^\r\n]+|\r|\n", text):
            if piece == "\n":
                self._end_line()
            elif piece == "\r":
                self._redraw()
            else:
                self._line += piece

    def end(self) -> None:
        """Take note that nothing follows."""
        if self._line or self._redrawn:
            self._end_line()

    def _end_line(self) -> None:
        # A bar's last state may stand before its carriage return; "\r\n" ends a line as "\n" does.
        self._show((self._line or self._redrawn).rstrip())
        self._line = self._redrawn = ""

    def _redraw(self) -> None:
        if not self._line.strip():
            return
        self._redrawn, self._line = self._line, ""
        now = self._clock()
        if now - self._shown >= BAR_INTERVAL:
            self._shown = now
            self._show(self._redrawn.rstrip())
            self._redrawn = ""
