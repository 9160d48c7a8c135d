"""The process that `kaggleops serve` starts: MLflow's application over an index that it refreshes.

The bucket comes in while MLflow is imported, and while the server answers with what is there.
"""

import gc
import logging
import os
import signal
import socket
import sys
import warnings
from ipaddress import ip_address

from kaggleops.errors import KaggleOpsError
from kaggleops.server.processes import begin_child, say, say_error
from kaggleops.server.settings import Settings

_SECONDS_FOR_REQUESTS = 5  # that are being answered when the server is told to end
_NEW_OBJECTS = 50_000
"""After how many Python looks for cycles: a page of 100 runs is made of more, without any."""


def main() -> int:
    """Serve, and return the exit code."""
    settings = begin_child()
    try:
        return _serve(settings)
    except KaggleOpsError as error:
        say_error(error)
        return 1


def _serve(settings: Settings) -> int:
    logging.basicConfig(format="%(levelname)s: %(message)s")
    warnings.simplefilter("ignore")  # of MLflow's parts to each other, which nobody here can fix

    from kaggleops.server.refresher import Refresher

    # A dead one would leave an index that stays as it was: another process starts.
    refresher = Refresher(settings, say, lambda: os._exit(1))
    refresher.start()

    import uvicorn

    from kaggleops.server.application import application, prepare

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            say(listens=True)

    prepare(settings)
    refresher.begun.wait()
    listening = socket.socket(fileno=settings.socket)
    config = uvicorn.Config(
        application(settings, refresher, ip_address(listening.getsockname()[0])),
        log_level="warning",
        access_log=False,
        lifespan="off",  # MLflow's would clean up after its assistant
        timeout_graceful_shutdown=_SECONDS_FOR_REQUESTS,
    )
    gc.freeze()  # what is imported by now stays, and need not be looked through again
    gc.set_threshold(_NEW_OBJECTS)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # once it has answered what was asked
    try:
        Server(config).run(sockets=[listening])
    finally:
        refresher.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
