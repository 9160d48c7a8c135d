"""What tests/fakes/iap_tunnel.py and the clients of a server assume of a machine behind IAP."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from kaggleops.first_contact.assumption import NotCheckedError, expect
from kaggleops.platforms.http import session
from kaggleops.server.settings import HEALTH_PATH
from kaggleops.server.tunnel import Machine, tunnel


class Remote:
    """A server at the end of a tunnel."""

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


@contextmanager
def reached(machine: Machine) -> Iterator[Remote]:
    """Yield the server on a machine; KaggleOpsError if it is not reached."""
    with tunnel(machine) as opened:
        yield Remote(opened.url)
