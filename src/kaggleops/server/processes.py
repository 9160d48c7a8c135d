"""A process that `kaggleops serve` starts; and the socket that a server listens on.

A child talks to its parent in lines of JSON on its standard output. Its standard input is a pipe
that closes when the parent is gone, however that happened, and the child ends too.
"""

import ipaddress
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any, NamedTuple

from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.mlruns import ui
from kaggleops.printable import log_line
from kaggleops.redaction import redacted
from kaggleops.server.settings import Settings

_SECONDS_TO_END = 20.0


class Said(NamedTuple):
    """A child said something."""

    child: "Child"
    message: dict[str, Any]


class Ended(NamedTuple):
    """A child ended."""

    child: "Child"
    code: int  # its exit code, negative for a signal
    reason: str  # how it ended, with the last line that it wrote
    lived: float  # its seconds
    error: KaggleOpsError | None  # what it could not do, if it said so


Event = Said | Ended | None
"""None: this process was told to end, by a signal."""

Events = queue.SimpleQueue[Event]
"""A simple queue, as a signal handler may put something into it at any moment."""


class Child:
    """A process that runs a module of ours.

    Args:
        module: its name.
        settings: what it gets to know.
        events: gets what it says, and that it ended.
    """

    def __init__(self, module: str, settings: Settings, events: Events) -> None:
        self._events = events
        self._last_line = ""
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            env=settings.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[settings.socket] if settings.socket >= 0 else [],
            start_new_session=True,  # we end it, in our order, not the terminal's Ctrl-C
            text=True,
            errors="replace",
        )
        self._forwarding = threading.Thread(target=self._forward, daemon=True)
        self._forwarding.start()
        threading.Thread(target=self._listen, daemon=True).start()

    def end(self) -> None:
        """End it, and wait until it has ended."""
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _forward(self) -> None:
        assert self._process.stderr is not None  # noqa: S101 - it is a pipe
        for line in map(redacted, self._process.stderr):  # a library may print the index's URL
            self._last_line = line.strip() or self._last_line
            sys.stderr.write(log_line(line))
            sys.stderr.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        error = None
        for line in self._process.stdout:
            message = json.loads(line)
            if "error" in message:
                error = (UsageError if message["usage"] else KaggleOpsError)(**message["error"])
            else:
                self._events.put(Said(self, message))
        code = self._process.wait()
        self._forwarding.join()
        reason = f"it ended with {f'code {code}' if code >= 0 else signal.Signals(-code).name}"
        if error or self._last_line:
            reason += f" ({error or self._last_line})"
        lived = time.monotonic() - self._started
        self._events.put(Ended(self, code, reason, lived, error))


_to_parent = 1


def begin_child() -> Settings:
    """Set up a process that a `Child` runs, so that it ends with its parent; return its settings.

    Whatever else it prints goes to standard error.
    """
    global _to_parent
    _to_parent = os.dup(1)
    os.dup2(2, 1)
    threading.Thread(target=_watch_parent, name="watch-parent", daemon=True).start()
    return Settings.from_environment()


def _watch_parent() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_SECONDS_TO_END)
    os._exit(1)


def say(**message: Any) -> None:
    """Say something to the parent."""
    with suppress(BrokenPipeError):  # the parent is gone, and this process is about to end
        os.write(_to_parent, json.dumps(message).encode() + b"\n")


def say_error(error: KaggleOpsError) -> None:
    """Tell the parent why this process cannot do its task."""
    usage = isinstance(error, UsageError)
    say(error={"doing": error.doing, "problem": error.problem, "hint": error.hint}, usage=usage)


LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 5000


def listening_socket(host: str, port: int | None, *, to_anyone: bool) -> socket.socket:
    """Return a socket that listens at an address; a server process takes it later.

    It is bound by the one process that stays, so that a port in use is an error at once, and nobody
    is refused while a server process that died is started again.

    Args:
        host: a name or an address of this machine.
        port: the port; 0 for any free one, None for 5000 or, if that is in use, any free one.
        to_anyone: whether other machines may reach it.

    Raises:
        UsageError: the address is not available, or other machines could reach it.
    """
    if port is None:
        with suppress(UsageError):
            return listening_socket(host, DEFAULT_PORT, to_anyone=to_anyone)
        port = 0
    doing = f"listening on {host} port {port}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, OverflowError, UnicodeError) as error:
        raise UsageError(doing, f"unknown address ({error})", "Name another --host.") from error
    family, _, _, _, address = found[0]
    if not to_anyone and not ipaddress.ip_address(address[0]).is_loopback:
        raise UsageError(
            doing,
            "anyone who can reach that address could read and change everything",
            "Add --auth to ask for a password, or --anyone-may-read-and-write if you mean that; "
            "or leave out --host and use an SSH tunnel.",
        )
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
        bound.listen()  # two may bind one port as long as neither of them listens
    except (OSError, OverflowError) as error:
        bound.close()
        raise UsageError(doing, f"not available ({error})", "Choose another --port.") from error
    return bound


def url_of(bound: socket.socket) -> str:
    """Return the address at which a browser on this machine reaches a socket."""
    host, port, *_ = bound.getsockname()
    if ipaddress.ip_address(host).is_unspecified:
        host = "127.0.0.1" if bound.family == socket.AF_INET else "::1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def experiment_link(server_url: str, experiment_id: str | None) -> str:
    """Return the address of an experiment's run table; without one, of the list of experiments."""
    return f"{server_url}/{ui.run_table(experiment_id)}"


def progress_line(done: int, total: int) -> str:
    """Return how much of a bucket is in the index, as a sentence."""
    what = "runs, experiments and models"
    if done >= total:
        return f"All {total:,} {what} are in."
    return f"{done:,} of {total:,} {what} are in; the rest follows."
