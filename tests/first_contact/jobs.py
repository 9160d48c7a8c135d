"""Each platform's fake, what is assumed of it, and each way in which it could differ."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kaggleops.backends.colab.supervisor import Job
from kaggleops.first_contact.assumption import Line, tried
from kaggleops.first_contact.job import ENDS, Observed
from kaggleops.first_contact.jobs import CHECKS
from tests.backends.places import InDocker, OnColab, OnKaggle, OnRunPod, Place
from tests.fakes.wire import HttpServer

from . import differences
from .differences import Change

Seen = Callable[[Observed], Observed]


def _noted(**what: Any) -> Seen:
    return lambda job: replace(job, noted={**job.noted, **what})


def _without(text: str) -> Seen:
    return lambda job: replace(job, lines=tuple(each for each in job.lines if text not in each))


def _tagged(**tags: str) -> Seen:
    return lambda job: replace(job, tags={**job.tags, **tags})


def _changed(**what: Any) -> Seen:
    return lambda job: replace(job, **what)


def _program(says: str) -> Seen:
    """Let the platform's own program say something else."""

    def change(job: Observed) -> Observed:
        endpoint = Job(Path(job.tags["colab_job"].partition(":")[2])).progress.endpoint
        program = Path(job.config.cli).with_name("another")
        program.write_text(f"#!/bin/sh\necho '{says.format(endpoint=endpoint)}'\n")
        program.chmod(0o755)
        return replace(job, config=replace(job.config, cli=str(program)))

    return change


_ANYWHERE: dict[str, Seen] = {
    "job-finishes": _changed(status="FAILED"),
    "states-known": lambda job: replace(job, said=(*job.said, "SUSPENDED")),
    "log-is-live": _changed(live=()),
    "log-is-whole": _without(ENDS),
    "python-new-enough": _noted(python="3.10.12"),
}


@dataclass(frozen=True)
class Case:
    """One platform: its fake, and how that can differ in what is seen of a job, or answered."""

    name: str
    place: type[Place]
    seen: Mapping[str, Seen]
    answers: Mapping[str, Change]
    fields: Mapping[str, Any] = field(default_factory=dict)
    asked: Mapping[str, Seen] = field(default_factory=dict)
    """Ways in which the platform's own program differs, which several checks ask."""

    @property
    def differing(self) -> list[str]:
        """The names of all ways."""
        return sorted([*self.seen, *self.answers, *self.asked])


CASES = {
    "kaggle": Case(
        "kaggle",
        OnKaggle,
        {
            **_ANYWHERE,
            "output-comes": _changed(files={}),
            "platform-told": _noted(variables=["KAGGLE_URL_BASE"]),
            "key-mounted": _noted(inputs=["datasets/a/b/c/kaggleops-key.json"]),
            "signed-in": _without("Sign-in"),
            "output-kept": _noted(folder="/kaggle/outputs"),
            "gpus-as-asked": _noted(accelerator="Tesla P100"),
            "secrets-module": _noted(modules={"kaggle_secrets": False, "papermill": True}),
            "storage-hook-passed": _noted(storage_import_seconds=12.6),
            "session-end-known": _noted(seconds_left=None),
        },
        differences.KAGGLE,
        {"session_hours": 0.25, "machine_shape": "NvidiaTeslaT4"},
    ),
    "runpod": Case(
        "runpod",
        OnRunPod,
        {
            **_ANYWHERE,
            "pod-told": _tagged(runpod_pod=""),
            "price-told": _tagged(price_per_hour="0"),
            "platform-told": _noted(variables=["RUNPOD_POD_ID"]),
            "signed-in": _without("Sign-in"),
            "gpus-as-asked": _noted(accelerator=""),
            "session-end-known": _noted(seconds_left=7200),
        },
        differences.RUNPOD,
        {"hours": 0.25, "volume": ""},
    ),
    "docker": Case(
        "docker",
        InDocker,
        {
            **_ANYWHERE,
            "output-comes": _changed(files={}),
            "signed-in": _without("Sign-in"),
            "platform-told": _tagged(backend="local"),
            "output-kept": _noted(folder="/root"),
            "gpus-as-asked": _noted(accelerator="Tesla T4"),
        },
        differences.DOCKER,
    ),
    "colab": Case(
        "colab",
        OnColab,
        {
            **{name: each for name, each in _ANYWHERE.items() if name != "states-known"},
            "platform-told": _noted(variables=[]),
            "signed-in": _without("Sign-in"),
            "output-kept": _noted(folder="/root"),
            "gpus-as-asked": _noted(accelerator="Tesla T4"),
            "session-end-known": _noted(seconds_left=None),
        },
        {},
        {"session_hours": 0.25},
        {
            "runtime-released": _program("[?] {endpoint} | Hardware: CPU"),
            "sessions-listed": _program("Nothing runs."),
            "usage-told": _program("Units: 3"),
            "absent-session": _program("Traceback (most recent call last):"),
        },
    ),
}


@dataclass(frozen=True)
class Executed:
    """A job that a fake has executed, and the fake."""

    case: Case
    place: Place
    job: Observed

    @property
    def http(self) -> HttpServer:
        """The fake's server."""
        place: Any = self.place
        fakes = {
            "kaggle": lambda: place.world.kaggle,
            "runpod": lambda: place.server,
            "docker": lambda: place.engine,
        }
        http: HttpServer = fakes[self.place.name]()._http
        return http

    def answer(self, change: Change | None) -> None:
        """Let the fake's answers become something else on their way, where it is a server."""
        if self.place.name != "colab":
            self.http.change = change or (lambda request, response: response)

    def _there(self) -> Callable[[], object]:
        """Return what brings the job back to the platform, as the last check deletes it there."""
        place: Any = self.place
        if self.place.name == "kaggle":
            ref, kept = self.job.tags["kaggle_notebook"], place.world.kaggle._store.kernels
            kernel = kept[ref]
            return lambda: kept.__setitem__(ref, kernel)
        if self.place.name == "docker":
            containers = place.engine.containers
            before = list(containers)
            return lambda: containers.__setitem__(slice(None), before)
        return lambda: None

    def lines(self, on: Callable[[str], Observed]) -> list[Line]:
        """Check all, each on what `on` returns."""
        return list(tried(self.case.name, lambda name: CHECKS[self.case.name](on(name))))

    def tried(self, turned: Callable[[str], str]) -> list[Line]:
        """Check all, each on a platform that differs in the one that `turned` returns, or ""."""
        back = self._there()

        def on(name: str) -> Observed:
            back()
            one = turned(name)
            self.answer(self.case.answers.get(one))
            seen = self.case.seen.get(one) or self.case.asked.get(one) or (lambda job: job)
            return seen(self.job)

        try:
            return self.lines(on)
        finally:
            back()
            self.answer(None)
