"""RunPod's REST API, version 2, as far as this project uses it; https://docs.runpod.io.

Whatever may be asked twice is; making a pod or a volume is not, as each one costs money. Of an
answer, what is missing or odd is unknown: "" or None.
"""

import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from urllib3.exceptions import ReadTimeoutError

from kaggleops.backends.answers import moment, number, objects, text
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.platforms.http import (
    READ,
    NoAnswerError,
    NotTakenError,
    NotThereError,
    SilenceError,
    session,
)
from kaggleops.redaction import keep

LONGEST_HOURS = 168.0
"""What a job may be given: a week. RunPod has no limit of its own, and a pod that is forgotten is
paid for until its hours are over."""

GRACE = 60.0
"""Seconds that a job has to send what it logged, once it is told to end."""

PATIENCE = 300.0
"""Seconds that the bucket then has to take the exit code and the log."""

LATE = 2 * (GRACE + PATIENCE)
"""Seconds behind the deadline at which a pod deletes itself if all else hangs, as in
infra/runpod/start.py. Until then it is paid for."""

PREFIX = "kaggleops-"
"""What the names of our pods begin with; the run's id follows."""

JOB_VARIABLE = "KAGGLEOPS_JOB"
"""The variable of a pod's environment with what its start script finds to do."""

NO_MONEY, FORBIDDEN, INVALID, BUSY = 402, 403, 422, 429

_API = "https://api.runpod.io"
_KEY = "RUNPOD_API_KEY"
_KEY_FILE = Path(".runpod/config.toml")  # at home: where RunPod's own `runpodctl` keeps the key
_LONGEST = 1_000  # characters of what RunPod says is wrong
_NEW_KEY = f"Make one (https://console.runpod.io/user/settings), and set {_KEY} to it."
_NETWORK = "Check this machine's network; https://uptime.runpod.io says how RunPod is."
_HINTS = {
    401: _NEW_KEY,
    NO_MONEY: "Add funds: https://console.runpod.io/user/billing.",
    FORBIDDEN: "Give the key more permissions: https://console.runpod.io/user/settings.",
    BUSY: "Try again later.",
}
_OURS = re.compile(re.escape(PREFIX) + "([0-9a-f]{32})")
_ID = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Job:
    """What one of our pods was made to do.

    Until its deadline (seconds since the epoch); with `keep`, the pod is kept until then.
    """

    run_id: str
    bucket: str
    deadline: float
    keep: bool


