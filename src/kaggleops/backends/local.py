"""This machine as a backend: each job is a process of its own, which outlives whoever started it.

A job is a folder of this machine's state, called after its run. Its process holds a lock from its
first moment, and the kernel takes that away however it ends: so whoever submits the run again, or
looks for it after a restart, knows. As many run at once as there are slots, which are locks, too;
with GPUs, a slot is one of them. What finds no slot free waits.
"""

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from mlflow.entities import Run

from kaggleops.backends import job_log
from kaggleops.backends.base import Backend
from kaggleops.backends.config import Config
from kaggleops.backends.interface import Finding, JobState, Offer
from kaggleops.backends.ready_notebook import parameters_of
from kaggleops.backends.remote_run import RemoteRun
from kaggleops.bucket import open_bucket
from kaggleops.bucket.location import bucket_uri, tracking_uri
from kaggleops.errors import KaggleOpsError, UsageError, explained
from kaggleops.git.bundles import fetch_or_unbundle
from kaggleops.git.checkouts import clone
from kaggleops.git.commits import Commit, find_commit, has_commit
from kaggleops.launch.launcher import (
    Launch,
    RunFailedError,
    is_to_be_continued,
    launch_in,
    temporary_folder,
)
from kaggleops.layout import is_run_id
from kaggleops.platforms.folders import private_file, private_folder, state_folder, write_private
from kaggleops.platforms.machine import Gpu, memory, visible_gpus
from kaggleops.redaction import redacted
from kaggleops.resources.places import DATA_ROOT, data_root
from kaggleops.tracking.push import push
from kaggleops.tracking.session import session

JOB = "local_job"
"""The tag of a run that says where its job is: `host:folder`."""

_PAUSE = 0.5  # seconds between two looks for a free slot
_TRIES = 50
_MOST_JOBS = 256  # at once; each is a file, and a sweep's tag may say any number
_GPUS = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class LocalConfig(Config):
    """The fields of config/backend/local.yaml, where each is explained."""

    jobs: int = 0
    repository: str = ""

    @property
    def slots(self) -> int:
        """How many jobs run at once."""
        return self.jobs or len(visible_gpus(os.environ)) or 1

    def with_room_for(self, jobs: int | None) -> "LocalConfig":
        """Return it for somebody who asks for so many at once, where no GPUs are to be shared."""
        if visible_gpus(os.environ):
            return self
        return replace(self, jobs=self.jobs or min(jobs or 0, _MOST_JOBS))

    def check(self, doing: str) -> None:
        if self.jobs < 0:
            raise UsageError(doing, f"jobs: {self.jobs} is no number of jobs")
        if self.jobs > _MOST_JOBS:
            raise UsageError(doing, f"jobs: {self.jobs} is too many, {_MOST_JOBS} are the most")


class Job:
    """The job of one run, which is a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self._plan = folder / "plan.json"
        self._begun = folder / "begun"
        self._ended = folder / "ended.json"

    @classmethod
    def of(cls, run_id: str) -> "Job":
        return cls(state_folder() / "local/jobs" / run_id)

    @property
    def address(self) -> str:
        return f"{socket.gethostname()}:{self.folder}"

    @property
    def exists(self) -> bool:
        return self._plan.is_file()

    @property
    def plan(self) -> Mapping[str, Any]:
        plan: dict[str, Any] = json.loads(self._plan.read_text())
        return plan

    def start(self, plan: Mapping[str, Any]) -> None:
        """Start its process, unless it has one: it outlives this process and its terminal."""
        private_folder(self.folder)
        with self._lock_file() as lock:
            for _ in range(_TRIES):
                with suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                if self.exists and not self._ended.exists():
                    return
                time.sleep(0.1)  # somebody looks whether it is free, or the last one is ending
            else:
                raise KaggleOpsError(f"starting a job in {self.folder}", "its last one is ending")
            self._begun.unlink(missing_ok=True)
            self._ended.unlink(missing_ok=True)
            write_private(self._plan, json.dumps(dict(plan)))
            with private_file(self.log).open("a") as log:
                subprocess.Popen(
                    [sys.executable, "-m", "kaggleops.local_job", str(self.folder)],
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=[lock.fileno()],  # it holds the lock from its first moment
                )

    def end(self, status: str, reason: str = "") -> None:
        write_private(self._ended, json.dumps({"status": status, "reason": reason}))

    def begins(self) -> None:
        private_file(self._begun)

    @property
    def state(self) -> JobState:
        if self.alive:
            begun = self._begun.exists()
            return JobState("RUNNING", "running") if begun else JobState("SCHEDULED", "waiting")
        try:
            ended = json.loads(self._ended.read_text())
            return JobState(str(ended["status"]), "ended", str(ended["reason"]))
        except (OSError, ValueError, KeyError):
            return JobState("FAILED", "ended", "its process died")

    @property
    def alive(self) -> bool:
        try:
            with self._lock_file() as lock:
                return not _locked(lock)
        except FileNotFoundError:  # somebody cleaned up behind it
            return False

    def wait(self) -> None:
        """Return when its process has ended."""
        with self._lock_file() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)

    def _lock_file(self) -> IO[str]:
        return private_file(self.folder / "lock").open("r+")


def _locked(lock: IO[str]) -> bool:
    with suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


class LocalBackend(Backend[LocalConfig]):
    """Runs commits on this machine, beside each other."""

    name = "local"
    waiting = "waiting for its turn on this machine"
    runs_here = True
    config_type = LocalConfig
    ask_every = 0.0

    def submit(self, commit: Commit, what: Launch, config: LocalConfig) -> RemoteRun:
        """Start a commit of a repository on this machine here, and return at once."""
        here = config.repository or str(commit.repository)
        return super().submit(commit, what, replace(config, repository=here))

    def check(self, tracking_uri: str, config: LocalConfig) -> None:
        """Whatever this machine reaches will do."""

    def place(self, run_id: str, config: LocalConfig) -> dict[str, str]:
        return {JOB: Job.of(run_id).address}

    def send(self, tags: Mapping[str, str], notebook: str, config: LocalConfig) -> None:
        """Start the job's process, unless it has one."""
        job = self._job(tags)
        plan = {**parameters_of(notebook), "jobs": config.slots, "here": config.repository}
        try:
            job.start(plan)
        except OSError as error:
            raise KaggleOpsError(f"starting a job in {job.folder}", str(error)) from error

    def _job(self, tags: Mapping[str, str]) -> Job:
        host, _, folder = tags[JOB].partition(":")
        job = Job(Path(folder))
        # Anybody may have written the tag, `..` for a name, too.
        ours = is_run_id(job.folder.name) and job.folder == Job.of(job.folder.name).folder
        if host != socket.gethostname() or not ours:
            hint = "Ask on the machine that it was submitted from."
            raise KaggleOpsError(f"looking for the job {tags[JOB]}", "it is not here", hint)
        return job

    def _known(self, tags: Mapping[str, str]) -> Job:
        job = self._job(tags)
        if not job.exists:
            raise KaggleOpsError(f"looking for the job {tags[JOB]}", "there is no such job")
        return job

    def state(self, tags: Mapping[str, str]) -> JobState | None:
        if tags[JOB].partition(":")[0] != socket.gethostname():
            return None
        return self._known(tags).state

    def bring_home(self, tracking_uri: str) -> None:
        push(session(bucket_uri(tracking_uri)).working.store)

    def logs(self, tags: Mapping[str, str], follow: bool) -> Iterator[str]:
        job = self._known(tags)
        yield from job_log.read(job.log, lambda: not follow or not job.alive)

    def remove(self, tags: Mapping[str, str]) -> bool:
        job = self._job(tags)
        there = job.exists
        shutil.rmtree(job.folder, ignore_errors=True)
        return there

    def examine(self, config: LocalConfig) -> Iterator[Finding]:
        slots = config.slots
        yield self._found("ok", f"{slots} {'job runs' if slots == 1 else 'jobs run'} here at once")

    def offers(self, tracking_uri: str, config: LocalConfig, running: int) -> list[Offer]:
        # What was handed over a moment ago has no slot yet, and other buckets' jobs have.
        free = config.slots - max(running, config.slots - len(list(_free_slots(config.slots))))
        gpus = visible_gpus(os.environ)
        first = gpus[0] if gpus else Gpu("", "", round(memory() / 2**30, 1))
        return [Offer(self.name, max(0, free), accelerator=first.name, memory_gb=first.memory_gb)]


