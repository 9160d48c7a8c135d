"""SkyPilot, as a backend: for whoever outgrows free quotas and has a cloud or a cluster.

SkyPilot asks for older packages than ours, so its command is driven as a tool of its own. A managed
job is called after its run, so whoever submits it again finds it there. SkyPilot's controller
starts it anew where it loses its machine, and where it ends with exit code 42, "to be continued".
The bucket's key goes from the environment of the command to SkyPilot as a secret of the task, and
stands in no file, argument or log.
"""

import base64
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from kaggleops.backends.answers import number, objects, text
from kaggleops.backends.base import Backend
from kaggleops.backends.config import PACKAGES, KeyConfig
from kaggleops.backends.interface import (
    UNKNOWN,
    Finding,
    JobState,
    Offer,
    RefusedError,
    is_ended,
)
from kaggleops.backends.ready_notebook import as_script
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.platforms.http import NotThereError
from kaggleops.platforms.platform import SECRET
from kaggleops.platforms.skypilot import SkyPilot
from kaggleops.redaction import keep
from kaggleops.session_end import SESSION_ENDS, TO_BE_CONTINUED
from kaggleops.tags import PRICE

NAME = "skypilot_name"
"""The tag of a run that names its managed job. It is there before the job is."""

JOB = "skypilot_job"
"""The tag of a run with the number that SkyPilot gave the job; "" before anybody knows it."""

_SECONDS = 900.0  # for one answer: the first starts a controller
_ENDING_HOURS = 0.5  # for which a machine may be billed behind its job's hours, set-up included
_MANY = 1000  # jobs that SkyPilot's controller takes at once, as far as anybody here is concerned
_STATUSES = {
    **dict.fromkeys(("PENDING", "SUBMITTED", "STARTING"), "SCHEDULED"),
    **dict.fromkeys(("RUNNING", "RECOVERING", "WINDING_DOWN", "CANCELLING"), "RUNNING"),
    "SUCCEEDED": "FINISHED",
    "CANCELLED": "KILLED",
    **dict.fromkeys(("FAILED", "FAILED_SETUP", "FAILED_PRECHECKS"), "FAILED"),
    **dict.fromkeys(("FAILED_NO_RESOURCE", "FAILED_CONTROLLER"), "FAILED"),
}
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_HINT = "Install it in an environment of its own: uv tool install 'skypilot[aws,gcp,kubernetes]'."

# `uv` is on SkyPilot's own machines, if on no path; elsewhere its installer brings it.
_SETUP = """\
export PATH="$HOME/.local/bin:$PATH"
command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
uv venv --quiet --clear --seed --system-site-packages --python {python} ~/kaggleops-job
uv pip install --quiet --python ~/kaggleops-job/bin/python {packages}
"""
_RUN = """\
export PATH="$HOME/kaggleops-job/bin:$HOME/.local/bin:$PATH"
cat > ~/kaggleops-job/run.py <<'END-OF-RUN'
{script}
END-OF-RUN
left=$(({deadline} - $(date +%s)))
[ "$left" -gt 0 ] || {{ echo "Its hours are over."; exit 124; }}
export {ends}={deadline}
cd ~/kaggleops-job && exec timeout --kill-after=60 "$left" bin/python run.py
"""


@dataclass(frozen=True)
class SkyPilotConfig(KeyConfig):
    """The fields of config/backend/skypilot.yaml, where each is explained."""

    platform = SkyPilot
    lasts = "hours"

    resources: dict[str, Any] = field(default_factory=dict)
    max_hourly_cost: Annotated[float, Field(ge=0)] | None = None
    hours: Annotated[float, Field(gt=0)] = 24.0
    python: str = "3.12"
    packages: Sequence[str] = ("torch>=2.6", *PACKAGES)
    cli: str = "sky"

    def check(self, doing: str) -> None:
        for name in ("job_recovery", "max_hourly_cost"):
            if name in self.resources:
                problem = f"resources: {name} is set by KaggleOps"
                raise UsageError(doing, problem, "Write max_hourly_cost beside `resources`.")


