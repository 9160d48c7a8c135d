"""The processes that `kaggleops serve` starts: `pull` brings the bucket in once, `serve` serves.

The first pull is a process of its own because the memory that a large import takes is then freed,
and because it goes on beside the server, which answers with what is there.
"""

import gc
import logging
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from kaggleops.errors import KaggleOpsError
from kaggleops.server.processes import begin_child, say, say_error, wait_to_begin
from kaggleops.server.settings import Settings

_SECONDS_BETWEEN_REPORTS = 0.25
_PATIENT = 5  # of the 19 steps by which a process can let others go first
_PATIENCE = 30.0  # seconds that somebody waits at a terminal for a bucket out of reach
_SECONDS_FOR_REQUESTS = 5  # that are being answered when the server is told to end
_NEW_OBJECTS = 50_000
"""After how many Python looks for cycles: a page of 100 runs is made of more, without any."""


def main(task: str) -> int:
    """Run a task, and return the exit code."""
    settings = begin_child(prepares=task == "serve")
    try:
        return _pull(settings) if task == "pull" else _serve(settings)
    except KaggleOpsError as error:
        say_error(error)
        return 1


def _pull(settings: Settings) -> int:
    os.nice(_PATIENT)  # the server begins meanwhile, and then answers
    from kaggleops.bucket import BucketUnavailableError, open_bucket
    from kaggleops.mlruns import EntityStore

    store = EntityStore(open_bucket(settings.bucket, patience=_PATIENCE))
    out_of_reach: KaggleOpsError | None = None
    try:
        store.check()  # a mistyped address is an error before anything is made for it
    except BucketUnavailableError as error:
        out_of_reach = error

    from kaggleops.index.refresh import Index
    from kaggleops.server.health import Notice, NoticeBoard
    from kaggleops.server.refresher import refresh_lock

    index = Index(settings.index, store)
    board = NoticeBoard(settings.index)
    last = board.last_experiment()
    before = board.read()
    if out_of_reach and not (before.fresh or last):
        raise out_of_reach
    say(opened=True, experiment=last)
    lock = refresh_lock(settings.index)
    leads = lock.held()  # as long as this process lives; the server next to it follows meanwhile
    notice = before
    next_report = 0.0

    def post(tell: Callable[[Notice], object] = board.post, **news: Any) -> None:
        nonlocal notice
        notice = replace(notice, **news)
        if leads:
            tell(notice)

    def report(done: int, total: int) -> None:
        nonlocal last, next_report
        now = time.monotonic()
        if now < next_report and done < total:
            return
        next_report = now + _SECONDS_BETWEEN_REPORTS
        post(board.post_at_once, heard=time.time(), done=done, total=total)
        last = last or (board.last_experiment() if done else None)
        say(done=done, total=total, experiment=last)

    try:
        if out_of_reach:
            raise out_of_reach
        index.refresh(report)
        post(fresh=time.time(), heard=time.time(), trouble="", total=0)
    except KaggleOpsError as error:
        if not (notice.total or before.fresh or last):
            raise  # nothing can be served, now or before
        post(trouble=str(error))
        say(warning=f"{error} What the index has is served, and the bucket is asked again.")
    last = board.last_experiment()
    say(problems=len(index.problems()), experiment=last)
    index.close()
    return 0


def _serve(settings: Settings) -> int:
    logging.basicConfig(format="%(levelname)s: %(message)s")
    warnings.simplefilter("ignore")  # of MLflow's parts to each other, which nobody here can fix

    import uvicorn

    from kaggleops.server.application import application, prepare
    from kaggleops.server.health import NoticeBoard
    from kaggleops.server.refresher import Refresher

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            say(ready=True)

    failed = False

    def give_up() -> None:
        nonlocal failed
        failed = server.should_exit = True

    prepare(settings)
    wait_to_begin()
    board = NoticeBoard(settings.index)
    refresher = Refresher(settings, board, give_up)
    listening = socket.socket(fileno=settings.socket)
    listens = ip_address(listening.getsockname()[0])
    config = uvicorn.Config(
        application(settings, board, refresher, listens),
        log_level="warning",
        access_log=False,
        lifespan="off",  # MLflow's would clean up after its assistant
        timeout_graceful_shutdown=_SECONDS_FOR_REQUESTS,
    )
    server = Server(config)
    gc.freeze()  # what is imported by now stays, and need not be looked through again
    gc.set_threshold(_NEW_OBJECTS)
    refresher.start()
    try:
        server.run(sockets=[listening])
    finally:
        refresher.stop()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
