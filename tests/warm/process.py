"""The process that has imported what takes long, and is forked for each that asks.

    python -m tests.warm.process KIND LISTENING LIFE

Who connects to the inherited socket LISTENING sends what to run and its files. The answer is the
fork's process id, and then how it ended. It is killed when the connection is closed; this process
ends when LIFE can be read and no fork is left.
"""

import atexit
import contextlib
import fcntl
import gc
import importlib
import io
import marshal
import os
import resource
import runpy
import select
import signal
import socket
import sys
import tempfile
import threading
import types
import warnings
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NoReturn

from jupyter_client import localinterfaces

_IMPORTED = {
    "mlflow": [
        "mlflow",
        "tests.warm.disk",
        "mlflow.server.fastapi_app",
        "mlflow.server.auth",
        "mlflow.projects",
        "mlflow.store.tracking.sqlalchemy_store",
        "mlflow.store.model_registry.sqlalchemy_store",
        "mlflow.store.db_migrations",
        "IPython",
        "IPython.core.interactiveshell",
        "git",
        "gcsfs",
        "google.cloud.storage",
        "boto3",
        "kaggleops.bucket.s3",
        "rich.table",
        "uvicorn",
        "uvicorn.protocols.http.auto",
        "uvicorn.loops.auto",
        "uvicorn.lifespan.on",
        "papermill",
        "papermill.cli",
        "ipykernel.kernelapp",
        "ipykernel.ipkernel",
        "matplotlib.pyplot",
        "matplotlib.backends.backend_agg",
        "kaggleops.cli",
        "kaggleops.notebook",
        "kaggleops.tracking.store",
    ]
}
_IMPORTED["training"] = [
    *_IMPORTED["mlflow"],
    "scipy.stats",
    "playwright.sync_api",
    "hcl2",
    "transformers.trainer",
    "transformers.models.bert.modeling_bert",
    "accelerate",
    "hydra",
    "tests.warm.estimators",
    "torch.distributed.launcher.api",
    "competitions.train",
    "competitions.training",
    "competitions.gather",
    "competitions.predict",
]
# They look at the environment as they are imported.
_ANEW = ("mlflow.server",)
# What Kaggle's image stands before, and what has imported it.
_HOOKED = ("google.cloud.storage", "gcsfs", "papermill", "kaggleops")


def next_asked(listening: socket.socket, life: int) -> dict[str, Any]:
    """Fork for each that asks; return, in the forked process only, what it is to run."""
    running: dict[int, tuple[int, socket.socket]] = {}  # by a file that tells of the fork's end
    waiting = select.poll()
    waiting.register(listening, select.POLLIN)
    waiting.register(life, select.POLLIN)
    over = False
    while running or not over:
        ready = {file for file, _ in waiting.poll()}
        for ending, (process, connection) in list(running.items()):
            if not ready & {ending, connection.fileno()}:
                continue
            if ending not in ready:
                os.kill(process, signal.SIGKILL)  # what stands for it was killed
            _, ended = os.waitpid(process, 0)
            with contextlib.suppress(OSError):
                connection.send(b"%d" % os.waitstatus_to_exitcode(ended))
            del running[ending]
            waiting.unregister(ending)
            waiting.unregister(connection)
            os.close(ending)
            connection.close()
        if not over and life in ready:
            over = True
            waiting.unregister(listening)
            waiting.unregister(life)
        elif not over and listening.fileno() in ready:
            connection, _ = listening.accept()
            message, files, _, _ = socket.recv_fds(connection, 1 << 20, 250)
            process = os.fork() if message else -1
            if process == 0:
                for ending, (_, other) in running.items():
                    os.close(ending)
                    other.close()
                for each in (connection, listening):
                    each.close()
                os.close(life)
                asked: dict[str, Any] = marshal.loads(message)
                _become(asked, files)
                return asked
            for file in files:
                os.close(file)
            if not message:
                connection.close()
                continue
            with contextlib.suppress(OSError):
                connection.send(b"%d" % process)
            ending = os.pidfd_open(process)
            running[ending] = (process, connection)
            waiting.register(ending, select.POLLIN)
            waiting.register(connection, select.POLLIN)
    sys.exit()


