"""Which services can be tried, what that makes and costs, the trial itself, and its report."""

import platform
import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kaggleops.backends.interface import Finding
from kaggleops.backends.lookup import backend_named
from kaggleops.bucket.location import (
    SERVICES,
    bucket_uri,
    is_remote,
    is_s3,
    name_and_prefix,
    service_name,
)
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.first_contact.assumption import Line, NotCheckedError, expect, shown, tried
from kaggleops.first_contact.job import HOURS, observed
from kaggleops.first_contact.jobs import CHECKS
from kaggleops.first_contact.storage import S3, CloudStorage
from kaggleops.first_contact.trial import Trial, begun, left_behind
from kaggleops.platforms.folders import state_folder, write_private
from kaggleops.platforms.http import session
from kaggleops.printable import as_markdown
from kaggleops.server.settings import HEALTH_PATH
from kaggleops.server.tunnel import Machine, tunnel

_PACKAGES = (
    *("kaggleops", "mlflow-skinny", "google-cloud-storage", "boto3"),
    *("kaggle", "docker", "requests"),
)
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")


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
        problem = f"{bucket} is a folder of this machine"
        raise UsageError(doing, problem, "Add --bucket gs://BUCKET.")
    if service not in SERVICES:
        return _of_backend(service, bucket, folder)
    if service_name(bucket) != service:
        problem = f"{bucket} is not a bucket of that service"
        raise UsageError(doing, problem, f"Add --bucket {SERVICES[service]}.")

    kind = S3 if is_s3(bucket) else CloudStorage
    costs = f"writes some 60 small objects into {bucket}, for less than a cent, and deletes them"
    return Plan(service, bucket, costs, {}, lambda trial: tried(service, kind(trial.uri).within))


def _of_server(bucket: str, folder: Path) -> Plan:
    machine = Machine.of_settings(folder)
    if machine is None:
        hint = "Write `server: projects/…/zones/…/instances/…` into config/local.yaml."
        raise UsageError("trying the server", "none is named", hint)

    def checks(_: Trial) -> Iterator[Line]:
        with tunnel(machine, 0) as opened:
            yield from tried("server", lambda _: Server(opened.url))

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
        # The folders of this machine that a container mounts, and leaves its files in.
        there = [each for each in ("input", "output") if hasattr(config, each)]
        mounted = replace(config, **{each: str(trial.here / each) for each in there})
        seen = CHECKS[service](observed(backend, trial.uri, mounted))
        yield from tried(service, lambda _: seen)

    said = f"runs {made} for a few minutes, and {ends} ({costs})"
    return Plan(service, bucket, said, names, checks)


class Server:
    """What clients, and tests/fakes/iap_tunnel.py, assume of a server at the end of a tunnel."""

    def __init__(self, url: str) -> None:
        self._url = url

    def _ask(self, method: str, path: str, *, public: bool = True, **what: Any) -> Any:
        with session(again=False, tries=0) as asking:
            answer = asking.request(method, f"{self._url}{path}", **what)
        if answer.status_code in (401, 403) and not public:
            raise NotCheckedError(f"it asks for a password ({answer.status_code})")
        return answer

    def health_answers(self) -> str:
        return _good(self._ask("GET", "/health"))

    def index_told(self) -> str:
        told = self._ask("GET", f"{HEALTH_PATH}.json").json()["status"]
        return expect(told in ("fresh", "old", "incomplete"), told)

    def versions_told(self) -> str:
        versions = self._ask("GET", f"{HEALTH_PATH}.json").json().get("versions")
        if versions is None:
            raise NotCheckedError("a server that asks for a password tells them only with it")
        here = {"kaggleops": version("kaggleops"), "mlflow": version("mlflow-skinny")}
        told = {name: versions.get(name) for name in here}
        return expect(told == here, f"there {told}, here {here}")

    def api_answers(self) -> str:
        path = "/api/2.0/mlflow/experiments/search"
        answer = self._ask("POST", path, public=False, json={"max_results": 1})
        seen = _good(answer)
        return expect(isinstance(answer.json(), dict), seen)

    def ui_answers(self) -> str:
        answer = self._ask("GET", "/", public=False)
        return expect("MLflow" in answer.text, _good(answer))


def _good(answer: Any) -> str:
    kind = answer.headers.get("Content-Type", "no type")
    return expect(answer.status_code == 200, f"{answer.status_code}, {kind}")


def written(plan: Plan, lines: Sequence[Line], ended: str) -> Path:
    """Write the report of a trial into this machine's state folder, and return its file.

    `lines` is what came of it, `ended` how it ended.
    """
    name, prefix = name_and_prefix(plan.bucket)
    host = plan.bucket.partition("@")[2].partition("/")[0]
    names = {plan.bucket: "BUCKET", name: "BUCKET", prefix: "PREFIX", host: "HOST"}
    names |= {str(Path.home()): "HOME", **plan.names}
    hidden = [replace(each, seen=_without(each.seen, names)) for each in lines]
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    file = state_folder() / "first-contact" / f"{plan.service}-{stamp}.md"
    write_private(file, _text(plan.service, hidden, _without(shown(ended), names)))
    return file


def _text(service: str, lines: Sequence[Line], ended: str) -> str:
    """Return a report in Markdown."""
    found = []
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    here = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    report = [f"# First contact with {service}, {when}", "", f"{here}; {', '.join(found)}", ""]
    report += ["| | | seen | assumed |", "|---|---|---|---|"]
    for line in lines:
        verdict = "**differs**" if line.verdict == "differs" else line.verdict
        seen, assumed = as_markdown(line.seen), as_markdown(line.assumed)
        report.append(f"| {line.id} | {verdict} | {seen} | {assumed} |")
    if differs := [each for each in lines if each.verdict == "differs"]:
        report += ["", "What would break:", ""]
        report += [f"- {line.id}: otherwise {line.breaks}." for line in differs]
    return "\n".join([*report, "", f"Left behind: {as_markdown(ended)}", ""])


def _without(said: str, names: Mapping[str, str]) -> str:
    """Return a text with email addresses hidden, and with names replaced, the longest first."""
    for name in sorted(filter(None, names), key=len, reverse=True):
        said = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", names[name], said)
    return _EMAIL.sub("EMAIL", said)
