"""Why a training failed, in one line, from what it printed and how its process ended.

The line is the last error of the training itself: not the trace of what executes its notebook
(papermill, nbclient, IPython), which comes after it and names a cell; nor that of torchrun, which
names a rank.
"""

import re
import signal
from collections.abc import Iterable

from kaggleops.printable import printable
from kaggleops.redaction import redacted

LONGEST = 300
"""Characters of a cause: the rest stands in the output."""

_TIME = re.compile(r" *\d+:\d\d  ")  # which a notebook puts before each line
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
_RANK = re.compile(r"\[rank\d+\]: ?")  # which PyTorch puts before each line of a trace
_TRACE = re.compile(r"(?:[\w.]+ +)?Traceback \(most recent call last\):?")
# The end of a trace: an error as they are called, or one of any name with a message.
_RAISED = re.compile(
    r"[\w.]*(?:Error|Exception|Exit|Interrupt|Warning|Timeout)\b.*|[A-Za-z_][\w.]*: .+"
)
_SAID = re.compile(r"(?:\S+: )?(?:error|fatal|killed|oserror)\b.*", re.IGNORECASE)
_OF_NOTEBOOKS = re.compile(r"papermill|nbclient|nbconvert|Exception encountered at|CellExecution")
_OF_TORCHRUN = re.compile(r"[\w.]*\bChildFailedError\b.*")
_LOG_OF_TORCHRUN = re.compile(r"[A-Z]\d{4} [\d:.]+ .*torch/distributed/.*")
# In torchrun's report, of a rank that said nothing itself.
_SIGNAL = re.compile(r" *traceback *: (Signal \d+ \(\w+\) received by PID \d+)")
_OURS = re.compile(r"(?:SystemExit: )?error: (.+)")
# What our own error says of a training (launcher.py).
_OF_TRAINING = re.compile(
    r"running \w+: it ended with an error: (.+?)(?:\. What it logged is in .*)?"
)
_SHELLS = 128  # what a shell adds to the number of the signal that ended a program


def of_torchrun(lines: Iterable[str]) -> bool:
    """Return whether torchrun says that a rank failed."""
    return any(_OF_TORCHRUN.match(printable(line).strip()) for line in lines)


def cause(lines: Iterable[str], code: int | None = None) -> str:
    """Return why a training failed; "" where nothing tells.

    Where no line says that it is an error, the last one counts, if this is a training's own output.

    Args:
        lines: what it printed, its end at least; or the log of its notebook.
        code: the exit code of its process, negative for a signal as in `subprocess`; None where it
            is not known.
    """
    said = redacted(printable(_last_error(lines, any_line=code is not None)))
    said = said if len(said) <= LONGEST else f"{said[: LONGEST - 1]}…"
    if ended := _ending(code):
        return f"{said} ({ended})" if said else ended
    return said


def _ending(code: int | None) -> str:
    if code is None:
        return ""
    number = -code if code < 0 else code - _SHELLS
    if number in (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL):
        name = signal.Signals(number).name
        full = ": its machine's memory was full, most likely" if number == signal.SIGKILL else ""
        return f"killed by {name}{full}"
    return f"exit code {code}"


def _last_error(lines: Iterable[str], *, any_line: bool) -> str:
    plain = [_TIME.sub("", _COLOUR.sub("", line), count=1).rstrip() for line in lines]
    plain = [_RANK.sub("", line, count=1) for line in plain]
    found = last = ""
    at, first_to_fail = 0, False
    while at < len(plain):
        line, at = plain[at], at + 1
        if _TRACE.fullmatch(line):
            raised, at, ours = _raised(plain, at)
            if _OF_TORCHRUN.fullmatch(raised):  # a rank may end with a line that is no trace
                found = found or (last if any_line else "") or raised
            elif ours:
                found = raised or found
        elif line.startswith("Root Cause"):
            first_to_fail = True
        elif first_to_fail and (match := _SIGNAL.fullmatch(line)):
            found = match[1]
        elif match := _OURS.fullmatch(line):
            found = _without_our_words(match[1])
        elif _SAID.match(line) and not _OF_NOTEBOOKS.search(line):
            found = line
        if line and not (_OF_NOTEBOOKS.search(line) or _LOG_OF_TORCHRUN.match(line)):
            last = line
    return found or (last if any_line else "")


def _without_our_words(error: str) -> str:
    match = _OF_TRAINING.fullmatch(error)
    return match[1] if match else error


def _raised(lines: list[str], at: int) -> tuple[str, int, bool]:
    """Return what a trace ends with, the line behind it, and whether the training printed it."""
    begin = at
    while at < len(lines) and not (lines[at][:1].strip() and _RAISED.fullmatch(lines[at])):
        if _TRACE.fullmatch(lines[at]):
            return "", at, False
        at += 1
    raised = lines[at] if at < len(lines) else ""
    more = lines[at + 1].strip() if at + 1 < len(lines) else ""
    if raised.endswith(":") and more:  # its message begins on the next line
        raised = f"{raised} {more}"
    if match := re.fullmatch(r"SystemExit: error: (.+)", raised):
        return _without_our_words(match[1]), at + 1, True
    whose = "\n".join([*lines[begin:at], raised])
    return raised, at + 1, not _OF_NOTEBOOKS.search(whose)
