"""A process that has imported MLflow, and forks trainings: the import takes each three seconds.

    python -m tests.tracking.forking SOCKET

A message on that inherited socket is a training: its script and environment as JSON, and its
standard input, output and errors and a pipe as file descriptors. The pipe tells its process id and
then how it ended. The training is a session of its own and ends as any Python process does.
"""

import json
import os
import signal
import socket
import sys
import types
from typing import NoReturn

import mlflow  # noqa: F401 - what this is for

from kaggleops.tracking import session  # noqa: F401


def next_training(requests: socket.socket) -> str:
    """Fork for each message; return, in the forked process only, the script that it is to run."""
    while True:
        message, files, _, _ = socket.recv_fds(requests, 1 << 20, 4)
        if not message:
            sys.exit()
        if os.fork() == 0:
            requests.detach()  # it is closed with the others, not when Python forgets it
            return _training(json.loads(message), files)
        for file in files:
            os.close(file)


def _training(asked: dict[str, dict[str, str]], files: list[int]) -> str:
    *standard, told = files
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if process := os.fork():
        for file in standard:
            os.close(file)
        _watch(process, told)
    os.setsid()
    for number, file in enumerate(standard):
        os.dup2(file, number)
    os.closerange(3, max(files) + 1)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    sys.argv, sys.path[0] = ["-c"], ""
    return str(asked["script"])


def _watch(process: int, told: int) -> NoReturn:
    os.write(told, b"%d\n" % process)
    _, ended = os.waitpid(process, 0)
    os.write(told, b"%d\n" % os.waitstatus_to_exitcode(ended))
    os._exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks for those who watch
    # Ctrl-C is meant for the tests, which end this one by closing the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _script = next_training(socket.socket(fileno=int(sys.argv[1])))
    sys.modules["__main__"] = _main = types.ModuleType("__main__")
    exec(compile(_script, "<string>", "exec"), _main.__dict__)
