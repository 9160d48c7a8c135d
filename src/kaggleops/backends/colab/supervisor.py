"""The process that holds a session on Colab: it allocates, executes, and always releases.

A runtime lives while somebody is connected and its kernel is busy, so one long `exec` holds it. If
this process dies, the next command that looks at the job releases the runtime in its place: every
process of the CLI that it starts inherits a lock, which tells whether one is still at work.
"""

import fcntl
import json
import os
import re
import secrets
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NoReturn

from kaggleops.backends import jobs
from kaggleops.backends.colab.cli import ColabCli, ColabConfig
from kaggleops.backends.config import read_config
from kaggleops.backends.interface import JobState, is_ended
from kaggleops.backends.ready_notebook import code_cells, parameters_of
from kaggleops.bucket import BucketUnavailableError, open_bucket
from kaggleops.bucket.location import tracking_uri
from kaggleops.errors import KaggleOpsError
from kaggleops.mlruns import EntityStore, run
from kaggleops.mlruns.liveness import run_state
from kaggleops.platforms import keys_of
from kaggleops.platforms.folders import private_file
from kaggleops.platforms.platform import KEY_FILE
from kaggleops.redaction import redacted
from kaggleops.session_end import SESSION_ENDS
from kaggleops.tracking.store import BucketTrackingStore

JOB = "colab_job"
"""The tag of a run that says where its job is: `host:folder` of its supervisor."""

_PAUSES = (0.0, 1.0, 5.0, 20.0)  # seconds before each attempt to release a runtime
_LOOK = 10.0  # seconds between two looks at a run that goes on without a connection
_LOST = "the connection to the runtime was lost"
_ENDING = (signal.SIGTERM, signal.SIGINT)
_KEY = f"content/{KEY_FILE}"  # where it is uploaded to, below the runtime's root

_SCRIPT = """
import json, os, time
from pathlib import Path

os.environ[{ends!r}] = str(time.time() + {left})
key = Path(os.environ.get("KAGGLEOPS_ROOT", "/"), {key!r})
key.chmod(0o600)
os.environ[{variable!r}] = str(key)
outcome = "done"
for source in json.loads({cells!r}):
    if not get_ipython().run_cell(source).success:
        outcome = "failed"
        break
print({nonce!r}, outcome, flush=True)
"""


@dataclass(frozen=True)
class Progress:
    """How far a job is."""

    status: str = "SCHEDULED"  # MLflow's word for it
    said: str = "waiting"  # ours: `waiting`, `allocating`, `running`, …
    reason: str = ""  # why it ended so
    asked: bool = False  # whether Colab was asked for a runtime, so that there may be one
    endpoint: str = ""  # what Colab calls the runtime, once that is known
    rate: float = 0.0  # compute units an hour that the runtime uses up
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


class Job(jobs.Job):
    """The job of one run."""

    kind = "colab"
    program = "kaggleops.backends.colab"

    @property
    def progress(self) -> Progress:
        """How far it is."""
        known = {field.name for field in fields(Progress)}  # another version's may have more
        return Progress(**{name: value for name, value in self.noted.items() if name in known})

    def prepare(self, plan: Mapping[str, Any]) -> None:
        super().prepare(plan)
        self._sessions.unlink(missing_ok=True)
        os.truncate(private_file(self.log), 0)  # an earlier runtime's says nothing of this one

    @property
    def _sessions(self) -> Path:
        return self.folder / "sessions.json"

    @property
    def notebook(self) -> str:
        """The notebook that it executes, as JSON."""
        return str(self.plan["notebook"])

    @property
    def config(self) -> ColabConfig:
        """The configuration that it was submitted with."""
        return read_config(ColabConfig, self.plan["config"], str(self.folder))

    @property
    def tracking_uri(self) -> str:
        """The bucket of its run."""
        return tracking_uri(parameters_of(self.notebook)["bucket"])

    @property
    def session(self) -> str:
        """What its session is called."""
        return f"kaggleops-{self.run_id}"

    @contextmanager
    def cli(self) -> Iterator[ColabCli]:
        """Yield the CLI; its processes are known as this job's."""
        config = self.config
        lock = jobs.locked(self.folder / "cli.lock", fcntl.LOCK_SH)
        assert lock is not None  # noqa: S101 - it was waited for
        with lock:
            home = self.folder.parents[1] / "home"  # of whoever submitted it
            yield ColabCli(config.cli, config.auth, home, self._sessions, lock.fileno())

    @property
    def cli_running(self) -> bool:
        """Whether a process of the CLI is at work, be it one that a supervisor left behind."""
        if lock := jobs.locked(self.folder / "cli.lock"):
            lock.close()
        return lock is None

    def end_cli(self) -> None:
        """End the CLI's processes that a supervisor left behind."""
        if self.cli_running:  # so the number of their group is still theirs
            with suppress(ProcessLookupError):
                os.killpg(int((self.folder / "pid").read_text()), signal.SIGKILL)
            if lock := jobs.locked(self.folder / "cli.lock", fcntl.LOCK_EX):
                lock.close()


