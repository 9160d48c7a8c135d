"""The socket that a server listens on, and who can reach it."""

import ipaddress
import socket
from contextlib import suppress

from kaggleops.errors import UsageError

LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 5000


def listening_socket(host: str, port: int | None, *, to_anyone: bool) -> socket.socket:
    """Return a socket bound to an address; it listens once a server process takes it.

    Bound by the one process that stays, so that a port that is taken is known at once, and nobody
    is refused while a server process that died is started again.

    Args:
        host: a name or an address of this machine.
        port: the port; 0 for any free one, None for 5000 or, where that is taken, any free one.
        to_anyone: whether others than this machine may be let in.

    Raises:
        UsageError: the address cannot be had, or is not this machine's own.
    """
    if port is None:
        with suppress(UsageError):
            return listening_socket(host, DEFAULT_PORT, to_anyone=to_anyone)
        port = 0
    doing = f"listening on {host} port {port}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, OverflowError, UnicodeError) as error:
        raise UsageError(doing, f"that is no address ({error})", "Name another --host.") from error
    family, _, _, _, address = found[0]
    if not to_anyone and not ipaddress.ip_address(address[0]).is_loopback:
        raise UsageError(
            doing,
            "whoever can reach that address could read and change everything",
            "Add --auth to ask for a password, or --anyone-may-read-and-write if that is meant; "
            "or leave --host out and come through an SSH tunnel.",
        )
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except (OSError, OverflowError) as error:
        bound.close()
        raise UsageError(doing, f"it cannot be had ({error})", "Choose another --port.") from error
    return bound


def url_of(bound: socket.socket) -> str:
    """Return the address at which a browser on this machine reaches a socket."""
    host, port, *_ = bound.getsockname()
    if ipaddress.ip_address(host).is_unspecified:
        host = "127.0.0.1" if bound.family == socket.AF_INET else "::1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
