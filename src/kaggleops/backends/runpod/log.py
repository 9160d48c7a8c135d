"""The log of a pod as a stream of lines, each once, and the log that a pod leaves in the bucket.

A pod that is deleted takes its log along, so it puts it into the bucket before.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from kaggleops.bucket import ABSENT, Bucket, ObjectNotFoundError
from kaggleops.layout import LEFT_BY_JOBS

_LONGEST = 20_000_000  # bytes at the end of a log that are kept


class Reading:
    """What has been read of one log; `opened` opens its stream from an event on, by its id.

    Events of one moment have the same id, and the stream begins anew with all of them: those that
    are known are left out. `beginning` is the id before all.
    """

    def __init__(self, opened: Callable[[str], Iterable[str]], beginning: str) -> None:
        self._opened = opened
        self._last = beginning
        self._of_last: Counter[str] = Counter()

    def on(self) -> Iterator[str]:
        """Yield the log's lines from where the last reading ended until the stream does."""
        again = self._of_last.copy()
        for event_id, line in events(self._opened(self._last)):
            if event_id == self._last and again[line]:
                again[line] -= 1
                continue
            if event_id != self._last:
                self._last, self._of_last = event_id, Counter()
            self._of_last[line] += 1
            yield line


def events(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the id and the line of each event of a stream (https://html.spec.whatwg.org, SSE)."""
    event_id = ""
    data: list[str] = []
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            # It is sent back in a header.
            event_id = value if value.isascii() and value.isprintable() else ""
        elif name == "data":
            data.append(value)
        elif not line and data:
            yield event_id, _line("\n".join(data))
            data = []


def _line(data: str) -> str:
    """Return the line that an event holds; of one that is not as it should be, all that it is."""
    try:
        line = json.loads(data)["line"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return data
    return line if isinstance(line, str) else data


def key_of(run_id: str) -> str:
    """Return where in a bucket the log of a run's last job lies."""
    return LEFT_BY_JOBS[0].format(run_id)


def keep(bucket: Bucket, run_id: str, file: Path) -> None:
    """Put the end of a log's file (empty for none) into a bucket, in place of an older one."""
    content = b""
    with suppress(FileNotFoundError), file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - _LONGEST))
        content = opened.read(_LONGEST)
    key = key_of(run_id)
    before = bucket.stat(key)
    bucket.write(key, content, expected=before.version if before else ABSENT)


def kept(bucket: Bucket, run_id: str) -> list[str] | None:
    """Return the lines of the log that a run's last job left in a bucket, None if it left none."""
    try:
        found = bucket.read(key_of(run_id))
    except ObjectNotFoundError:
        return None
    assert found is not None  # noqa: S101 - it was read unconditionally
    return found.data.decode(errors="replace").removesuffix("\n").split("\n")
