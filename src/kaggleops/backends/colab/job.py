"""A run's job on Colab: a folder of this machine, where its supervisor notes how far it is.

Two locks tell who is at work, and the kernel takes them away from whoever dies: the supervisor
holds one, and every process of the CLI that it starts inherits the other.
"""

import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from kaggleops.backends.colab.cli import ColabCli, ColabConfig
from kaggleops.backends.config import read_config
from kaggleops.backends.interface import JobState, is_ended
from kaggleops.backends.ready_notebook import parameters_of
from kaggleops.bucket.location import tracking_uri
from kaggleops.errors import KaggleOpsError
from kaggleops.platforms.folders import state_folder, write_private

JOB = "colab_job"
"""The tag of a run that says where its job is: `host:folder` of its supervisor."""

_TRIES = 50


@dataclass(frozen=True)
class Progress:
    """How far a job is."""

    status: str = "SCHEDULED"  # MLflow's word for it
    said: str = "waiting"  # ours: `waiting`, `allocating`, `running`, …
    reason: str = ""  # why it ended so
    asked: bool = False  # whether Colab was asked for a runtime, so that there may be one
    endpoint: str = ""  # what Colab calls the runtime, once that is known
    rate: float = 0.0  # compute units an hour that the runtime uses up
    since: float = 0.0  # when it was allocated, in seconds since the epoch
    released: bool = False  # whether there is none any more

    @property
    def state(self) -> JobState:
        units = self.rate if self.rate and not self.over else None
        state = JobState(self.status, self.said, self.reason, units=units)
        if state.ended and not self.over:
            problem = "its runtime may still use up units: see https://colab.research.google.com"
            return replace(state, reason="; ".join(filter(None, (self.reason, problem))))
        return state

    @property
    def over(self) -> bool:
        """Whether nothing is left to do, not even to release the runtime."""
        return is_ended(self.status) and (self.released or not self.asked)


class Job:
    """The job of one run, which is a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.notebook = folder / "run.ipynb"
        self._progress = folder / "progress.json"

    @staticmethod
    def folder_of(run_id: str) -> Path:
        """Return the folder for a run's job on this machine."""
        return state_folder() / "colab/jobs" / run_id

    @classmethod
    def all(cls) -> "list[Job]":
        return [cls(each.parent) for each in state_folder().glob("colab/jobs/*/progress.json")]

    # -- what is to be done -------------------------------------------------------------------

    def create(self, notebook: str, config: ColabConfig) -> None:
        """Write down a new job, in place of one that is over."""
        self.remove()
        self.folder.mkdir(mode=0o700, parents=True)
        self.notebook.write_text(notebook)
        self.log.touch()
        plan = {"nonce": secrets.token_hex(16), "config": asdict(config)}
        write_private(self.folder / "plan.json", json.dumps(plan))

    @property
    def exists(self) -> bool:
        return self._progress.is_file()

    @property
    def _plan(self) -> Mapping[str, Any]:
        plan: dict[str, Any] = json.loads((self.folder / "plan.json").read_text())
        return plan

    @property
    def nonce(self) -> str:
        return str(self._plan["nonce"])

    @property
    def config(self) -> ColabConfig:
        return read_config(ColabConfig, self._plan["config"], str(self.folder))

    @property
    def run_id(self) -> str:
        return parameters_of(self.notebook.read_text())["run_id"]

    @property
    def tracking_uri(self) -> str:
        return tracking_uri(parameters_of(self.notebook.read_text())["bucket"])

    @property
    def _home(self) -> Path:
        return self.folder.parents[1] / "home"  # of whoever submitted it

    @property
    def address(self) -> str:
        return f"{socket.gethostname()}:{self.folder}"

    @property
    def session(self) -> str:
        return f"kaggleops-{self.folder.name}"

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- how far it is ------------------------------------------------------------------------

    @property
    def progress(self) -> Progress:
        return Progress(**json.loads(self._progress.read_text()))

    def note(self, **changes: Any) -> None:
        before = self.progress if self.exists else Progress()
        new = self._progress.with_suffix(".new")
        new.write_text(json.dumps(asdict(replace(before, **changes))))
        new.replace(self._progress)

    # -- who is at work -----------------------------------------------------------------------

    def start(self) -> None:
        """Start its supervisor, which outlives this process and its terminal.

        Raises KaggleOpsError if it has one.
        """
        with self._lock_file("supervisor").open("w") as lock:
            for _ in range(_TRIES):
                with suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                time.sleep(0.1)  # somebody looks whether it is free
            else:
                raise KaggleOpsError("handing a job to a supervisor", "it has one already")
            self.note()  # not before: it would be taken for one whose supervisor died
            with (self.folder / "supervisor.log").open("w") as log:
                subprocess.Popen(
                    [sys.executable, "-m", "kaggleops.backends.colab", str(self.folder)],
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=[lock.fileno()],  # it holds the lock from its first moment
                )

    @contextmanager
    def unsupervised(self) -> Iterator[bool]:
        """Yield whether it has no supervisor; while it is so, nobody else becomes one."""
        with self._locked("supervisor", fcntl.LOCK_EX | fcntl.LOCK_NB) as lock:
            yield lock is not None

    @property
    def supervised(self) -> bool:
        with self.unsupervised() as free:
            return not free

    def wait(self) -> None:
        with self._locked("supervisor", fcntl.LOCK_SH):
            pass

    @contextmanager
    def cli(self) -> Iterator[ColabCli]:
        """Yield the CLI; its processes are known as this job's."""
        config = self.config
        with self._lock_file("cli").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            sessions = self.folder / "sessions.json"
            yield ColabCli(config.cli, config.auth, self._home, sessions, lock.fileno())

    def cli_running(self) -> bool:
        """Tell whether a process of the CLI is at work, be it one that a supervisor left behind."""
        with self._locked("cli", fcntl.LOCK_EX | fcntl.LOCK_NB) as lock:
            return lock is None

    def end_cli(self) -> None:
        """End the CLI's processes that a supervisor left behind."""
        if self.cli_running():  # so the number of their group is still theirs
            with suppress(ProcessLookupError):
                os.killpg(int((self.folder / "pid").read_text()), signal.SIGKILL)
            with self._locked("cli", fcntl.LOCK_EX):
                pass

    def _lock_file(self, name: str) -> Path:
        return self.folder / f"{name}.lock"

    @contextmanager
    def _locked(self, name: str, how: int) -> Iterator[IO[str] | None]:
        with self._lock_file(name).open("w") as lock:
            try:
                fcntl.flock(lock, how)
            except BlockingIOError:
                yield None
                return
            yield lock
