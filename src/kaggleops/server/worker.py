"""A process that serves the MLflow application, with a thread that refreshes its index."""

import gc
import logging
import socket
import sys
import warnings
from ipaddress import ip_address

import uvicorn

from kaggleops.errors import KaggleOpsError
from kaggleops.server.processes import begin_child, say, say_error, wait_to_begin

_SECONDS_FOR_REQUESTS = 5  # that are being answered when the server is to end
_NEW_OBJECTS = 50_000
"""After how many Python looks for cycles: a page of 100 runs is made of more, without any."""


class _Server(uvicorn.Server):
    """Says when it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        say(ready=True)


def main() -> int:
    """Serve until told to end; return the exit code."""
    settings = begin_child(prepares=True)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    warnings.simplefilter("ignore")  # of MLflow's parts to each other, which nobody here can mend

    from kaggleops.server.application import application, prepare
    from kaggleops.server.health import NoticeBoard
    from kaggleops.server.refresher import Refresher

    failed = False

    def give_up() -> None:
        nonlocal failed
        failed = server.should_exit = True

    try:
        prepare(settings)
        wait_to_begin()
        board = NoticeBoard(settings.index)
        refresher = Refresher(settings, board, give_up)
        listening = socket.socket(fileno=settings.socket)
        listens = ip_address(listening.getsockname()[0])
        app = application(settings, board, refresher, listens)
    except KaggleOpsError as error:
        say_error(error)
        return 1
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="off",  # MLflow's would look after what its assistant has left behind
        timeout_graceful_shutdown=_SECONDS_FOR_REQUESTS,
    )
    server = _Server(config)
    gc.freeze()  # what is imported by now stays, and need not be looked through again
    gc.set_threshold(_NEW_OBJECTS)
    refresher.start()
    try:
        server.run(sockets=[listening])
    finally:
        refresher.stop()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
