"""A `gcloud` that knows `compute start-iap-tunnel` and nothing else, for one machine.

    install(folder, machine, target)   # folder then goes onto the PATH

It says and does what the real one (528.0.0) does: it tries the connection first, then listens and
forwards. Strict: another command, option or machine is an error, with gcloud's own words.
"""

import contextlib
import shlex
import socket
import sys
import threading
from pathlib import Path

_KNOWN = {"--local-host-port", "--zone", "--project"}


def install(folder: Path, machine: str, target: int) -> None:
    """Put a `gcloud` into a folder.

    Args:
        folder: where to.
        machine: `projects/…/zones/…/instances/…`, the only one there is.
        target: the port on which the machine's port 5000 is found here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    call = shlex.join([sys.executable, __file__, machine, str(target)])
    (folder / "gcloud").write_text(f'#!/bin/sh\nexec {call} "$@"\n')
    (folder / "gcloud").chmod(0o755)


def main(machine: str, target: int, *arguments: str) -> None:
    """Do what `gcloud` is asked for."""
    words = [each for each in arguments if not each.startswith("--")]
    options = dict(each.partition("=")[::2] for each in arguments if each.startswith("--"))
    options.pop("--quiet", None)
    if words[:2] != ["compute", "start-iap-tunnel"] or len(words) != 4 or set(options) != _KNOWN:
        sys.exit(f"ERROR: (gcloud) unrecognized arguments: {' '.join(arguments)}")
    asked = f"projects/{options['--project']}/zones/{options['--zone']}/instances/{words[2]}"
    if asked != machine:
        _fail("Could not fetch resource:\n - The resource was not found")
    if words[3] != "5000":
        _fail("Error while connecting [4003: 'failed to connect to backend'].")
    sys.stderr.write("Testing if tunnel connection works.\n")
    try:
        socket.create_connection(("127.0.0.1", target)).close()
    except OSError:
        _fail("While checking if a connection can be made: Error while connecting [4003: 'failed "
              "to connect to backend']. (Failed to connect to port 5000)")  # fmt: skip
    host, _, port = options["--local-host-port"].rpartition(":")
    with socket.create_server((host, int(port))) as listening:
        sys.stdout.write(f"Listening on port [{port}].\n")
        sys.stdout.flush()
        while True:
            near, _ = listening.accept()
            far = socket.create_connection(("127.0.0.1", target))
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=_forward, args=(one, other), daemon=True).start()


def _forward(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(1 << 16):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)


def _fail(problem: str) -> None:
    sys.exit(f"ERROR: (gcloud.compute.start-iap-tunnel) {problem}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
