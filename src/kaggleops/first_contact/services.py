"""Which services can be tried, what that makes and costs, and the trial itself."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from kaggleops.backends.interface import Finding
from kaggleops.backends.lookup import backend_named
from kaggleops.bucket.location import SERVICES, bucket_uri, is_remote, service_name
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.first_contact.assumption import Line
from kaggleops.first_contact.job import HOURS, observed
from kaggleops.first_contact.trial import Trial, begun, left_behind

Tried = Callable[[Trial], Iterator[Line]]
"""Checks all of a service's assumptions, within a trial."""


@dataclass(frozen=True)
class Plan:
    """A trial that has not begun: nothing is made yet."""

    service: str
    bucket: str  # the person's, by its address
    costs: str  # what is made, and what that costs, for the person to say yes to
    names: dict[str, str]  # what is replaced in the report, with what
    tried: Tried
    makes: bool = True  # whether anything is made, in the bucket or elsewhere

    def lines(self) -> Generator[Line | Finding]:
        """Do it: first what others left is deleted, in the end all that this one made.

        Raises KaggleOpsError if it cannot begin.
        """
        if not self.makes:
            yield from self.tried(Trial(self.bucket, ""))
            return
        for each in left_behind(self.bucket):
            said = f"deleted what a trial that was interrupted left: {each.folder}"
            try:
                each.delete()
                yield Finding("before", "ok", said)
            except KaggleOpsError as error:
                yield Finding("before", "error", f"{each.folder}: {error}")
        with begun(self.bucket) as trial:
            over = Finding("left behind", "ok", "nothing")
            try:
                try:
                    yield from self.tried(trial)
                except KaggleOpsError as error:
                    yield Finding("job", "error", f"{error.doing}: {error.problem}", error.hint)
            finally:
                try:
                    trial.delete()
                except KaggleOpsError as error:
                    hint = "`kaggleops reap` deletes it; so does the next `doctor --try`."
                    over = Finding("left behind", "error", f"{trial.folder}: {error}", hint)
            yield over


def plan(service: str, bucket: str, folder: Path) -> Plan:
    """Return what a trial of a service would do; UsageError if it cannot be done here.

    Args:
        service: its name.
        bucket: the person's bucket, as people type it.
        folder: the repository's, for its config/backend.
    """
    if service == "server":
        return _of_server(bucket, folder)
    bucket = bucket_uri(bucket)
    if not is_remote(bucket):
        problem = f"{bucket} is a folder of this machine"
        raise UsageError(f"trying {service}", problem, "Add --bucket gs://BUCKET.")
    if service in SERVICES:
        return _of_storage(service, bucket)
    return _of_backend(service, bucket, folder)


def _list(service: str) -> Any:
    """Return the module with what is assumed of a service, and the list itself."""
    module = import_module(f"kaggleops.first_contact.{service}")
    return module, getattr(module, service.upper())


def _of_storage(service: str, bucket: str) -> Plan:
    if service_name(bucket) != service:
        problem = f"{bucket} is not a bucket of that service"
        raise UsageError(f"trying {service}", problem, f"Add --bucket {SERVICES[service]}.")

    def tried(trial: Trial) -> Iterator[Line]:
        module, listed = _list(service)
        yield from listed.tried(module.Storage.of(trial.uri).within)

    costs = f"writes some 60 small objects into {bucket}, for less than a cent, and deletes them"
    return Plan(service, bucket, costs, {}, tried)


def _of_server(bucket: str, folder: Path) -> Plan:
    from kaggleops.first_contact.server import SERVER, machine_of, reached

    machine = machine_of(folder)

    def tried(_: Trial) -> Iterator[Line]:
        with reached(machine) as server:
            yield from SERVER.tried(server.within)

    costs = "asks the server of config/local.yaml through a tunnel; it makes and costs nothing"
    names = {machine.project: "PROJECT", machine.name: "MACHINE"}
    return Plan("server", bucket, costs, names, tried, makes=False)


def _of_backend(service: str, bucket: str, folder: Path) -> Plan:
    backend = backend_named(service)
    made, config, names = _JOBS[service](backend, backend.config_of(folder))
    backend.check(bucket, config)

    def tried(trial: Trial) -> Iterator[Line]:
        _, listed = _list(service)
        # The folders of this machine that a container mounts, and leaves its files in.
        mounted = {name: str(trial.here / name) for name in _MOUNTED if hasattr(config, name)}
        job = observed(backend, trial.uri, replace(config, **mounted))
        yield from listed.tried(job.within)

    return Plan(service, bucket, made, names, tried)


_MOUNTED = ("input", "output")

Job = tuple[str, Any, dict[str, str]]
"""What a job makes and costs, its configuration, and what to replace in the report, with what."""


def _kaggle(backend: Any, config: Any) -> Job:
    hours = f"up to {HOURS:g} h of this week's {config.resource}" if config.resource else "no quota"
    shape = config.machine_shape or "no accelerator"
    made = f"runs a private notebook with {shape} for a few minutes ({hours}), and deletes it"
    return made, replace(config, session_hours=HOURS), {backend._client.user: "USER"}


def _runpod(backend: Any, config: Any) -> Job:
    # No volume, which would be there, and paid for, afterwards.
    short = replace(config, hours=HOURS, volume="", packages=[], keep=False)
    short = replace(short, env={}, setup="", ports=[])
    made = f"runs a pod for a few minutes, and deletes it ({backend.announce(short)})"
    return made, short, {}


def _docker(backend: Any, config: Any) -> Job:
    made = f"runs a container of {config.image_name} for a few minutes, for nothing, and removes it"
    return made, config, {}


def _colab(backend: Any, config: Any) -> Job:
    shape = config.accelerator or "no accelerator"
    units = f"at most {HOURS:g} h of its compute units; {backend.units(config)}"
    made = f"runs a runtime with {shape} for a few minutes, and releases it ({units})"
    return made, replace(config, session_hours=HOURS), {}


_JOBS: dict[str, Callable[[Any, Any], Job]] = {
    "kaggle": _kaggle,
    "runpod": _runpod,
    "docker": _docker,
    "colab": _colab,
}
