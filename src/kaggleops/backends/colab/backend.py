"""Colab, as a backend: a session that this machine holds."""

import shutil
from collections.abc import Iterator, Mapping

from kaggleops.backends.base import Backend
from kaggleops.backends.colab.cli import FREE, ColabCli, ColabConfig
from kaggleops.backends.colab.supervisor import JOB, Job, plan_of, release_abandoned
from kaggleops.backends.interface import Finding, JobState, Offer, Reaped, RefusedError, Units
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.platforms.folders import state_folder


class ColabBackend(Backend[ColabConfig]):
    """Runs commits on Colab, as the user whom the Colab CLI knows."""

    name = "colab"
    waiting = "waiting for a session on Colab"
    config_type = ColabConfig

    def check(self, tracking_uri: str, config: ColabConfig) -> None:
        doing = "submitting to Colab"
        self._require_key(doing, config, tracking_uri)
        for job in Job.all():
            release_abandoned(job)
        _usage(config, doing)

    def place(self, run_id: str, config: ColabConfig) -> dict[str, str]:
        return {JOB: Job.of(run_id).address}

    def send(self, tags: Mapping[str, str], notebook: str, config: ColabConfig) -> None:
        job = Job.known(tags[JOB], gone=True)
        release_abandoned(job)
        if job.exists and not job.alive and not job.progress.over:
            problem = "its last runtime could not be released yet"
            raise RefusedError(f"handing over {job.run_id}", problem, "Try again.")
        job.start(plan_of(notebook, config))

    def state(self, tags: Mapping[str, str]) -> JobState | None:
        if Job.at(tags[JOB]) is None:  # another machine's
            return None
        job = Job.known(tags[JOB])
        release_abandoned(job)
        return job.progress.state

    def logs(self, tags: Mapping[str, str], follow: bool) -> Iterator[str]:
        job = Job.known(tags[JOB])

        def over() -> bool:
            release_abandoned(job)
            return not follow or job.progress.state.ended

        yield from job.lines(over)

    # It has no page: the address of a session holds a token.

    def units(self, config: ColabConfig) -> Units:
        return _usage(config, "asking Colab for its compute units")

    def offers(self, tracking_uri: str, config: ColabConfig, running: int) -> list[Offer]:
        doing = "looking for a session on Colab"
        self._require_key(doing, config, tracking_uri)
        units = _usage(config, doing)
        used = units.left == 0 and config.accelerator not in FREE
        return [
            Offer(
                self.name,
                max(0, config.sessions - running),
                session_hours=config.session_hours,
                accelerator=config.accelerator,
                memory_gb=config.memory_gb,
                problem="colab: there are no compute units left" if used else "",
            )
        ]

    def examine(self, config: ColabConfig) -> Iterator[Finding]:
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

    # What is no artifact goes with the runtime: there is nothing to download.

    def remove(self, tags: Mapping[str, str]) -> bool:
        job = Job.at(tags[JOB])
        if job is None or not job.exists:
            return False
        release_abandoned(job)
        if job.alive or not job.progress.over:
            raise KaggleOpsError(f"cleaning up {job.session}", "its runtime is not released yet")
        return job.remove()

    def reap(self, tracking_uri: str, *, delete: bool) -> list[Reaped] | None:
        """Release the runtimes of this machine's jobs whose supervisors died."""
        jobs = Job.all()
        if not jobs:
            return None  # of another machine's it knows nothing
        found = []
        for job in jobs:
            if not job.progress.over and not job.alive and job.tracking_uri == tracking_uri:
                if delete:
                    release_abandoned(job)
                kept = delete and not job.progress.over
                problem = "Colab still lists it, or does not answer" if kept else ""
                why = "its supervisor is gone"
                found.append(Reaped(self.name, job.session, job.run_id, why, 0.0, problem))
        return found


def _cli(config: ColabConfig, program: str) -> ColabCli:
    folder = state_folder() / "colab"
    return ColabCli(program, config.auth, folder / "home", folder / "sessions.json")


def _usage(config: ColabConfig, doing: str) -> Units:
    cli = _cli(config, config.cli)
    usage = cli.usage()
    if usage is None:
        raise UsageError(doing, "you are not signed in", f"Once: {cli.sign_in}")
    return usage