@dataclass(frozen=True)
class Pod:
    """A pod, as RunPod shows it."""

    id: str  # RunPod's
    name: str  # ours
    status: str  # RunPod's word
    cost: float | None  # in US dollars an hour
    created: float | None  # when, in seconds since the epoch
    created_at: str  # the same in RunPod's words
    access: str  # the command that leads into it, and the pages of what it serves
    job: Job | None

    @property
    def ended(self) -> bool:
        """Whether it is known to have: a status that is new is that of a live one."""
        return self.status in ("EXITED", "ERROR", "TERMINATED")

    @property
    def run_id(self) -> str:
        """The run that it was made for, "" for a pod that is none of ours."""
        if not self.name:
            return self.job.run_id if self.job else ""
        ours = _OURS.fullmatch(self.name)
        return ours[1] if ours else ""


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU."""

    id: str  # what RunPod calls it
    name: str  # what people call it
    price: Mapping[str, float]  # in US dollars an hour for one, by cloud; only those that are told
    most: Mapping[str, float]  # how many a pod may have, by cloud; only those that are told
    stock: str  # how much of it is free, in RunPod's word; "" for nothing
    places: Mapping[str, str]  # the same by data center
    memory_gb: float | None


@dataclass(frozen=True)
class Volume:
    """A network volume."""

    id: str
    name: str
    size: int | None  # in GB
    data_center: str


class RunPodError(NotTakenError):
    """RunPod refused something, with an HTTP status."""

    def __init__(self, doing: str, problem: str, hint: str = "", status: int = 0) -> None:
        super().__init__(doing, problem, hint)
        self.status = status


class RunPod:
    """The account whose key this machine has; UsageError if it has none.

    Every method may raise RunPodError, or NoAnswerError: then what was asked for may be done.
    """

    def __init__(self) -> None:
        self._url = os.environ.get("RUNPOD_API_URL", _API)
        self._key = _api_key()

    def gpus(self, cloud: str, count: int, min_cuda: str) -> list[Gpu]:
        """Return the GPUs that there are, with their prices and where how many are free."""
        query = {"include": "AVAILABILITY", "product": "POD", "cloud": cloud, "count": str(count)}
        if min_cuda:
            query["minCudaVersion"] = min_cuda
        found = self._list("reading RunPod's prices", "/v2/catalog/gpus", "gpus", query)
        return [gpu for each in found if (gpu := gpu_of(each)).id]

    def pods(self) -> list[Pod]:
        """Return the account's pods."""
        return [pod_of(each) for each in self._list("listing the pods", "/v2/pods", "pods")]

    def pod(self, pod_id: str) -> Pod | None:
        """Return a pod, None where it is gone."""
        doing = f"asking RunPod about pod {pod_id}"
        found = self._unless_gone(doing, "GET", f"/v2/pods/{pod_id}")
        return None if found is None else pod_of(found, pod_id)

    def create_pod(self, body: Mapping[str, Any]) -> Pod:
        """Make a pod (`CreatePodRequest` in RunPod's document)."""
        return pod_of(self._make(f"creating the pod {body['name']}", "/v2/pods", body))

    def delete_pod(self, pod_id: str) -> bool:
        """Delete a pod, and tell whether there was one."""
        gone = self._unless_gone(f"deleting pod {pod_id}", "DELETE", f"/v2/pods/{pod_id}")
        return gone is not None

    def volumes(self) -> list[Volume]:
        """Return the account's network volumes."""
        found = self._list("listing the network volumes", "/v2/network-volumes", "networkVolumes")
        return [volume for each in found if (volume := volume_of(each)).id]

    def create_volume(self, name: str, data_center: str, size_gb: int) -> str:
        """Make a network volume, and return its id."""
        body = {"name": name, "dataCenter": data_center, "size": size_gb}
        doing = f"creating the network volume {name} in {data_center}"
        return volume_of(self._make(doing, "/v2/network-volumes", body)).id

    def delete_volume(self, volume_id: str) -> None:
        """Delete a network volume with what it holds."""
        path = f"/v2/network-volumes/{volume_id}"
        self._unless_gone(f"deleting network volume {volume_id}", "DELETE", path)

    def ssh_keys(self) -> list[str]:
        """Return the account's public keys, which pods let in."""
        found = self._ask("reading your SSH keys", "GET", "/v2/account/ssh-keys").get("keys")
        return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []

    def log(self, pod_id: str, after: str, silence: float = READ) -> Iterator[tuple[str, str]]:
        """Yield the lines of a pod's log, each behind its event's id; those of one moment share it.

        It begins anew with all events of an id, or at a time; "" for all that there is. Raises
        SilenceError after so many seconds without a line.
        """
        doing, path = f"reading the log of pod {pod_id}", f"/v2/pods/{pod_id}/logs"
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
        how: dict[str, Any] = {"params": {"source": "container"}, "stream": True}
        with (
            session(silence) as asking,
            self._send(doing, asking, "GET", path, headers, **how) as answer,
        ):
            try:
                # As bytes: a str would be broken at each separator that Unicode knows.
                yield from _events(line.decode(errors="replace") for line in answer.iter_lines())
            except requests.RequestException as error:
                silent = any(isinstance(each, ReadTimeoutError) for each in error.args)
                kind = SilenceError if silent else NoAnswerError
                raise kind(doing, f"it broke off ({type(error).__name__})") from error

    def _list(
        self, doing: str, path: str, name: str, query: Mapping[str, str] | None = None
    ) -> list[Mapping[str, Any]]:
        found = objects(self._ask(doing, "GET", path, query=query), name)
        if found is None:  # that is not the same as none
            raise NoAnswerError(doing, f"RunPod's answer has no {name}", "Try again.")
        return found

    def _make(self, doing: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        made = self._ask(doing, "POST", path, body=body)
        if not _id(made):
            raise NoAnswerError(doing, "RunPod does not say which one it made")
        return made

    def _unless_gone(self, doing: str, method: str, path: str) -> dict[str, Any] | None:
        try:
            return self._ask(doing, method, path)
        except NotThereError:
            return None

    def _ask(
        self,
        doing: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        with session(again=method != "POST") as asking:
            answer = self._send(doing, asking, method, path, {}, params=query, json=body)
            found: Any = None
            with suppress(ValueError):
                found = answer.json() if answer.content else {}
        if not isinstance(found, dict):
            raise NoAnswerError(doing, "RunPod's answer is not a JSON object", "Try again.")
        return found

    def _send(
        self,
        doing: str,
        asking: requests.Session,
        method: str,
        path: str,
        headers: Mapping[str, str],
        **how: Any,
    ) -> requests.Response:
        headers = {**headers, "Authorization": f"Bearer {self._key}"}
        try:
            answer = asking.request(method, self._url + path, headers=headers, **how)
        except requests.RequestException as error:
            problem = f"no answer from RunPod ({type(error).__name__})"
            raise NoAnswerError(doing, problem, _NETWORK) from error
        if answer.ok:
            return answer
        with answer:
            raise _refusal(doing, answer)


def _events(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the id and the line of each server-sent event (https://html.spec.whatwg.org)."""
    event_id = ""
    data: list[str] = []
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            # It is sent back in a header.
            event_id = value if value.isascii() and value.isprintable() else ""
        elif name == "data":
            data.append(value)
        elif not line and data:
            yield event_id, _line("\n".join(data))
            data = []


def _line(data: str) -> str:
    """Return the line that an event holds; of one that is not as it should be, all that it is."""
    with suppress(ValueError, TypeError, KeyError, RecursionError):
        if isinstance(line := json.loads(data)["line"], str):
            return line
    return data


def _refusal(doing: str, answer: requests.Response) -> KaggleOpsError:
    status = answer.status_code
    if status >= 500:
        return NoAnswerError(doing, f"RunPod has a fault ({status})", "Try again later.")
    problem: Any = None
    with suppress(ValueError):
        problem = answer.json()
    if status == 404 and not isinstance(problem, dict):  # RunPod knows nothing of this
        return NoAnswerError(doing, f"something other than RunPod answered ({status})", _NETWORK)
    # What a problem document (RFC 9457) says.
    errors = problem.get("errors") if isinstance(problem, dict) else None
    told = [text(problem, "detail") or text(problem, "title")]
    told += map(str, errors if isinstance(errors, list) else [])
    said = "; ".join(filter(None, told))[:_LONGEST] or f"RunPod refused it ({status})"
    if status == 404:
        return NotThereError(doing, said)
    said = "RunPod does not accept the API key" if status == 401 else said
    return RunPodError(doing, said, _HINTS.get(status, ""), status)


def _api_key() -> str:
    if key := os.environ.get(_KEY, "").strip():
        return keep(key)
    found = None
    with suppress(OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, AttributeError):
        settings = tomllib.loads((Path.home() / _KEY_FILE).read_text())
        # runpodctl's spelling, and that of RunPod's Python package.
        found = settings.get("apikey") or settings.get("default", {}).get("api_key")
    if not found:
        problem = "there is no API key on this machine"
        raise UsageError("signing in to RunPod", problem, _NEW_KEY)
    return keep(str(found))


def pod_of(found: Mapping[str, Any], pod_id: str = "") -> Pod:
    """Return a pod from an answer; from one that lacks its id, the one that was asked for."""
    created = moment(found, "createdAt")
    pages = []
    ports = found.get("ports")
    for port in ports if isinstance(ports, list) and _id(found) else ():
        number_of, _, kind = str(port).partition("/")
        if kind == "http" and number_of.isdigit():  # RunPod's proxy shows what it serves
            pages.append(f"https://{_id(found)}-{number_of}.proxy.runpod.net")
    return Pod(
        id=_id(found) or pod_id,
        name=text(found, "name"),
        status=text(found, "status"),
        cost=number(found, "cost"),
        created=created,
        created_at="" if created is None else text(found, "createdAt"),
        access=", ".join(filter(None, (text(found, "ssh", "direct", "command"), *pages))),
        job=_job(found),
    )


def _id(found: Mapping[str, Any]) -> str:
    """Return the id that an answer tells: it will be part of addresses."""
    told = text(found, "id")
    return told if _ID.fullmatch(told) else ""


def _job(found: Mapping[str, Any]) -> Job | None:
    environment = found.get("env")
    said = environment.get(JOB_VARIABLE) if isinstance(environment, Mapping) else None
    with suppress(TypeError, ValueError, RecursionError):
        job = json.loads(said)  # type: ignore[arg-type] # whatever it is
        run_id, bucket, deadline = text(job, "run_id"), text(job, "bucket"), number(job, "deadline")
        if run_id and bucket and deadline is not None:
            return Job(run_id, bucket, deadline, job.get("keep") is True)
    return None


def gpu_of(found: Mapping[str, Any]) -> Gpu:
    """Return a kind of GPU from an answer."""
    stock = text(found, "availability")
    there = objects(found, "dataCenters") or ()
    places = {text(each, "id"): text(each, "availability") for each in there}
    return Gpu(
        id=text(found, "id"),
        name=text(found, "name"),
        price=_by_cloud(found, "price"),
        most=_by_cloud(found, "maxCount"),
        stock="" if stock == "NONE" else stock,
        places={place: level for place, level in places.items() if place and level != "NONE"},
        memory_gb=number(found, "memory"),
    )


def _by_cloud(found: Mapping[str, Any], name: str) -> dict[str, float]:
    told = {cloud: number(found, name, cloud) for cloud in ("secure", "community")}
    return {cloud: value for cloud, value in told.items() if value is not None}


def volume_of(found: Mapping[str, Any]) -> Volume:
    """Return a network volume from an answer."""
    size = number(found, "size")
    whole = None if size is None else int(size)
    return Volume(_id(found), text(found, "name"), whole, text(found, "dataCenter"))
