"""Lets a Python process that a test starts be a fork of a warm one: see tests/warm."""

# ruff: noqa: PTH109, PTH110, PTH116, PTH208 - pathlib takes as long to import as all else here
import os
import sys

# What these begin is what takes long.
_OURS = ("kaggleops", "competitions", "mlflow", "tests")


def _stand_in(address: str) -> None:
    # Before this process opens anything of its own.
    inherited = [int(each) for each in os.listdir("/proc/self/fd") if int(each) > 2]
    inherited = [each for each in inherited if os.path.exists(f"/proc/self/fd/{each}")]

    import json
    import resource
    import signal
    import socket

    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(address)
    except OSError:
        return  # the tests that it was for have ended
    umask = os.umask(0)
    os.umask(umask)
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
    ignored = [each for each in numbers if signal.getsignal(each) is signal.SIG_IGN]
    asked = {
        "arguments": sys.orig_argv[1:],
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "paths": sys.path,
        "files": [0, 1, 2, *inherited],
        "umask": umask,
        "largest": resource.getrlimit(resource.RLIMIT_FSIZE),
        "ignores": ignored,
        "noted": f"{address}.{os.getpid()}",
    }
    socket.send_fds(connection, [json.dumps(asked).encode()], asked["files"])
    process = int(connection.recv(100))
    for number in numbers:
        if number not in ignored:
            signal.signal(number, lambda number, _: os.kill(process, number))
    for each in asked["files"]:
        os.close(each)  # whoever reads what the fork writes waits for this one's end, too
    code = int(connection.recv(100) or 1)
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _may() -> bool:
    arguments = [each for each in sys.orig_argv[1:] if each != "-u"]
    flags = sys.flags
    if len(arguments) < 1 or flags.isolated or flags.no_site or flags.optimize:
        return False
    if arguments[0] == "-m":
        return arguments[1].partition(".")[0] in _OURS
    return not arguments[0].startswith("-")


# A fork sees the disks of the process that it is forked from, and is of its user.
_own = (sys.prefix, str(os.stat("/proc/self/ns/mnt").st_ino), str(os.geteuid()))
_address, *_warm = os.environ.get("KAGGLEOPS_TESTS_WARM", "").split(os.pathsep)
if tuple(_warm) == _own and _may():
    _stand_in(_address)
