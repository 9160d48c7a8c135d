"""Lets a Python process that a test starts be a fork of a warm one: see tests/warm."""

# pathlib takes as long to import as all else here.
# ruff: noqa: PTH109, PTH110, PTH113, PTH116, PTH118, PTH123, PTH208
import os
import sys

# What these begin is what takes long.
_OURS = (
    "kaggleops",
    "competitions",
    "mlflow",
    "tests",
    "papermill",
    "ipykernel_launcher",
    "IPython",
)
# How xdist starts a process that runs tests.
_WORKER = ["-c", "import sys;exec(eval(sys.stdin.readline()))"]
_ARGUMENTS = [each for each in sys.orig_argv[1:] if each not in ("-u", "-B")]


def _stand_in(address: str) -> None:
    # Before this process opens anything of its own.
    inherited = [int(each) for each in os.listdir("/proc/self/fd") if int(each) > 2]
    inherited = [each for each in inherited if os.path.exists(f"/proc/self/fd/{each}")]

    # What the modules of their plain names import takes as long as all that is done here.
    import _signal
    import _socket
    import marshal
    import resource

    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    try:
        connection.connect(address)
    except OSError:
        return  # the tests that it was for have ended
    umask = os.umask(0)
    os.umask(umask)
    with open("/proc/self/stat") as opened:  # numbers of processes come again: not with the time
        began = opened.read().rpartition(")")[2].split()[19]
    numbers = (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP, _signal.SIGQUIT, _signal.SIGUSR1)
    ignored = [each for each in numbers if _signal.getsignal(each) == _signal.SIG_IGN]
    asked = {
        "arguments": sys.orig_argv[1:],
        "tests": _ARGUMENTS == _WORKER,
        "python": [sys.executable, sys.prefix],
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "paths": sys.path,
        "files": [0, 1, 2, *inherited],
        "umask": umask,
        "largest": resource.getrlimit(resource.RLIMIT_FSIZE),
        "ignores": ignored,
        "noted": f"{address}.{os.getpid()}.{began}",
    }
    of_a_fork = os.environ.get("KAGGLEOPS_TESTS_GROUP") == str(os.getpgrp())
    if of_a_fork:
        asked["group"] = os.getpgrp()
    # What comes before the fork is known waits until it can be passed on.
    let_through = _signal.pthread_sigmask(_signal.SIG_BLOCK, numbers)
    files = b"".join(each.to_bytes(4, sys.byteorder) for each in asked["files"])
    passed = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, files)
    connection.sendmsg([marshal.dumps(asked)], [passed])
    process = int(connection.recv(100))
    if of_a_fork:
        os.setpgid(0, 0)  # what is sent to the group reaches the fork itself

    def pass_on(number: int, _: object) -> None:
        try:  # noqa: SIM105 - contextlib takes long to import
            os.kill(process, number)
        except ProcessLookupError:
            pass  # it has just ended, and how will be read

    for number in numbers:
        if number not in ignored:
            _signal.signal(number, pass_on)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, let_through)
    for each in asked["files"]:
        os.close(each)  # whoever reads what the fork writes waits for this one's end, too
    code = int(connection.recv(100) or 1)
    if code < 0:
        if -code != _signal.SIGKILL:
            _signal.signal(-code, _signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _may() -> bool:
    flags = sys.flags
    if not _ARGUMENTS or flags.isolated or flags.no_site or flags.optimize:
        return False
    if _ARGUMENTS[0] == "-m":
        return _ARGUMENTS[1].partition(".")[0] in _OURS
    return _ARGUMENTS == _WORKER or not _ARGUMENTS[0].startswith("-")


_run: list[str] = []
_OWN = "/tests/warm/python/sitecustomize.py"  # a clone has another


def of_the_platform() -> bool:
    """Run the file of this name that stands behind this one on the path; return whether one did.

    Kaggle's image has one, and Python itself runs the first one only.
    """
    for folder in sys.path:
        file = os.path.join(folder, "sitecustomize.py")
        if file not in _run and not file.endswith(_OWN) and os.path.isfile(file):
            _run.append(file)
            with open(file) as opened:
                its = {"__name__": __name__, "__file__": file}
                exec(compile(opened.read(), file, "exec"), its)
            return True
    return False


# A fork has what is installed for the process that it is forked from, sees its disks, and is of its
# user.
_address, _packages, *_warm = os.environ.get("KAGGLEOPS_TESTS_WARM", "::").split(os.pathsep)
_own = [str(os.stat("/proc/self/ns/mnt").st_ino), str(os.geteuid())]
if _warm == _own and _packages in sys.path and _may():
    _stand_in(_address)
of_the_platform()