class SkyPilotBackend(Backend[SkyPilotConfig]):
    """Runs commits as SkyPilot's managed jobs."""

    name = "skypilot"
    config_type = SkyPilotConfig

    # Which command is asked, where only a run's tags are given.
    _cli = "sky"

    def check(self, tracking_uri: str, config: SkyPilotConfig) -> None:
        doing = "submitting to SkyPilot"
        self._require_key(doing, config, tracking_uri)
        self._cli = config.cli
        if not shutil.which(config.cli):
            raise UsageError(doing, f"there is no command {config.cli!r}", _HINT)

    def announce(self, config: SkyPilotConfig) -> str:
        if config.max_hourly_cost is None:
            return "SkyPilot takes the cheapest machine that fits; max_hourly_cost sets no limit"
        cost = f"SkyPilot takes a machine for ${config.max_hourly_cost:.2f} an hour at most"
        return cost if config.max_hourly_cost else ""

    def place(self, run_id: str, config: SkyPilotConfig) -> dict[str, str]:
        return {NAME: f"kaggleops-{run_id}", JOB: ""}

    def send(
        self, tags: Mapping[str, str], notebook: str, config: SkyPilotConfig
    ) -> Mapping[str, str]:
        """Launch the managed job, unless there is one; return its number and what it may cost."""
        self._cli = config.cli
        name = tags[NAME]
        there = self._jobs(name)
        if there and not is_ended(_status(there[0])):
            job = there[0]
        else:
            job = self._launched(name, notebook, config, {_number(each) for each in there})
        known = {JOB: _number(job)}
        if config.max_hourly_cost is not None:
            known[PRICE] = f"{config.max_hourly_cost:g}"
        return known

    def _launched(
        self, name: str, notebook: str, config: SkyPilotConfig, before: set[str]
    ) -> Mapping[str, Any]:
        # In base64, which key_in reads: a key may have several lines.
        key = keep(base64.b64encode(config.key_file.read_bytes()).decode())
        with tempfile.TemporaryDirectory(prefix="kaggleops-") as folder:
            file = Path(folder) / "task.yaml"
            file.write_text(task_file(name, notebook, config))
            arguments = ["--name", name, "--secret", SECRET, "--detach-run", "--yes"]
            said = self._ask("launch", str(file), *arguments, secret=key, failing=True)
        # Whatever it said, the queue knows whether there is one.
        for job in self._jobs(name):
            if _number(job) not in before:
                return job
        raise RefusedError(f"launching the job {name}", _reason(said))

    def remove(self, tags: Mapping[str, str]) -> bool:
        """Cancel the job if it goes on, and tell whether it did; what has ended leaves nothing."""
        job = self._job(tags[NAME])
        if job is None or is_ended(_status(job)):
            return False
        self._ask("cancel", "--yes", _number(job))
        return True

    def state(self, tags: Mapping[str, str]) -> JobState:
        job = self._job(tags[NAME])
        if job is None:
            # Without a number it may be on its way: somebody launches it, or has to do it again.
            return JobState("FAILED", "gone") if tags.get(JOB) else JobState("SCHEDULED", "")
        reason = text(job, "failure_reason") or text(job, "details")
        return JobState(_status(job), text(job, "status") or "no status", reason)

    def logs(self, tags: Mapping[str, str], follow: bool) -> Iterator[str]:
        job = self._job(tags[NAME])
        doing = f"reading the log of {tags[NAME]}"
        if job is None:
            raise NotThereError(doing, "SkyPilot knows no such job")
        arguments = ["--follow" if follow else "--no-follow", "--tail", "0"]
        process = self._start("logs", *arguments, _number(job))
        try:
            for line in process.stdout or ():
                yield _COLOUR.sub("", line.rstrip("\n"))
        finally:
            process.kill()
            process.wait()

    def examine(self, config: SkyPilotConfig) -> Iterator[Finding]:
        if not shutil.which(config.cli):
            yield self._found("skipped", f"there is no command {config.cli!r}", _HINT)
            return
        done = subprocess.run([config.cli, "--version"], capture_output=True, text=True)
        if done.returncode:
            yield self._found("error", f"`{config.cli} --version` fails: {_reason(done.stderr)}")
            return
        yield self._found("ok", f"there is {done.stdout.strip()}; `sky check` tells its clouds")

    def offers(self, tracking_uri: str, config: SkyPilotConfig, running: int) -> list[Offer]:
        wanted = config.resources.get("accelerators") or ""
        accelerator = wanted if isinstance(wanted, str) else ",".join(map(str, wanted))
        offer = Offer(
            self.name,
            max(0, _MANY - running),
            config.max_hourly_cost or 0.0,
            session_hours=config.hours,
            ending_hours=_ENDING_HOURS,
            accelerator=accelerator.partition(":")[0],
        )
        if config.max_hourly_cost is None:
            problem = "what a machine costs is not known: set max_hourly_cost"
            offer = replace(offer, sessions=0, problem=problem)
        return [offer]

    def _jobs(self, name: str) -> list[Mapping[str, Any]]:
        """Return the managed jobs of a name, the newest first."""
        said = self._ask("queue", "--all", "--verbose", "--output", "json")
        found = None
        with suppress(ValueError):
            found = objects({"jobs": json.loads(said)}, "jobs")
        if found is None:
            raise KaggleOpsError("asking SkyPilot for its jobs", "its answer cannot be read")
        named = [each for each in found if text(each, "job_name") == name]
        return sorted(named, key=lambda each: number(each, "job_id") or 0.0, reverse=True)

    def _job(self, name: str) -> Mapping[str, Any] | None:
        return next(iter(self._jobs(name)), None)

    def _start(self, *arguments: str, secret: str = "") -> "subprocess.Popen[str]":
        try:
            return subprocess.Popen(
                [self._cli, "jobs", *arguments],
                env=os.environ | ({SECRET: secret} if secret else {}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if arguments[0] == "logs" else subprocess.PIPE,
                text=True,
                errors="replace",
            )
        except OSError as error:
            problem = f"its command cannot be started ({error.strerror}: {self._cli})"
            raise UsageError("using SkyPilot", problem, _HINT) from None

    def _ask(self, *arguments: str, secret: str = "", failing: bool = False) -> str:
        """Return what it printed; KaggleOpsError if it failed, unless it may be `failing`."""
        doing = f"asking SkyPilot (`{self._cli} jobs {arguments[0]}`)"
        process = self._start(*arguments, secret=secret)
        try:
            printed, errors = process.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            problem = f"it did not answer within {_SECONDS / 60:.0f} minutes"
            raise KaggleOpsError(doing, problem) from None
        finally:
            process.kill()
            process.wait()
        if process.returncode and not failing:
            raise KaggleOpsError(doing, _reason(errors or printed))
        return printed + errors if failing else printed


def task_file(name: str, notebook: str, config: SkyPilotConfig) -> str:
    """Return the text of a task file that runs a ready notebook (its JSON)."""
    packages = ["pip", *config.packages]  # never nothing
    resources = dict(config.resources)
    if config.max_hourly_cost:
        resources["max_hourly_cost"] = config.max_hourly_cost
    # The exit code is no failure, and starts it anew as often as it comes.
    recovery = {"max_restarts_on_errors": 0, "recover_on_exit_codes": [TO_BE_CONTINUED]}
    task = {
        "name": name,
        "resources": resources | {"job_recovery": recovery},
        "secrets": {SECRET: None},
        "setup": _SETUP.format(python=shlex.quote(config.python), packages=shlex.join(packages)),
        # Of all its machines together: one that is recovered has what is left.
        "run": _RUN.format(
            script=as_script(notebook),
            ends=SESSION_ENDS,
            deadline=int(time.time() + config.hours * 3600),
        ),
    }
    return yaml.safe_dump(task, sort_keys=False, width=1000)


def _number(job: Mapping[str, Any]) -> str:
    return f"{number(job, 'job_id') or 0:.0f}"


def _status(job: Mapping[str, Any]) -> str:
    return _STATUSES.get(text(job, "status"), UNKNOWN)


def _reason(said: str) -> str:
    lines = [_COLOUR.sub("", line).strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
