"""The process that brings a bucket into its index before the server starts, and ends.

A process of its own, because what a large import takes of memory is then given back.
"""

import time
from dataclasses import asdict

from kaggleops.bucket import BucketUnavailableError, open_bucket
from kaggleops.errors import KaggleOpsError
from kaggleops.mlruns import EntityStore
from kaggleops.server.processes import begin_child, say, say_error
from kaggleops.server.settings import Settings

_SECONDS_BETWEEN_REPORTS = 0.1
_PATIENCE = 30.0  # seconds that somebody waits at a terminal for a bucket out of reach


def main() -> int:
    """Pull, saying how far it is; return the exit code."""
    settings = begin_child()
    try:
        _pull(settings)
    except KaggleOpsError as error:
        say_error(error)
        return 1
    return 0


def _pull(settings: Settings) -> None:
    store = EntityStore(open_bucket(settings.bucket, patience=_PATIENCE))
    out_of_reach: BucketUnavailableError | None = None
    try:
        store.check()  # a mistyped address is an error before anything is made for it
    except BucketUnavailableError as error:
        out_of_reach = error

    from kaggleops.index.refresh import Index
    from kaggleops.server.health import Notice, NoticeBoard

    index = Index(settings.index, store)
    board = NoticeBoard(settings.index)
    try:
        if out_of_reach:
            raise out_of_reach
        # Whoever starts a server sees all that there is, announced or not.
        index.refresh(_Reports(), full=True)
        board.post(Notice(fresh=time.time(), heard=time.time()))
    except BucketUnavailableError as error:
        if not board.read().fresh:
            raise
        say(warning=f"{error} What the index has from before is served meanwhile.")
    last = board.last_experiment()
    say(problems=len(index.problems()), experiment=last and asdict(last))
    index.close()


class _Reports:
    """Says how far it is, not too often."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() >= self._next or done == total:
            self._next = time.monotonic() + _SECONDS_BETWEEN_REPORTS
            say(done=done, total=total)


if __name__ == "__main__":
    raise SystemExit(main())
