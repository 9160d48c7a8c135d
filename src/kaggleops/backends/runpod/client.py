"""RunPod's REST API, version 2, as far as this project uses it; https://docs.runpod.io.

Whatever may be asked twice is; making a pod or a volume is not, as each one costs money.
"""

import os
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import requests
from urllib3.exceptions import ReadTimeoutError

from kaggleops.backends.answers import objects, text
from kaggleops.backends.runpod import answers
from kaggleops.backends.runpod.answers import Gpu, Pod, Volume
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

_API = "https://api.runpod.io"
_KEY = "RUNPOD_API_KEY"
_KEY_FILE = Path(".runpod/config.toml")
"""Under the home folder: where RunPod's own `runpodctl` keeps the key."""

_SAME_TIME = 60.0  # seconds by which two clocks may differ: an answer says whole ones, and is late
_LONGEST = 1_000  # characters of what RunPod says is wrong

NO_MONEY, FORBIDDEN, INVALID, BUSY = 402, 403, 422, 429

_NETWORK = "Check this machine's network; https://uptime.runpod.io says how RunPod is."
_HINTS = {
    NO_MONEY: "Add funds: https://console.runpod.io/user/billing.",
    FORBIDDEN: "Give the key more permissions: https://console.runpod.io/user/settings.",
    BUSY: "Try again later.",
}


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
        self._ahead = 0.0

    def now(self) -> float:
        """Return the time by RunPod's clock, in seconds since the epoch: ours may be hours off."""
        return time.time() + self._ahead

    def gpus(self, cloud: str, count: int, min_cuda: str) -> list[Gpu]:
        """Return the GPUs that there are, with their prices and where how many are free."""
        query = {"include": "AVAILABILITY", "product": "POD", "cloud": cloud, "count": str(count)}
        if min_cuda:
            query["minCudaVersion"] = min_cuda
        found = self._list("reading RunPod's prices", "/v2/catalog/gpus", "gpus", query)
        return [gpu for each in found if (gpu := answers.gpu(each)).id]

    def pods(self) -> list[Pod]:
        """Return the account's pods."""
        return [answers.pod(each) for each in self._list("listing the pods", "/v2/pods", "pods")]

    def pod(self, pod_id: str) -> Pod | None:
        """Return a pod, None where it is gone."""
        doing = f"asking RunPod about pod {pod_id}"
        found = self._unless_gone(doing, "GET", f"/v2/pods/{pod_id}")
        return None if found is None else answers.pod(found, pod_id)

    def create_pod(self, body: Mapping[str, Any]) -> Pod:
        """Make a pod (`CreatePodRequest` in RunPod's document)."""
        doing = f"creating the pod {body['name']}"
        return answers.pod(self._make(doing, "pod", "/v2/pods", body))

    def delete_pod(self, pod_id: str) -> bool:
        """Delete a pod, and tell whether there was one."""
        gone = self._unless_gone(f"deleting pod {pod_id}", "DELETE", f"/v2/pods/{pod_id}")
        return gone is not None

    def volumes(self) -> list[Volume]:
        """Return the account's network volumes."""
        path, doing = "/v2/network-volumes", "listing the network volumes"
        found = self._list(doing, path, "networkVolumes")
        return [volume for each in found if (volume := answers.volume(each)).id]

    def create_volume(self, name: str, data_center: str, size_gb: int) -> str:
        """Make a network volume, and return its id."""
        body = {"name": name, "dataCenter": data_center, "size": size_gb}
        doing = f"creating the network volume {name} in {data_center}"
        return answers.volume(self._make(doing, "volume", "/v2/network-volumes", body)).id

    def _make(self, doing: str, what: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        made = self._ask(doing, "POST", path, body=body)
        if not answers.id_of(made):
            raise NoAnswerError(doing, f"RunPod does not say which {what} it made")
        return made

    def delete_volume(self, volume_id: str) -> None:
        """Delete a network volume with what it holds."""
        path = f"/v2/network-volumes/{volume_id}"
        self._unless_gone(f"deleting network volume {volume_id}", "DELETE", path)

    def ssh_keys(self) -> list[str]:
        """Return the account's public keys, which pods let in."""
        found = self._ask("reading your SSH keys", "GET", "/v2/account/ssh-keys").get("keys")
        return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []

    def log(self, pod_id: str, after: str, silence: float = READ) -> Iterator[str]:
        """Yield the lines of the stream of a pod's log, as server-sent events.

        It begins after the event of an id, or at a time; "" for all that there is. Raises
        SilenceError after so many seconds without a line.
        """
        doing, path = f"reading the log of pod {pod_id}", f"/v2/pods/{pod_id}/logs"
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
        how: dict[str, Any] = {
            "params": {"source": "container"},
            "headers": headers,
            "stream": True,
        }
        with session(silence) as asking, self._send(doing, asking, "GET", path, **how) as answer:
            try:
                # As bytes: a str would be broken at each separator that Unicode knows.
                for line in answer.iter_lines():
                    yield line.decode(errors="replace")
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
            answer = self._send(doing, asking, method, path, params=query, json=body)
            if not answer.content:
                return {}
            try:
                found = answer.json()
            except ValueError as error:
                raise NoAnswerError(doing, "RunPod's answer is not JSON", "Try again.") from error
        if not isinstance(found, dict):
            raise NoAnswerError(doing, "RunPod's answer is not a JSON object", "Try again.")
        return found

    def _send(
        self,
        doing: str,
        asking: requests.Session,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        **how: Any,
    ) -> requests.Response:
        headers = {**(headers or {}), "Authorization": f"Bearer {self._key}"}
        try:
            answer = asking.request(method, self._url + path, headers=headers, **how)
        except requests.RequestException as error:
            problem = f"no answer from RunPod ({type(error).__name__})"
            raise NoAnswerError(doing, problem, _NETWORK) from error
        with suppress(ValueError, TypeError, KeyError, OverflowError):
            ahead = parsedate_to_datetime(answer.headers["Date"]).timestamp() - time.time()
            self._ahead = ahead if abs(ahead) > _SAME_TIME else 0.0
        if answer.ok:
            return answer
        with answer:
            raise _of_status(doing, answer)


def _of_status(doing: str, answer: requests.Response) -> KaggleOpsError:
    status = answer.status_code
    if status == 401:
        hint = f"Make a new one (https://console.runpod.io/user/settings), and set {_KEY} to it."
        return RunPodError(doing, "RunPod does not accept the API key", hint, status)
    if status >= 500:
        return NoAnswerError(doing, f"RunPod has a fault ({status})", "Try again later.")
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    if isinstance(problem, dict):
        if status == 404:
            return NotThereError(doing, _said(problem, status))
        return RunPodError(doing, _said(problem, status), _HINTS.get(status, ""), status)
    if status == 404:  # a page of whoever stands between: RunPod knows nothing of this
        return NoAnswerError(doing, f"something other than RunPod answered ({status})", _NETWORK)
    return RunPodError(doing, f"RunPod refused it ({status})", _HINTS.get(status, ""), status)


def _said(problem: Mapping[str, Any], status: int) -> str:
    """Return what a problem document (RFC 9457) says."""
    errors = problem.get("errors")
    said = [text(problem, "detail") or text(problem, "title")]
    said += map(str, errors if isinstance(errors, list) else [])
    return "; ".join(filter(None, said))[:_LONGEST] or f"RunPod refused it ({status})"


def _api_key() -> str:
    if key := os.environ.get(_KEY, "").strip():
        return keep(key)
    file = Path.home() / _KEY_FILE
    found = None
    try:
        settings = tomllib.loads(file.read_text())
        # runpodctl's spelling, and that of RunPod's Python package.
        found = settings.get("apikey") or settings.get("default", {}).get("api_key")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, AttributeError):
        pass  # no such file, or none of theirs
    if not found:
        hint = f"Make one (https://console.runpod.io/user/settings), and set {_KEY} to it."
        raise UsageError("signing in to RunPod", "there is no API key on this machine", hint)
    return keep(str(found))
