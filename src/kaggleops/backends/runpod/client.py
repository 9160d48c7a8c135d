"""RunPod's REST API, version 2, as far as this project uses it; https://docs.runpod.io.

Whatever may be asked twice is; making a pod or a volume is not, as each one costs money.
"""

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import requests

from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.platforms.http import READ, session

_API = "https://api.runpod.io"
_KEY = "RUNPOD_API_KEY"
_KEY_FILE = Path(".runpod/config.toml")
"""Under the home folder: where RunPod's own `runpodctl` keeps the key."""

NO_ANSWER = 0
NO_MONEY, FORBIDDEN, NOT_THERE, INVALID, BUSY = 402, 403, 404, 422, 429

_HINTS = {
    NO_ANSWER: "Check this machine's network; https://uptime.runpod.io says how RunPod is.",
    NO_MONEY: "Add funds: https://console.runpod.io/user/billing.",
    FORBIDDEN: "Give the key more permissions: https://console.runpod.io/user/settings.",
    BUSY: "Try again later.",
}


class RunPodError(KaggleOpsError):
    """RunPod refused something, or nobody knows whether a request arrived.

    Args:
        status: the HTTP status, or NO_ANSWER where nobody knows: no answer came, or a 5xx.
    """

    def __init__(self, doing: str, problem: str, hint: str = "", status: int = NO_ANSWER) -> None:
        super().__init__(doing, problem, hint)
        self.status = status


class RunPod:
    """The account whose key this machine has.

    Raises:
        UsageError: it has none.
    """

    def __init__(self) -> None:
        self._url = os.environ.get("RUNPOD_API_URL", _API)
        self._key = _api_key()

    def gpus(self, cloud: str, count: int, min_cuda: str) -> list[dict[str, Any]]:
        """Return the GPUs that there are, with their prices and where how many are free."""
        query = {"include": "AVAILABILITY", "product": "POD", "cloud": cloud, "count": str(count)}
        if min_cuda:
            query["minCudaVersion"] = min_cuda
        found = self._ask("reading RunPod's prices", "GET", "/v2/catalog/gpus", query=query)
        return list(found["gpus"])

    def pods(self) -> list[dict[str, Any]]:
        """Return the account's pods."""
        return list(self._ask("listing the pods", "GET", "/v2/pods")["pods"])

    def pod(self, pod_id: str) -> dict[str, Any] | None:
        """Return a pod, None where it is gone."""
        return self._unless_gone(f"asking RunPod about pod {pod_id}", "GET", f"/v2/pods/{pod_id}")

    def create_pod(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make a pod; see `CreatePodRequest` of RunPod's OpenAPI document."""
        doing = f"creating the pod {body['name']}"
        return self._ask(doing, "POST", "/v2/pods", body=body)

    def delete_pod(self, pod_id: str) -> bool:
        """Delete a pod, and tell whether there was one."""
        gone = self._unless_gone(f"deleting pod {pod_id}", "DELETE", f"/v2/pods/{pod_id}")
        return gone is not None

    def volumes(self) -> list[dict[str, Any]]:
        """Return the account's network volumes."""
        found = self._ask("listing the network volumes", "GET", "/v2/network-volumes")
        return list(found["networkVolumes"])

    def create_volume(self, name: str, data_center: str, size_gb: int) -> dict[str, Any]:
        """Make a network volume."""
        body = {"name": name, "dataCenter": data_center, "size": size_gb}
        doing = f"creating the network volume {name} in {data_center}"
        return self._ask(doing, "POST", "/v2/network-volumes", body=body)

    def delete_volume(self, volume_id: str) -> None:
        """Delete a network volume with what it holds."""
        self._unless_gone(
            f"deleting network volume {volume_id}", "DELETE", f"/v2/network-volumes/{volume_id}"
        )

    def ssh_keys(self) -> list[str]:
        """Return the account's public keys, which pods let in."""
        return list(self._ask("reading your SSH keys", "GET", "/v2/account/ssh-keys")["keys"])

    def log(self, pod_id: str, after: str, silence: float = READ) -> Iterator[str]:
        """Yield the lines of the stream of a pod's log, as server-sent events.

        Args:
            pod_id: whose.
            after: the id of the last event that is known, or the time from which to begin.
            silence: seconds without a line after which the stream is given up.

        Raises:
            RunPodError: the pod is gone, or the stream broke off.
        """
        doing = f"reading the log of pod {pod_id}"
        with (
            session(silence) as asking,
            self._send(
                doing,
                asking,
                "GET",
                f"/v2/pods/{pod_id}/logs",
                params={"source": "container"},
                headers={"Last-Event-ID": after, "Accept": "text/event-stream"},
                stream=True,
            ) as answer,
        ):
            try:
                # As bytes: a str would be broken at each separator that Unicode knows.
                for line in answer.iter_lines():
                    yield line.decode(errors="replace")
            except requests.RequestException as error:
                raise RunPodError(doing, f"it broke off ({type(error).__name__})") from error

    def _unless_gone(self, doing: str, method: str, path: str) -> dict[str, Any] | None:
        try:
            return self._ask(doing, method, path)
        except RunPodError as error:
            if error.status == NOT_THERE:
                return None
            raise

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
                raise RunPodError(doing, "RunPod's answer is no JSON", "Try again.") from error
        if not isinstance(found, dict):
            raise RunPodError(doing, "RunPod's answer is no object", "Try again.")
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
            raise RunPodError(doing, problem, _HINTS[NO_ANSWER]) from error
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
        return RunPodError(doing, f"RunPod has a fault ({status})", "Try again later.")
    return RunPodError(doing, _said(answer), _HINTS.get(status, ""), status)


def _said(answer: requests.Response) -> str:
    """Return what a problem document (RFC 9457) says."""
    try:
        problem = answer.json()
        detail = str(problem.get("detail") or problem["title"])
        return "; ".join([detail, *map(str, problem.get("errors") or [])])
    except (ValueError, KeyError, AttributeError):
        return f"RunPod refused it ({answer.status_code})"


def _api_key() -> str:
    if key := os.environ.get(_KEY, "").strip():
        return key
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
    return str(found)
