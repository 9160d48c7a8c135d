"""This machine as a backend: each job is a process of its own, which outlives whoever started it.

As many run at once as there are slots, which are locks; with GPUs, a slot is one of them. What
finds no slot free waits.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Annotated, Any

import mlflow
from mlflow.entities import Run
from pydantic import Field

from kaggleops.backends import jobs
from kaggleops.backends.base import Backend
from kaggleops.backends.config import Config
from kaggleops.backends.interface import Finding, JobState, Offer
from kaggleops.backends.ready_notebook import parameters_of
from kaggleops.bucket import open_bucket
from kaggleops.bucket.location import bucket_uri, tracking_uri
from kaggleops.errors import KaggleOpsError, explained
from kaggleops.git.checkouts import clone, fetch_or_unbundle
from kaggleops.git.commits import find_commit, has_commit
from kaggleops.launch.launcher import (
    Launch,
    RunFailedError,
    is_to_be_continued,
    launch_in,
    temporary_folder,
)
from kaggleops.platforms.folders import private_folder, state_folder
from kaggleops.platforms.machine import Gpu, memory, visible_gpus
from kaggleops.redaction import redacted
from kaggleops.resources.places import DATA_ROOT, data_root
from kaggleops.tracking.push import push
from kaggleops.tracking.session import close_all, session

JOB = "local_job"
"""The tag of a run that says where its job is: `host:folder`."""

_PAUSE = 0.5  # seconds between two looks for a free slot
_MOST_JOBS = 256  # at once; each is a file, and a sweep's tag may say any number


@dataclass(frozen=True)
class LocalConfig(Config):
    """The fields of config/backend/local.yaml, where each is explained."""

    jobs: Annotated[int, Field(ge=0, le=_MOST_JOBS)] = 0
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


class Job(jobs.Job):
    """The job of one run."""

    kind = "local"
    program = "kaggleops.local_job"

    @property
    def state(self) -> JobState:
        """How far it is."""
        alive = self.alive  # asked first: what it says last is read then
        state = JobState(**self.noted)
        if alive:
            return JobState("RUNNING", "running") if state.ended else state
        return state if state.ended else JobState("FAILED", "ended", "its process died")

    def end(self, status: str, reason: str = "") -> None:
        """Note how it ended."""
        self.note(status=status, said="ended", reason=reason)


class LocalBackend(Backend[LocalConfig]):
    """Runs commits on this machine, beside each other."""

    name = "local"
    waiting = "waiting for its turn on this machine"
    runs_here = True
    config_type = LocalConfig
    ask_every = 0.0

    def config_of(
        self, repository: Path, named: Path | None = None, options: Mapping[str, Any] | None = None
    ) -> LocalConfig:
        """Return the configuration; its jobs use that repository, unless it names another one."""
        config = super().config_of(repository, named, options)
        return replace(config, repository=config.repository or str(repository.absolute()))

    def check(self, tracking_uri: str, config: LocalConfig) -> None:
        """Whatever this machine reaches will do."""

    def place(self, run_id: str, config: LocalConfig) -> dict[str, str]:
        return {JOB: Job.of(run_id).address}

    def send(self, tags: Mapping[str, str], notebook: str, config: LocalConfig) -> None:
        """Start the job's process, unless it has one."""
        job = Job.known(tags[JOB], gone=True)
        plan = {**parameters_of(notebook), "jobs": config.slots, "here": config.repository}
        try:
            job.start(plan)
        except OSError as error:
            raise KaggleOpsError(f"starting a job in {job.folder}", str(error)) from error

    def state(self, tags: Mapping[str, str]) -> JobState | None:
        return Job.known(tags[JOB]).state if Job.at(tags[JOB]) else None

    def bring_home(self, tracking_uri: str) -> None:
        push(session(bucket_uri(tracking_uri)).working.store)

    def logs(self, tags: Mapping[str, str], follow: bool) -> Iterator[str]:
        job = Job.known(tags[JOB])
        yield from job.lines(lambda: not follow or not job.alive)

    def remove(self, tags: Mapping[str, str]) -> bool:
        job = Job.known(tags[JOB], gone=True)
        return job.remove()

    def examine(self, config: LocalConfig) -> Iterator[Finding]:
        slots = config.slots
        yield self._found("ok", f"{slots} {'job runs' if slots == 1 else 'jobs run'} here at once")

    def offers(self, tracking_uri: str, config: LocalConfig, running: int) -> list[Offer]:
        # What was handed over a moment ago has no slot yet, and other buckets' jobs have.
        free = config.slots - max(running, config.slots - len(list(_free_slots(config.slots))))
        gpus = visible_gpus(os.environ)
        first = gpus[0] if gpus else Gpu("", "", round(memory() / 2**30, 1))
        return [Offer(self.name, max(0, free), accelerator=first.name, memory_gb=first.memory_gb)]


def _slot(number: int) -> Path:
    return private_folder(state_folder() / "local") / f"slot-{number}.lock"


def _free_slots(count: int) -> Iterator[int]:
    for number in range(count):
        if lock := jobs.locked(_slot(number)):
            lock.close()
            yield number


def _take_slot(count: int) -> tuple[int, IO[str]]:
    """Return a slot that is free, as soon as there is one, and what holds it."""
    while True:
        for number in range(count):
            if lock := jobs.locked(_slot(number)):
                return number, lock
        time.sleep(_PAUSE)


def main(job: Job, tell: Callable[[str, Run], None]) -> None:
    """Be a job's process: wait for a slot, fetch the commit, run it, and `tell` what came of it."""
    plan = job.plan
    number, slot = _take_slot(int(plan["jobs"]))
    with slot:
        if gpus := visible_gpus(os.environ):
            os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)].id
        try:
            job.end(*_carried_out(job, plan, tell))
        except (Exception, KeyboardInterrupt) as raised:
            said = explained(raised)
            reason = said.problem if said else redacted(str(raised)) or type(raised).__name__
            job.end(said.status if isinstance(said, RunFailedError) else "FAILED", reason)
            if said is None:
                raise
            sys.stderr.write(f"error: {said}\n")


def _carried_out(
    job: Job, plan: Mapping[str, Any], tell: Callable[[str, Run], None]
) -> tuple[str, str]:
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
        job.note(status="RUNNING", said="running")
        run = launch_in(code, commit, Launch(tracking_uri=uri, run_id=run_id))
        tell(uri, run)
        close_all()
    return "FINISHED" if is_to_be_continued(run) else run.info.status, ""