# -- slots ------------------------------------------------------------------------------------


def _slot(number: int) -> Path:
    return private_folder(state_folder() / "local") / f"slot-{number}.lock"


def _free_slots(count: int) -> Iterator[int]:
    for number in range(count):
        with private_file(_slot(number)).open("r+") as lock:
            if _locked(lock):
                yield number


def _take_slot(count: int) -> tuple[int, IO[str]]:
    """Return a slot that is free, as soon as there is one, and what holds it."""
    while True:
        for number in range(count):
            lock = private_file(_slot(number)).open("r+")
            if _locked(lock):
                return number, lock
            lock.close()
        time.sleep(_PAUSE)


# -- a job's process ----------------------------------------------------------------------------


def main(job: Job, tell: Callable[[str, Run], None]) -> None:
    """Be a job's process: wait for a slot, fetch the commit, run it, and `tell` what came of it."""
    plan = job.plan
    number, slot = _take_slot(int(plan["jobs"]))
    with slot:
        if gpus := visible_gpus(os.environ):
            os.environ[_GPUS] = gpus[number % len(gpus)].id
        try:
            job.end(*_carried_out(job, plan, tell))
        except RunFailedError as error:
            sys.stderr.write(f"error: {error}\n")
            job.end(error.status, error.problem)
        except (Exception, KeyboardInterrupt) as raised:
            said = explained(raised)
            if said is None:
                job.end("FAILED", redacted(str(raised)) or type(raised).__name__)
                raise
            sys.stderr.write(f"error: {said}\n")
            job.end("FAILED", said.problem)


def _carried_out(
    job: Job, plan: Mapping[str, Any], tell: Callable[[str, Run], None]
) -> tuple[str, str]:
    import mlflow

    from kaggleops.tracking.session import close_all

    uri, run_id, sha = tracking_uri(plan["bucket"]), plan["run_id"], plan["version"]
    status = mlflow.MlflowClient(uri).get_run(run_id).info.status
    if status != "SCHEDULED":  # handed over once more, by somebody who did not know that it began
        return ("KILLED" if status == "KILLED" else "FINISHED"), f"its run was {status} already"
    here = Path(plan["here"]) if plan["here"] else None
    with temporary_folder() as folder:
        if here and here.is_dir() and has_commit(here, sha):
            commit = find_commit(here, sha)
            code = clone(commit, folder / "code" / here.name)
            os.environ[DATA_ROOT] = str(data_root(here))
        else:
            commit = fetch_or_unbundle(plan["repository"], sha, folder, open_bucket(uri))
            code = commit.repository
        job.begins()
        run = launch_in(code, commit, Launch(tracking_uri=uri, run_id=run_id))
        tell(uri, run)
        close_all()
    return "FINISHED" if is_to_be_continued(run) else run.info.status, ""
