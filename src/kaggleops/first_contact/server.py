"""What tests/fakes/iap_tunnel.py and the clients of a server assume of a machine behind IAP."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kaggleops.errors import UsageError
from kaggleops.first_contact.assumption import Assumptions, NotCheckedError, expect
from kaggleops.platforms.http import session
from kaggleops.server.settings import HEALTH_PATH
from kaggleops.server.tunnel import Machine, tunnel

SERVER: Assumptions["Remote"] = Assumptions()

_BY_PASSWORD = (401, 403)


@dataclass(frozen=True)
class Remote:
    """A server at the end of a tunnel."""

    url: str

    def within(self, _: str) -> "Remote":
        """Return itself."""
        return self

    def ask(self, method: str, path: str, **what: Any) -> Any:
        """Return the answer."""
        with session(again=False, tries=0) as asking:
            return asking.request(method, f"{self.url}{path}", **what)


def machine_of(folder: Path) -> Machine:
    """Return the machine that a folder's settings name; UsageError if they name none."""
    machine = Machine.of_settings(folder)
    if machine is None:
        hint = "Write `server: projects/…/zones/…/instances/…` into config/local.yaml."
        raise UsageError("trying the server", "none is named", hint)
    return machine


@contextmanager
def reached(machine: Machine) -> Iterator[Remote]:
    """Yield the server on a machine; KaggleOpsError if it is not reached."""
    with tunnel(machine) as opened:
        yield Remote(opened.url)


def _status(answer: Any) -> str:
    return f"{answer.status_code}, {answer.headers.get('Content-Type', 'no type')}"


@SERVER.otherwise("a tunnel is taken for one that does not open")
def health_answers(at: Remote) -> str:
    """`/health` is a 200 without signing in, as the tunnel is open when that answers."""
    answer = at.ask("GET", "/health")
    return expect(answer.status_code == 200, _status(answer))


@SERVER.otherwise("`doctor` does not know how old the server's index is")
def index_told(at: Remote) -> str:
    """The health page tells whether the index is fresh, old or incomplete."""
    told = at.ask("GET", f"{HEALTH_PATH}.json").json()["status"]
    return expect(told in ("fresh", "old", "incomplete"), told)


@SERVER.otherwise("the two ends may not understand each other, and nobody is told")
def versions_told(at: Remote) -> str:
    """It tells both packages' versions, and they are those of this machine."""
    versions = at.ask("GET", f"{HEALTH_PATH}.json").json().get("versions")
    if versions is None:
        raise NotCheckedError("a server that asks for a password tells them only with it")
    here = {"kaggleops": version("kaggleops"), "mlflow": version("mlflow-skinny")}
    told = {name: versions.get(name) for name in here}
    return expect(told == here, f"there {told}, here {here}")


@SERVER.otherwise("MLflow's clients cannot use the server")
def api_answers(at: Remote) -> str:
    """MLflow's API searches experiments: a 200 with JSON."""
    path = "/api/2.0/mlflow/experiments/search"
    answer = at.ask("POST", path, json={"max_results": 1})
    if answer.status_code in _BY_PASSWORD:
        raise NotCheckedError(f"it asks for a password ({answer.status_code})")
    good = answer.status_code == 200 and isinstance(answer.json(), dict)
    return expect(good, _status(answer))


@SERVER.otherwise("`kaggleops ui` opens something else")
def ui_answers(at: Remote) -> str:
    """Its root is MLflow's page."""
    answer = at.ask("GET", "/")
    if answer.status_code in _BY_PASSWORD:
        raise NotCheckedError(f"it asks for a password ({answer.status_code})")
    return expect(answer.status_code == 200 and "MLflow" in answer.text, _status(answer))