def plan_of(notebook: str, config: ColabConfig) -> dict[str, Any]:
    """Return what a job is to do, as it is written down."""
    return {"notebook": notebook, "config": asdict(config), "nonce": secrets.token_hex(16)}


class _StoppedError(KaggleOpsError):
    """The job was ended, rather than that it failed."""


def outcome_of(job: Job) -> JobState:
    """Carry a job out, and return how that ended; its runtime is there until `finish`."""
    try:
        return _carried_out(job)
    except _StoppedError as error:
        return JobState("KILLED", "stopped", error.problem)
    except KaggleOpsError as error:
        return JobState("FAILED", "failed", error.problem)
    except Exception as error:  # noqa: BLE001 - whatever it was, the runtime has to be released
        traceback.print_exc()
        return JobState("FAILED", "failed", redacted(str(error)) or type(error).__name__)


def release_abandoned(job: Job) -> None:
    """Release the runtime of a job whose supervisor died, if there is one."""
    if not job.exists or job.progress.over:
        return
    lock = jobs.locked(job.lock)
    if lock is None:
        return
    with lock:  # while it has no supervisor, nobody else becomes one
        if job.progress.said == "allocating" and job.cli_running:
            return
        job.end_cli()
        progress = job.progress
        state = JobState(progress.status, progress.said, progress.reason)
        if not state.ended:
            state = JobState("FAILED", "failed", "its supervisor on this machine died")
        finish(job, state, _PAUSES[:1])  # somebody waits for an answer


def finish(job: Job, ended: JobState, pauses: Sequence[float] = _PAUSES) -> None:
    """Release a job's runtime with a pause (in seconds) before each attempt; note how it ended."""
    released = job.progress.released or not job.progress.asked
    if not released:
        job.note(said="releasing")
        with job.cli() as cli:
            released = _released(job, cli, pauses)
    job.note(status=ended.status, said=ended.said, reason=ended.reason, released=released)


def _carried_out(job: Job) -> JobState:
    config = job.config
    deadline = time.time() + config.session_hours * 3600
    with job.cli() as cli:
        _refuse_if_not_wanted(job)
        idle = cli.usage()
        _allocate(job, cli)
        if idle and (usage := cli.usage()):
            job.note(rate=max(0.0, usage.per_hour - idle.per_hour))
        uploaded = cli.ask("upload", "-s", job.session, str(config.key_file), _KEY)
        if uploaded.code:
            raise KaggleOpsError("uploading the key", uploaded.last_line)
        job.note(status="RUNNING", said="running")
        outcome = _executed(job, cli, deadline)
    if outcome == "failed":
        return JobState("FAILED", "failed", "the notebook failed; its log says why")
    if outcome == "done" or _finished(job, deadline):
        return JobState("FINISHED", "done")
    return JobState("FAILED", "failed", _LOST)


def _refuse_if_not_wanted(job: Job) -> None:
    """Refuse to start what was cancelled meanwhile, or handed to another machine."""
    doing = "starting"
    found = BucketTrackingStore(job.tracking_uri).get_run(job.run_id)
    if found.info.status == "KILLED":
        raise _StoppedError(doing, "it was cancelled")
    if found.data.tags.get(JOB) != job.address:
        raise _StoppedError(doing, "it was handed to another machine")


