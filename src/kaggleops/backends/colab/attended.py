"""Sessions on Colab that a supervisor on this machine holds."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from kaggleops.backends.base import RefusedError
from kaggleops.backends.colab.cli import ColabCli, Usage
from kaggleops.backends.colab.config import ColabConfig
from kaggleops.backends.colab.job import JOB, Job
from kaggleops.backends.colab.supervisor import release_abandoned
from kaggleops.backends.downloads import Downloaded
from kaggleops.backends.jobs import JobState, Reaped, Units
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.platforms.folders import state_folder

_PAUSE = 0.5  # seconds between two looks at a log that is followed


def check(config: ColabConfig) -> None:
    """Make sure that there are the key and the CLI, and that Colab lets its user in."""
    doing = "submitting to Colab"
    if not config.key_file.is_file():
        problem = f"there is no key of the bucket, {config.key_file}"
        raise UsageError(doing, problem, "Make it: `kaggleops credentials create colab`.")
    release_all_abandoned()
    _usage(config, doing)


def units(config: ColabConfig) -> Units:
    """Return the account's compute units."""
    usage = _usage(config, "asking Colab for its compute units")
    return Units("colab", usage.left, usage.rate)


def _usage(config: ColabConfig, doing: str) -> Usage:
    folder = state_folder() / "colab"
    cli = ColabCli(config.cli, config.auth, folder / "home", folder / "sessions.json")
    usage = cli.usage()
    if usage is None:
        raise UsageError(doing, "you are not signed in", f"Once: {cli.sign_in}")
    return usage


def release_all_abandoned() -> None:
    """Release the runtimes of this machine's jobs whose supervisors died."""
    for job in Job.all():
        release_abandoned(job)


def reap(tracking_uri: str, *, delete: bool) -> list[Reaped] | None:
    """Return the jobs without a supervisor that may have a runtime, after releasing it if asked.

    None where this machine has no jobs: of another's it knows nothing.
    """
    jobs = Job.all()
    if not jobs:
        return None
    found = []
    for job in jobs:
        if job.tracking_uri == tracking_uri and not job.progress.over and not job.supervised:
            if delete:
                release_abandoned(job)
            kept = delete and not job.progress.over
            problem = "Colab still lists it, or does not answer" if kept else ""
            why = "its supervisor is gone"
            found.append(Reaped("colab", job.session, job.run_id, why, 0.0, problem))
    return found


def place(run_id: str) -> dict[str, str]:
    """Return the tag that names this machine and the job's folder."""
    return {JOB: Job(Job.folder_of(run_id)).address}


def send(tags: Mapping[str, str], notebook: str, config: ColabConfig) -> None:
    """Start a supervisor, unless the job has one."""
    job = _here(tags)
    assert job is not None  # noqa: S101 - `place` has just named this machine
    if job.exists:
        release_abandoned(job)
        if job.supervised:
            return
        if not job.progress.over:
            doing = f"handing over {job.run_id}"
            raise RefusedError(doing, "its last runtime could not be released yet", "Try again.")
    job.create(notebook, config)
    job.start()


def state(tags: Mapping[str, str]) -> JobState | None:
    """Return how far the job is, None on another machine than its supervisor's."""
    job = _here(tags)
    if job is None:
        return None
    release_abandoned(_required(job))
    return job.progress.state


def logs(tags: Mapping[str, str], follow: bool) -> Iterator[str]:
    """Yield the lines of the log."""
    job = _here(tags)
    if job is None:
        host, _, folder = tags[JOB].partition(":")
        hint = "Its metrics are in the bucket: `kaggleops ui`."
        raise KaggleOpsError("reading the log", f"it is on {host}, {folder}/log", hint)
    with _required(job).log.open(errors="replace") as log:
        line = ""
        while True:
            # Asked before reading: what was written until then is read, too.
            release_abandoned(job)
            ended = not follow or job.progress.state.ended
            while read := log.readline():
                line += read
                if line.endswith("\n"):
                    yield line[:-1]
                    line = ""
            if ended:
                break
            time.sleep(_PAUSE)
        if line:
            yield line


def download(tags: Mapping[str, str], directory: Path) -> Downloaded:
    """Bring nothing: what is no artifact goes with the runtime."""
    return Downloaded()


def page(tags: Mapping[str, str]) -> str:
    """Return "": the address of a session holds a token."""
    return ""


def remove(tags: Mapping[str, str]) -> bool:
    """Delete the job's folder with its log."""
    job = _here(tags)
    if job is None or not job.exists:
        return False
    release_abandoned(job)
    if job.supervised or not job.progress.over:
        raise KaggleOpsError(f"cleaning up {job.session}", "its runtime is not released yet")
    job.remove()
    return True


def _here(tags: Mapping[str, str]) -> Job | None:
    job = Job(Path(tags[JOB].partition(":")[2]))
    return job if job.address == tags[JOB] else None


def _required(job: Job) -> Job:
    if not job.exists:
        raise KaggleOpsError(f"looking for {job.folder}", "there is no such folder any more")
    return job
