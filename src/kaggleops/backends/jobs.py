"""A job that is a process of this machine, which outlives whoever started it and its terminal.

It is a folder of this machine's state, called after its run: its plan, how far it is, its log. Its
process holds a lock from its first moment, and the kernel takes that away however it ends: so
whoever submits the run again, or looks for it after a restart, knows.
"""

import fcntl
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, ClassVar, Self

from kaggleops.backends.interface import is_ended
from kaggleops.errors import KaggleOpsError
from kaggleops.layout import is_run_id
from kaggleops.platforms.folders import private_file, private_folder, state_folder, write_private
from kaggleops.platforms.http import NotThereError

_TRIES = 50
_LOOK = 0.5  # seconds between two looks into a log


def locked(path: Path, how: int = fcntl.LOCK_EX | fcntl.LOCK_NB) -> IO[str] | None:
    """Return what holds a file's lock until it is closed; None where another process has it."""
    lock = private_file(path).open("r+")
    try:
        fcntl.flock(lock, how)
    except BlockingIOError:
        lock.close()
        return None
    return lock


class Job:
    """The job of one run, as a folder."""

    kind: ClassVar[str]  # of backend
    program: ClassVar[str]  # the module that is its process, given the folder

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.lock = folder / "lock"
        self._plan = folder / "plan.json"
        self._progress = folder / "progress.json"

    @classmethod
    def of(cls, run_id: str) -> Self:
        """Return the job of a run on this machine."""
        return cls(state_folder() / cls.kind / "jobs" / run_id)

    @classmethod
    def all(cls) -> list[Self]:
        """Return the jobs that this machine has."""
        jobs = state_folder() / cls.kind / "jobs"
        return [cls(each.parent) for each in jobs.glob("*/progress.json")]

    @classmethod
    def at(cls, address: str) -> Self | None:
        """Return the job that a run's tag names; None on another machine."""
        job = cls.of(Path(address).name)
        # Anybody may have written the tag, and a plan says which program is started.
        return job if is_run_id(job.run_id) and job.address == address else None

    @classmethod
    def known(cls, address: str, *, gone: bool = False) -> Self:
        """Return the job that a run's tag names, one that is `gone` only if that is said.

        Raises KaggleOpsError where it is not here, NotThereError where it is nowhere any more.
        """
        doing = f"looking for the job {address}"
        if (job := cls.at(address)) is None:
            hint = "Ask on the machine that it was submitted from."
            raise KaggleOpsError(doing, "it is not here", hint)
        if not (gone or job.exists):
            raise NotThereError(doing, "there is no such job")
        return job

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.folder.name

    @property
    def address(self) -> str:
        """What a run's tag says of it: `host:folder`."""
        return f"{socket.gethostname()}:{self.folder}"

    @property
    def exists(self) -> bool:
        """Whether it was ever prepared, and is not cleaned up."""
        return self._progress.is_file()

    @property
    def plan(self) -> Mapping[str, Any]:
        """What is to be done."""
        plan: dict[str, Any] = json.loads(self._plan.read_text())
        return plan

    @property
    def noted(self) -> dict[str, Any]:
        """What `note` has noted."""
        noted: dict[str, Any] = json.loads(self._progress.read_text())
        return noted

    def note(self, **changes: Any) -> None:
        """Note how far it is."""
        write_private(self._progress, json.dumps({**self.noted, **changes}))

    def prepare(self, plan: Mapping[str, Any]) -> None:
        """Write down what is to be done, and that nothing is yet."""
        write_private(self._plan, json.dumps(dict(plan)))
        write_private(self._progress, json.dumps({"status": "SCHEDULED", "said": "waiting"}))

    @property
    def ended(self) -> bool:
        """Whether its process has said that it ended."""
        return is_ended(self.noted["status"])

    def start(self, plan: Mapping[str, Any]) -> None:
        """Start its process, unless it has one. Raises KaggleOpsError where that does not end."""
        private_folder(self.folder)
        for _ in range(_TRIES):
            if lock := locked(self.lock):
                break
            if self.exists and not self.ended:
                return
            time.sleep(0.1)  # somebody looks whether it is free, or the last one is ending
        else:
            raise KaggleOpsError(f"starting a job in {self.folder}", "its last one is ending")
        with lock, private_file(self.log).open("a") as log:
            self.prepare(plan)
            subprocess.Popen(
                [sys.executable, "-m", self.program, str(self.folder)],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[lock.fileno()],  # it holds the lock from its first moment
            )

    @property
    def alive(self) -> bool:
        """Whether it has a process."""
        try:
            lock = locked(self.lock)
        except FileNotFoundError:  # somebody cleaned up behind it
            return False
        if lock:
            lock.close()
        return lock is None

    def wait(self) -> None:
        """Return when its process has ended."""
        if lock := locked(self.lock, fcntl.LOCK_SH):
            lock.close()

    def lines(self, over: Callable[[], bool]) -> Iterator[str]:
        """Yield the lines of its log, until that is `over`."""
        with self.log.open(errors="replace") as log:
            line = ""
            while True:
                last = over()  # asked before it is read: what it says last is read then
                while more := log.readline():
                    line += more
                    if line.endswith("\n"):
                        yield line[:-1]
                        line = ""
                if last:
                    if line:
                        yield line
                    return
                time.sleep(_LOOK)

    def remove(self) -> bool:
        """Delete it with its log, and tell whether it was there."""
        there = self.exists
        shutil.rmtree(self.folder, ignore_errors=True)
        return there
