"""Which services can be tried, what that makes and costs, and the trial itself."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kaggleops.backends.interface import Finding
from kaggleops.backends.lookup import backend_named
from kaggleops.bucket.location import SERVICES, bucket_uri, is_remote, is_s3, service_name
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.first_contact.assumption import Line, tried
from kaggleops.first_contact.job import HOURS, observed
from kaggleops.first_contact.trial import Trial, begun, left_behind


@dataclass(frozen=True)
class Plan:
    """A trial that has not begun: nothing is made yet."""

    service: str
    bucket: str  # the person's, by its address
    costs: str  # what is made, and what that costs, for the person to say yes to
    names: dict[str, str]  # what is replaced in the report, with what
    checks: Callable[[Trial], Iterator[Line]]
    makes: bool = True  # whether anything is made, in the bucket or elsewhere

    def lines(self) -> Generator[Line | Finding]:
        """Do it: first what others left is deleted, in the end all that this one made.

        Raises KaggleOpsError if it cannot begin.
        """
        if not self.makes:
            yield from self.checks(Trial(self.bucket, ""))
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
                yield from self.checks(trial)
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
    doing = f"trying {service}"
    if service == "server":
        return _of_server(bucket, folder)
    bucket = bucket_uri(bucket)
    if not is_remote(bucket):
        raise UsageError(
            doing, f"{bucket} is a folder of this machine", "Add --bucket gs://BUCKET."
        )
    if service not in SERVICES:
        return _of_backend(service, bucket, folder)
    if service_name(bucket) != service:
        problem = f"{bucket} is not a bucket of that service"
        raise UsageError(doing, problem, f"Add --bucket {SERVICES[service]}.")

    def checks(trial: Trial) -> Iterator[Line]:
        from kaggleops.first_contact.storage import S3, CloudStorage

        at = (S3 if is_s3(bucket) else CloudStorage)(trial.uri)
        return tried(service, at.within)

    costs = f"writes some 60 small objects into {bucket}, for less than a cent, and deletes them"
    return Plan(service, bucket, costs, {}, checks)


def _of_server(bucket: str, folder: Path) -> Plan:
    from kaggleops.first_contact.server import reached
    from kaggleops.server.tunnel import Machine

    machine = Machine.of_settings(folder)
    if machine is None:
        hint = "Write `server: projects/…/zones/…/instances/…` into config/local.yaml."
        raise UsageError("trying the server", "none is named", hint)

    def checks(_: Trial) -> Iterator[Line]:
        with reached(machine) as server:
            yield from tried("server", lambda _: server)

    costs = "asks the server of config/local.yaml through a tunnel; it makes and costs nothing"
    names = {machine.project: "PROJECT", machine.name: "MACHINE"}
    return Plan("server", bucket, costs, names, checks, makes=False)


def _of_backend(service: str, bucket: str, folder: Path) -> Plan:
    backend: Any = backend_named(service)
    config: Any = backend.config_of(folder)
    names: dict[str, str] = {}
    if service == "kaggle":
        of_week = f"up to {HOURS:g} h of this week's {config.resource}"
        made = f"a private notebook with {config.machine_shape or 'no accelerator'}"
        costs, ends = of_week if config.resource else "no quota", "deletes it"
        names = {backend._client.user: "USER"}
        config = replace(config, session_hours=HOURS)
    elif service == "colab":
        made, ends = f"a runtime with {config.accelerator or 'no accelerator'}", "releases it"
        costs = f"at most {HOURS:g} h of its compute units; {backend.units(config)}"
        config = replace(config, session_hours=HOURS)
    elif service == "runpod":
        # No volume, which would be there, and paid for, afterwards.
        plain = {"volume": "", "packages": [], "keep": False, "env": {}, "setup": "", "ports": []}
        config = replace(config, hours=HOURS, **plain)
        made, costs, ends = "a pod", backend.announce(config), "deletes it"
    else:
        made, costs, ends = f"a container of {config.image_name}", "for nothing", "removes it"
    backend.check(bucket, config)

    def checks(trial: Trial) -> Iterator[Line]:
        from kaggleops.first_contact.jobs import CHECKS

        # The folders of this machine that a container mounts, and leaves its files in.
        there = [each for each in ("input", "output") if hasattr(config, each)]
        mounted = replace(config, **{each: str(trial.here / each) for each in there})
        seen = CHECKS[service](observed(backend, trial.uri, mounted))
        yield from tried(service, lambda _: seen)

    said = f"runs {made} for a few minutes, and {ends} ({costs})"
    return Plan(service, bucket, said, names, checks)