def _become(asked: dict[str, Any], files: list[int]) -> None:
    """Be, in all but its code, the process that was asked for."""
    # What a fork starts is in that one's process group; all else has one of its own.
    os.setpgid(0, asked.get("group", 0))
    # Out of the way of the numbers that they are to have.
    beyond = max(asked["files"]) + 1
    moved = [fcntl.fcntl(file, fcntl.F_DUPFD, beyond) for file in files]
    for file in files:
        os.close(file)
    for file, number in zip(moved, asked["files"], strict=True):
        os.dup2(file, number)
        os.close(file)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in asked["ignores"]:
        signal.signal(number, signal.SIG_IGN)
    os.umask(asked["umask"])
    if largest := asked.get("largest"):
        resource.setrlimit(resource.RLIMIT_FSIZE, largest)
    os.environ.clear()
    os.environ.update(asked["environment"])
    if not asked.get("tests"):
        os.environ["KAGGLEOPS_TESTS_GROUP"] = str(os.getpgrp())
    if "JPY_PARENT_PID" in os.environ:  # a kernel ends when its parent is another
        os.environ["JPY_PARENT_PID"] = str(os.getppid())
    os.chdir(asked["folder"])
    if noted := asked.get("noted"):
        Path(noted).write_text(str(os.getpid()))
    # Jupyter's kernels: a port is free only until one listens, so each process has its own address.
    # Of kernels that began beside each other one in a hundred found its port taken, and died.
    number = os.getpid()
    localinterfaces.LOCALHOST = f"127.{number >> 16 & 127 | 128}.{number >> 8 & 255}.{number & 255}"
    localinterfaces.local_ips().append(localinterfaces.LOCALHOST)


def _run(asked: dict[str, Any]) -> None:
    """Be the interpreter with that command line."""
    if "PYTHONUNBUFFERED" in os.environ or asked["arguments"][:1] == ["-u"]:
        for name, file in (("stdout", 1), ("stderr", 2)):
            given, raw = getattr(sys, name), io.FileIO(file, "w", closefd=False)
            to = io.TextIOWrapper(raw, given.encoding, given.errors, write_through=True)
            setattr(sys, name, to)
    tempfile.tempdir = None  # TMPDIR may be another
    sys.executable, sys.prefix = asked.get("python", (sys.executable, sys.prefix))
    sys.orig_argv = [sys.executable, *asked["arguments"]]
    how, *arguments = [each for each in asked["arguments"] if each not in ("-u", "-B")]
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    folder = {"-m": str(Path.cwd()), "-c": ""}.get(how, str(Path(how).resolve().parent))
    sys.path[:] = [folder, *asked["paths"]]
    _forget_other_code()
    if sys.modules["sitecustomize"].of_the_platform():
        for package in _HOOKED:
            _forget(package)
    if how == "-m":
        sys.argv = arguments
        if not hasattr(sys.modules.get(arguments[0]), "__path__"):
            sys.modules.pop(arguments[0], None)  # else it is warned that there are two of it
        runpy._run_module_as_main(arguments[0])  # type: ignore[attr-defined]
    elif how == "-c":
        sys.argv = ["-c", *arguments[1:]]
        exec(compile(arguments[0], "<string>", "exec"), main.__dict__)
    else:
        sys.argv = [how, *arguments]
        main.__file__ = how
        exec(compile(Path(how).read_bytes(), how, "exec"), main.__dict__)


def _end(asked: dict[str, Any]) -> NoReturn:
    """Run it, and end as the interpreter does, without taking apart what was imported.

    That would be half a second of processor time for each fork.
    """
    code, interrupted = 0, False
    try:
        _run(asked)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            sys.stderr.write(f"{error.code}\n")
    except BaseException as error:  # noqa: BLE001 - as the interpreter does
        sys.excepthook(type(error), error, error.__traceback__)
        code, interrupted = 1, isinstance(error, KeyboardInterrupt)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if not stream.closed:
                stream.flush()
        except OSError as error:
            code = 120
            if stream is sys.stdout:
                said = f"Exception ignored in: {stream!r}\n{type(error).__name__}: {error}\n"
                sys.stderr.write(said)
    if interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code & 0xFF)


def _make_a_client() -> None:
    """Have read what each of Amazon's clients is made from."""
    import boto3

    from tests.warm import models

    models.read_once()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]  # a fork gets an environment of its own
    boto3.client("s3", region_name="us-east-1")


def _forget_other_code() -> None:
    # A clone's own comes before what was imported from here.
    for package in ("kaggleops", "competitions", "papermill", "tests"):
        if package in sys.modules:
            found = PathFinder.find_spec(package, sys.path)
            if found is None or found.origin != sys.modules[package].__file__:
                _forget(package)


def _forget(package: str) -> None:
    for name in list(sys.modules):
        if f"{name}.".startswith(f"{package}."):
            del sys.modules[name]
    above, _, last = package.rpartition(".")
    if above:
        vars(sys.modules[above]).pop(last, None)


if __name__ == "__main__":
    _kind, _listening, _life = sys.argv[1:]
    # Ctrl-C is meant for the tests, and this process ends with them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with warnings.catch_warnings(action="ignore"):
        for _name in _IMPORTED[_kind]:
            importlib.import_module(_name)
    for _name in _ANEW:
        _forget(_name)
    _make_a_client()
    localinterfaces.local_ips()  # it asks once
    gc.collect()
    gc.freeze()  # else each fork's first collection copies all of it
    _asked = next_asked(socket.socket(fileno=int(_listening)), int(_life))
    _end(_asked)
