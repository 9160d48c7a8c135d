"""The process that holds a session on Colab: it allocates, executes, and always releases.

A runtime lives while somebody is connected and its kernel is busy, so one long `exec` holds it.
This process needs no terminal. If it dies, the next command that looks at the job releases the
runtime in its place.
"""

import json
import os
import re
import signal
import threading
import time
import traceback
from collections.abc import Sequence
from typing import NoReturn

from kaggleops.backends.colab.cli import ColabCli
from kaggleops.backends.colab.job import JOB, Job
from kaggleops.backends.interface import JobState
from kaggleops.errors import KaggleOpsError
from kaggleops.platforms import keys_of
from kaggleops.platforms.platform import KEY_FILE
from kaggleops.redaction import redacted
from kaggleops.session_end import SESSION_ENDS

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


UNITS = "colab_units"
"""The tag of a run with the compute units that its runtime used up."""

_PAUSES = (0.0, 1.0, 5.0, 20.0)  # seconds before each attempt to release a runtime
_LOOK = 10.0  # seconds between two looks at a run that goes on without a connection


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
    with job.unsupervised() as free:
        if not free or (job.progress.said == "allocating" and job.cli_running()):
            return
        job.end_cli()
        progress = job.progress
        state = JobState(progress.status, progress.said, progress.reason)
        if not state.ended:
            state = JobState("FAILED", "failed", "its supervisor on this machine died")
        finish(job, state, _PAUSES[:1])  # somebody waits for an answer


def finish(job: Job, ended: JobState, pauses: Sequence[float] = _PAUSES) -> None:
    """Release a job's runtime with a pause (in seconds) before each attempt; note how it ended."""
    progress = job.progress
    released = progress.released or not progress.asked
    if not released:
        job.note(said="releasing")
        with job.cli() as cli:
            released = _released(job, cli, pauses)
        _record_units(job)
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
    if outcome == "done":
        return JobState("FINISHED", "done")
    if outcome == "failed":
        return JobState("FAILED", "failed", "the notebook failed; its log says why")
    return _seen_in_the_bucket(job, deadline)


def _refuse_if_not_wanted(job: Job) -> None:
    """Refuse to start what was cancelled meanwhile, or handed to another machine."""
    from kaggleops.tracking.store import BucketTrackingStore

    doing = "starting"
    run = BucketTrackingStore(job.tracking_uri).get_run(job.run_id)
    if run.info.status == "KILLED":
        raise _StoppedError(doing, "it was cancelled")
    if run.data.tags.get(JOB) != job.address:
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
    job.note(since=time.time())
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
    cells = json.loads(job.notebook.read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    filled = {"variable": keys_of(job.tracking_uri).variable, "cells": json.dumps(sources)}
    left = max(1.0, deadline - time.time())
    filled |= {"ends": SESSION_ENDS, "left": f"{left:.0f}"}
    script.write_text(_SCRIPT.format(key=_KEY, nonce=job.nonce, **filled))
    last_line = re.compile(rf"(.*?){job.nonce} (done|failed)\s*")
    outcome = ""
    process = cli.start("exec", "-s", job.session, "-f", str(script), "--timeout", f"{left:.0f}")
    timer = threading.Timer(left, process.kill)
    timer.start()
    try:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        with job.log.open("a") as log:
            for line in process.stdout:
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


def _seen_in_the_bucket(job: Job, deadline: float) -> JobState:
    """Return how a run ended whose connection was lost, when it has ended."""
    from kaggleops.tracking.store import BucketTrackingStore

    lost = "the connection to the runtime was lost"
    with job.log.open("a") as log:
        log.write(f"({lost}; the bucket tells how the run goes on)\n")
    run = BucketTrackingStore(job.tracking_uri).get_run(job.run_id)
    while (status := _status(job, run.info.experiment_id)) == "RUNNING":
        _refuse_late(deadline)
        time.sleep(_LOOK)
    if status == "FINISHED":
        return JobState("FINISHED", "done")
    return JobState("FAILED", "failed", lost)


def _status(job: Job, experiment_id: str) -> str:
    from kaggleops.bucket import BucketUnavailableError, open_bucket
    from kaggleops.mlruns import EntityStore, run
    from kaggleops.mlruns.liveness import run_state

    store = EntityStore(open_bucket(job.tracking_uri))
    now_ms = time.time_ns() // 1_000_000
    try:
        return run_state(store, run(experiment_id, job.run_id), now_ms).status
    except BucketUnavailableError:
        return "RUNNING"  # nobody knows better, and the runtime may hold what was not sent yet


def _released(job: Job, cli: ColabCli, pauses: Sequence[float]) -> bool:
    """Release the runtime, and tell whether Colab lists it no more."""
    endpoint = job.progress.endpoint
    for pause in pauses:
        time.sleep(pause)
        try:
            said = cli.ask("stop", "-s", job.session).output
            listed = cli.sessions()
        except KaggleOpsError:
            continue
        gone = listed is not None and not any(
            job.session == each.name or (endpoint and endpoint == each.endpoint) for each in listed
        )
        # Who is not signed in any more is shown an empty list, too.
        if gone and ("terminated" in said or "not found" in said):
            return True
    return False


def _record_units(job: Job) -> None:
    progress = job.progress
    if not progress.rate:
        return
    from mlflow.entities import RunTag

    from kaggleops.tracking.store import BucketTrackingStore

    units = progress.rate * (time.time() - progress.since) / 3600
    try:
        store = BucketTrackingStore(job.tracking_uri)
        store.set_tag(job.run_id, RunTag(UNITS, f"{units:.2f}"))
        store.flush()
    except KaggleOpsError as error:
        with job.log.open("a") as log:
            log.write(f"(the {units:.2f} compute units are not in the bucket: {error})\n")


_ENDING = (signal.SIGTERM, signal.SIGINT)


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