def _allocate(job: Job, cli: ColabCli) -> None:
    config = job.config
    doing = "allocating a runtime"
    kind = "tpu" if config.accelerator.startswith("v") else "gpu"
    wanted = [f"--{kind}", config.accelerator] if config.accelerator else []
    wanted += ["--high-mem"] if config.high_mem else []
    job.note(said="allocating", asked=True)  # before: it is released even if this process dies now
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)  # half asked for, nobody would know of it
    try:
        answer = cli.ask("new", "-s", job.session, *wanted)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    mine = [each for each in cli.sessions() or () if each.name == job.session]
    if answer.code or not mine:
        raise KaggleOpsError(doing, answer.last_line)
    job.note(endpoint=mine[0].endpoint)
    given = mine[0].hardware
    if given and given.lower() != (config.accelerator or "CPU").lower():
        raise KaggleOpsError(doing, f"Colab gave {given} instead of {config.accelerator or 'CPU'}")


def _executed(job: Job, cli: ColabCli, deadline: float) -> str:
    """Execute the notebook, and return what its last line says: done, failed, or "" for nothing."""
    script = job.folder / "script.py"
    # The CLI goes on behind a cell that failed, and its exit code does not tell.
    left = max(1.0, deadline - time.time())
    nonce = job.plan["nonce"]
    filled = _SCRIPT.format(
        key=_KEY,
        nonce=nonce,
        variable=keys_of(job.tracking_uri).variable,
        cells=json.dumps(code_cells(job.notebook)),
        ends=SESSION_ENDS,
        left=f"{left:.0f}",
    )
    script.write_text(filled)
    last_line = re.compile(rf"(.*?){nonce} (done|failed)\s*")
    outcome = ""
    process = cli.start("exec", "-s", job.session, "-f", str(script), "--timeout", f"{left:.0f}")
    timer = threading.Timer(left, process.kill)
    timer.start()
    try:
        with job.log.open("a") as log:
            for line in process.stdout or ():
                found = last_line.fullmatch(line)
                outcome = found[2] if found else outcome
                log.write(found[1] if found else line)
                log.flush()
    finally:
        timer.cancel()
        process.kill()
        process.wait()
    _refuse_late(deadline)
    return outcome


def _refuse_late(deadline: float) -> None:
    if time.time() >= deadline:
        raise _StoppedError("executing the notebook", "its session_hours were over")


def _finished(job: Job, deadline: float) -> bool:
    """Wait until the bucket tells how a run ended whose connection was lost: whether well."""
    with job.log.open("a") as log:
        log.write(f"({_LOST}; the bucket tells how the run goes on)\n")
    home = BucketTrackingStore(job.tracking_uri).get_run(job.run_id).info.experiment_id
    store = EntityStore(open_bucket(job.tracking_uri))
    while True:
        # Without the bucket nobody knows better, and the runtime may hold what was not sent yet.
        with suppress(BucketUnavailableError):
            now_ms = time.time_ns() // 1_000_000
            status = run_state(store, run(home, job.run_id), now_ms).status
            if status != "RUNNING":
                return status == "FINISHED"
        _refuse_late(deadline)
        time.sleep(_LOOK)


def _released(job: Job, cli: ColabCli, pauses: Sequence[float]) -> bool:
    """Release the runtime, and tell whether Colab lists it no more."""
    mine = {job.session, job.progress.endpoint} - {""}
    for pause in pauses:
        time.sleep(pause)
        try:
            said = cli.ask("stop", "-s", job.session).output
            listed = cli.sessions()
        except KaggleOpsError:
            continue
        gone = listed is not None and not any(mine & {each.name, each.endpoint} for each in listed)
        # Who is not signed in any more is shown an empty list, too.
        if gone and ("terminated" in said or "not found" in said):
            return True
    return False


def _stop(*_: object) -> NoReturn:
    raise _StoppedError("supervising", "its supervisor was told to end")


def main(job: Job) -> None:
    """Be a job's supervisor."""
    for each in _ENDING:
        signal.signal(each, _stop)
    (job.folder / "pid").write_text(str(os.getpid()))  # it is the first of its process group
    ended = outcome_of(job)
    for each in _ENDING:
        signal.signal(each, signal.SIG_IGN)
    finish(job, ended)
