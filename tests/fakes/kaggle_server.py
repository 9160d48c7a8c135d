"""A Kaggle of our own on a loopback port, for Kaggle's real client and command to talk to.

Strict: what the service's own message types lack is a 400. What is pushed is truly executed, in a
process of its own and a folder shaped like the platform.

    with KaggleServer(tmp_path) as server:
        server.add_user("ada")
        server.api("ada").kernels_push(folder)
        server.session("ada/my-notebook").wait()

What is known of the service only from reading its client and its users' reports stands in the
parts. Left out because nobody here asks for it: interactive sessions, languages other than Python,
comments, votes, forks, collaborators and model uploads.
"""

import hashlib
import sys
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests import secrets_of
from tests.fakes.faults import Fault, Faults
from tests.fakes.kaggle import client
from tests.fakes.kaggle.behaviour import Behaviour
from tests.fakes.kaggle.competitions import Competitions
from tests.fakes.kaggle.datasets import Datasets
from tests.fakes.kaggle.downloads import Downloads
from tests.fakes.kaggle.kernels import Kernels
from tests.fakes.kaggle.machines import Machines
from tests.fakes.kaggle.messages import error_response
from tests.fakes.kaggle.pushing import Pushing
from tests.fakes.kaggle.routes import Answer, Router
from tests.fakes.kaggle.session import Session
from tests.fakes.kaggle.sources import Sources
from tests.fakes.kaggle.store import ApiError, Competition, Dataset, Kernel, Store, User
from tests.fakes.wire import Delivery, HttpServer, Request, Response

if TYPE_CHECKING:
    from kaggle.api.kaggle_api_extended import KaggleApi

_FAULTS = ("reset", "truncate", "lost-response", "hang", "late")


@dataclass(frozen=True)
class Logged:
    """One request that has been answered."""

    op: str
    path: str
    status: int
    """0 where the connection was broken off instead."""
    message: str = ""


