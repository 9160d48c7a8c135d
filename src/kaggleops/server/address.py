"""The address of a server: the socket that it listens on, and what leads people there."""

import ipaddress
import socket
from contextlib import suppress

from kaggleops.errors import UsageError
from kaggleops.mlruns import ui

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
