"""Colab, as a backend: a session that this machine holds, or an execution without anybody.

Which of the two it is, the configuration says when a run is submitted, and its tags from then on.
"""

import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from kaggleops.backends.base import Backend
from kaggleops.backends.colab import enterprise
from kaggleops.backends.colab.cli import ColabCli, ColabConfig, Usage
from kaggleops.backends.colab.job import JOB, Job
from kaggleops.backends.colab.supervisor import release_abandoned
from kaggleops.backends.downloads import Downloaded
from kaggleops.backends.interface import Finding, JobState, Reaped, RefusedError, Units
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.platforms.folders import state_folder

_PAUSE = 0.5  # seconds between two looks at a log that is followed


class ColabBackend(Backend[ColabConfig]):
    """Runs commits on Colab, as the user whom the Colab CLI knows, or on Colab Enterprise."""

    name = "colab"
    config_type = ColabConfig

    # -- submitting ---------------------------------------------------------------------------

    def check(self, tracking_uri: str, config: ColabConfig) -> None:
        doing = "submitting to Colab"
        self._require_cloud(doing, tracking_uri)
        if config.enterprise.project:
            return enterprise.check(config)
        self._require_key(doing, config.key_file)
        for job in Job.all():
            release_abandoned(job)
        _usage(config, doing)
        return None

    def place(self, run_id: str, config: ColabConfig) -> dict[str, str]:
        if config.enterprise.project:
            return {JOB: enterprise.name_of(run_id, config)}
        return {JOB: Job(Job.folder_of(run_id)).address}

    def send(
        self, tags: Mapping[str, str], notebook: str, config: ColabConfig
    ) -> Mapping[str, str] | None:
        if config.enterprise.project:
            return enterprise.send(tags, notebook, config)
        job = _here(tags)
        assert job is not None  # noqa: S101 - `place` has just named this machine
        if job.exists:
            release_abandoned(job)
            if job.supervised:
                return None
            if not job.progress.over:
                doing = f"handing over {job.run_id}"
                problem = "its last runtime could not be released yet"
                raise RefusedError(doing, problem, "Try again.")
        job.create(notebook, config)
        job.start()
        return None

    def announce(self, config: ColabConfig) -> str:
        # A session uses up units of the account, and no money.
        return enterprise.announce(config) if config.enterprise.project else ""

    # -- watching -----------------------------------------------------------------------------

    def state(self, tags: Mapping[str, str]) -> JobState | None:
        if _is_enterprise(tags):
            return enterprise.state(tags[JOB])
        job = _here(tags)
        if job is None:  # another machine's
            return None
        release_abandoned(_required(job))
        return job.progress.state

    def logs(self, tags: Mapping[str, str], follow: bool) -> Iterator[str]:
        if _is_enterprise(tags):
            return enterprise.logs(tags, follow)
        job = _here(tags)
        if job is None:
            host, _, folder = tags[JOB].partition(":")
            hint = "Its metrics are in the bucket: `kaggleops ui`."
            raise KaggleOpsError("reading the log", f"it is on {host}, {folder}/log", hint)
        return _log_of(_required(job), follow)

    def page(self, tags: Mapping[str, str]) -> str:
        # The address of a session holds a token.
        return enterprise.page(tags) if _is_enterprise(tags) else ""

    def units(self, config: ColabConfig) -> Units | None:
        if config.enterprise.project:
            return None
        usage = _usage(config, "asking Colab for its compute units")
        return Units(self.name, usage.left, usage.rate)

    def examine(self, config: ColabConfig) -> Iterator[Finding]:
        if config.enterprise.project:
            enterprise.check(config)
            template = f"the template {config.enterprise.template} of {config.enterprise.project}"
            yield self._found("ok", f"Colab Enterprise has {template}")
            return
        program = shutil.which(config.cli)
        if program is None:
            hint = "To run on Colab from here: uv tool install google-colab-cli."
            yield self._found("skipped", "the Colab CLI is not installed", hint)
            return
        cli = _cli(config, program)
        if cli.usage() is None:
            yield self._found("warning", f"{program} is not signed in", f"Once: {cli.sign_in}")
        else:
            yield self._found("ok", f"{program} is signed in")

    # -- what is left -------------------------------------------------------------------------

    def download(self, tags: Mapping[str, str], directory: Path) -> Downloaded:
        # Of a session, what is no artifact goes with the runtime.
        return enterprise.download(tags, directory) if _is_enterprise(tags) else Downloaded()

    def remove(self, tags: Mapping[str, str]) -> bool:
        if _is_enterprise(tags):
            return enterprise.remove(tags[JOB])
        job = _here(tags)
        if job is None or not job.exists:
            return False
        release_abandoned(job)
        if job.supervised or not job.progress.over:
            raise KaggleOpsError(f"cleaning up {job.session}", "its runtime is not released yet")
        job.remove()
        return True

    def reap(self, tracking_uri: str, *, delete: bool) -> list[Reaped] | None:
        """Release the runtimes of this machine's jobs whose supervisors died."""
        jobs = Job.all()
        if not jobs:
            return None  # of another machine's it knows nothing
        found = []
        for job in jobs:
            if job.tracking_uri == tracking_uri and not job.progress.over and not job.supervised:
                if delete:
                    release_abandoned(job)
                kept = delete and not job.progress.over
                problem = "Colab still lists it, or does not answer" if kept else ""
                why = "its supervisor is gone"
                found.append(Reaped(self.name, job.session, job.run_id, why, 0.0, problem))
        return found


def _is_enterprise(tags: Mapping[str, str]) -> bool:
    return tags[JOB].startswith("projects/")


def _here(tags: Mapping[str, str]) -> Job | None:
    """Return the job, None on another machine than its supervisor's."""
    job = Job(Path(tags[JOB].partition(":")[2]))
    return job if job.address == tags[JOB] else None


def _required(job: Job) -> Job:
    if not job.exists:
        raise KaggleOpsError(f"looking for {job.folder}", "there is no such folder any more")
    return job


def _cli(config: ColabConfig, program: str) -> ColabCli:
    folder = state_folder() / "colab"
    return ColabCli(program, config.auth, folder / "home", folder / "sessions.json")


def _usage(config: ColabConfig, doing: str) -> Usage:
    cli = _cli(config, config.cli)
    usage = cli.usage()
    if usage is None:
        raise UsageError(doing, "you are not signed in", f"Once: {cli.sign_in}")
    return usage


def _log_of(job: Job, follow: bool) -> Iterator[str]:
    with job.log.open(errors="replace") as log:
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