class KaggleServer:
    """The server, from `start` (or `with`) until `stop`.

    Args:
        scratch: a folder for its machines.
        python: the interpreter of its machines, with Jupyter and what notebooks import.
        outside: environment variables that lead a session with internet to other services.
    """

    def __init__(
        self,
        scratch: Path,
        python: str = sys.executable,
        outside: Mapping[str, str] | None = None,
    ) -> None:
        self.behaviour = Behaviour()
        self.url = ""
        self._scratch = scratch
        self._store = Store()
        sources = Sources(self._store)
        machines = Machines(
            scratch / "machines", python, dict(outside or {}), sources, self.behaviour
        )
        self._router = Router(
            self._store,
            Pushing(self._store, self.behaviour, sources, machines),
            Kernels(self._store, self.behaviour),
            Datasets(self._store, self.behaviour),
            Competitions(self._store, self.behaviour, machines),
            Downloads(self._store, self.behaviour),
        )
        self._faults = Faults()
        self._stopping = threading.Event()
        self._log: list[Logged] = []
        self._http: HttpServer | None = None

    def start(self) -> "KaggleServer":
        self._http = HttpServer(self._answer)
        self.url = self._store.url = self._http.url
        return self

    def stop(self) -> None:
        """Stop; nothing is left of it, nor of its sessions.

        Raises:
            RuntimeError: the fake itself has a bug that a request ran into.
        """
        self._stopping.set()
        self.heal()
        broken = []
        for session in self._store.sessions():
            session.join()
            broken += session.broken
        if self._http:
            self._http.stop()
            broken += self._http.broken
        if broken:
            raise RuntimeError("the fake broke:\n" + "\n".join(broken))

    def __enter__(self) -> "KaggleServer":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # Who uses it

    def add_user(self, name: str, *, gpu_hours: float = 30.0, tpu_hours: float = 20.0) -> None:
        """Open an account, with a key and a token of their real shapes; its hours are a week's."""
        token = "KGAT_" + hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()
        self._store.users[name] = User(name, secrets_of.HEX, token, gpu_hours, tpu_hours)

    def use_gpu(self, user: str, hours: float) -> None:
        """Let so many of this week's hours be used."""
        self._store.users[user].gpu_used = hours

    def api(self, user: str, *, token: bool = False) -> "KaggleApi":
        """Return the real client in this process, signed in by key or by token."""
        return client.authenticated(self.url, self.environment(user, token=token))

    def environment(self, user: str, *, token: bool = False) -> dict[str, str]:
        """Return the whole environment of a process in which the command `kaggle` goes here."""
        home = self._scratch / "home" / user
        return client.environment(self.url, self._store.users[user], home, token=token)

    # What is in it

    def kernel(self, ref: str) -> Kernel:
        """Return a notebook, with all its versions.

        Raises:
            KeyError: there is none.
        """
        return self._store.kernels[ref]

    @property
    def kernels(self) -> list[str]:
        """The notebooks there are, as owner/slug."""
        return sorted(self._store.kernels)

    def session(self, ref: str, version: int | None = None) -> Session:
        """Return the session of a notebook's version, by default its latest."""
        versions = self.kernel(ref).versions
        session = versions[version - 1 if version else -1].session
        assert session is not None, f"version {version} of {ref} was saved and not run"
        return session

    def add_dataset(self, ref: str, files: Mapping[str, bytes], *, private: bool = True) -> None:
        """Make a dataset as its owner would, past all faults and counters."""
        owner, slug = ref.split("/")
        made = Dataset(self._store.next_id(), owner, slug, slug, private, [dict(files)])
        self._store.datasets[ref] = made

    def dataset(self, ref: str) -> Dataset:
        """Return a dataset.

        Raises:
            KeyError: there is none.
        """
        return self._store.datasets[ref]

    def add_competition(
        self,
        slug: str,
        title: str,
        files: Mapping[str, bytes],
        score: Callable[[bytes], float],
        daily_limit: int = 10,
        not_accepted_by: Collection[str] = (),
    ) -> Competition:
        """Begin a competition; `score` raises ValueError for what it cannot score."""
        made = Competition(slug, title, files, score, daily_limit, not_accepted_by)
        self._store.competitions[slug] = made
        return made

    def add_model(self, ref: str, files: Mapping[str, bytes]) -> None:
        """Make a public model version, "owner/model/framework/instance/version"."""
        self._store.models[ref] = files

    # What was asked of it

    @property
    def requests(self) -> list[Logged]:
        """Every request answered since the last `reset_counts`, failed ones included."""
        return list(self._log)

    def count(self, op: str) -> int:
        """Return how many of them were of an operation ("SaveKernel", "live log", …)."""
        return sum(logged.op == op for logged in self._log)

    def reset_counts(self) -> None:
        self._log.clear()

    # Misbehaviour

    def hold_sessions(self) -> None:
        """From now on, sessions stay in the queue until their `start`."""
        self.behaviour.hold_sessions = True

    def refuse_push(self, message: str = "Maximum batch GPU session count of 2 reached.") -> None:
        """Refuse the next push, in an answer with which the client ends well."""
        self.behaviour.refusals.append(message)

    def fail(
        self,
        kind: int | str = 503,
        *,
        times: int | None = 1,
        op: str | None = None,
        where: Callable[[Request], bool] = lambda request: True,
        retry_after: float | None = None,
        message: str | None = None,
        then: Callable[[], object] = lambda: None,
    ) -> Fault:
        """Let requests fail.

        Args:
            kind: a status to answer instead; "reset" (the connection, before anything is done);
                "lost-response" (done, then reset); "truncate" (done, half of the answer sent);
                "hang" (until `release`); "late" (done, and answered after `release`).
            times: how many requests at most; None for all until `heal`.
            op: only this operation ("SaveKernel", …, "live log", "output file", "upload").
            where: only requests that this accepts.
            retry_after: seconds to put into the answer's Retry-After.
            message: what to say along with the status.
            then: called each time it has struck, before the client hears of it.
        """
        if isinstance(kind, str) and kind not in _FAULTS:
            raise ValueError(f"{kind!r} is not one of {_FAULTS}")

        def chosen(request: Request) -> bool:
            return op in (None, request.op) and where(request)

        return self._faults.add(Fault(kind, times, chosen, retry_after, message, then, 1.0, 0))

    def heal(self) -> None:
        """End all faults."""
        self._faults.clear()

    # How it works

    def _answer(self, request: Request) -> tuple[Response, Delivery]:
        message = ""
        fault = None
        delivery: Delivery = "whole"
        try:
            answer = self._router.route(request)
            fault = self._faults.strike(request)
            response, delivery = self._struck(fault, answer, request)
        except ApiError as error:
            message = error.message
            response = error_response(error, storage=request.op == "output file")
        status = 0 if delivery == "not" else response.status
        self._log.append(Logged(request.op, request.path, status, message))
        if fault:
            fault.then()
        return response, delivery

    def _struck(
        self, fault: Fault | None, answer: Answer, request: Request
    ) -> tuple[Response, Delivery]:
        """Answer as the fault, if there is one, has it."""
        if fault is None:
            return answer(request), "whole"
        if isinstance(fault.kind, int):
            error = ApiError(fault.kind, fault.message or "An internal error has occurred.")
            if fault.retry_after is not None:
                error.headers = [("Retry-After", f"{fault.retry_after:g}")]
            raise error
        if fault.kind == "reset":
            return Response(0), "not"
        if fault.kind == "hang":
            fault.hang(self._stopping)
        response = answer(request)
        if fault.kind == "late":
            fault.hang(self._stopping)
        return response, {"truncate": "half", "lost-response": "not"}.get(fault.kind, "whole")
