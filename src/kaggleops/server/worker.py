"""The process that `kaggleops serve` starts: MLflow's application over an index that it refreshes.

The bucket comes in while MLflow is imported, and while the server answers with what is there.
"""

import asyncio
import gc
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.server.settings import SECONDS_TO_END, Settings

_SECONDS_FOR_REQUESTS = 5  # that are being answered when the server is told to end
_NEW_OBJECTS = 50_000
"""After how many Python looks for cycles: a page of 100 runs is made of more, without any."""


def main() -> int:
    """Serve, and return the exit code."""
    to_parent = os.dup(1)
    os.dup2(2, 1)  # whatever else is printed
    threading.Thread(target=_end_with_parent, name="watch-parent", daemon=True).start()

    def say(**message: Any) -> None:
        with suppress(BrokenPipeError):  # the parent is gone, and this process is about to end
            os.write(to_parent, json.dumps(message).encode() + b"\n")

    try:
        return _serve(Settings.from_environment(), say)
    except KaggleOpsError as error:
        say(**_as_message(error))
        return 1


def _end_with_parent() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_END)
    os._exit(1)


def _as_message(error: KaggleOpsError) -> dict[str, Any]:
    told = {"doing": error.doing, "problem": error.problem, "hint": error.hint}
    return {"error": told, "usage": isinstance(error, UsageError)}


def _serve(settings: Settings, say: Callable[..., None]) -> int:
    logging.basicConfig(format="%(levelname)s: %(message)s")
    warnings.simplefilter("ignore")  # of MLflow's parts to each other, which nobody here can fix

    from kaggleops.server.refresher import Refresher

    def dies(error: KaggleOpsError | None) -> None:
        """End: a dead refresher would leave an index that stays as it was."""
        if error:
            say(**_as_message(error))
        os._exit(1)

    refresher = Refresher(settings, say, dies)
    refresher.start()

    import uvicorn

    from kaggleops.server.application import access, application, prepare

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            say(listens=True)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            asyncio.get_running_loop().call_later(_SECONDS_FOR_REQUESTS, self._cut_off)
            await super().shutdown(sockets)

        def _cut_off(self) -> None:
            """Say in one line what uvicorn is about to do: each answer would leave two traces."""
            if count := len(self.server_state.connections):
                logging.getLogger("kaggleops").warning("Answers that were cut off: %d.", count)
            for name in ("uvicorn.error", "asyncio"):
                logging.getLogger(name).disabled = True

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
    say(access=access(settings))
    gc.freeze()  # what is imported by now stays, and need not be looked through again
    gc.set_threshold(_NEW_OBJECTS)
    server = Server(config)
    # Until it runs; and at its end, when uvicorn raises the signal again, without an effect.
    signal.signal(signal.SIGTERM, server.handle_exit)
    try:
        server.run(sockets=[listening])
    finally:
        refresher.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
