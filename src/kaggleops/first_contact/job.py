"""A small real job on a platform, by the way that every run takes, and what was seen of it."""

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow

from kaggleops.backends.base import Backend, RemoteRun
from kaggleops.backends.interface import JobState, is_ended
from kaggleops.bucket import ABSENT, ConflictError, open_bucket
from kaggleops.bucket.location import tracking_uri
from kaggleops.errors import KaggleOpsError, explained
from kaggleops.first_contact.assumption import NotCheckedError
from kaggleops.git.commits import commit_folder
from kaggleops.launch.launcher import Launch, temporary_folder

HOURS = 0.5
"""How long the job's machine may last."""

BEGINS, ENDS = "first contact: the job begins", "first contact: the job ends"
OUTPUT = "first-contact.txt"
"""The file that the job leaves on the platform."""

_NOTES = "contact.json"  # the artifact with what the job noted
_PROJECT = Path(__file__).parent / "project"
_PAUSE, _LONGEST_PAUSE = 0.5, 10.0  # seconds between two looks: the first, and later
_LONGEST = 60  # minutes after which it is cancelled
_TO_END = 300.0  # seconds that a cancelled job is given


@dataclass(frozen=True)
class Observed:
    """A job, and what was seen of it from its submit to its end."""

    backend: Backend[Any]
    config: Any
    status: str  # the run's, in the end
    tags: Mapping[str, str]  # likewise
    said: tuple[str, ...]  # the platform's own words for its state, in the order in which they came
    last: JobState | None  # how the platform described it in the end
    live: tuple[str, ...]  # the lines of its log that came while it went on
    lines: tuple[str, ...]  # all that its log had in the end
    files: Mapping[str, bytes]  # what it left on the platform, by name
    problems: tuple[str, ...] = ()  # what could not be seen, and why
    noted: Mapping[str, Any] = field(default_factory=dict)  # what it noted of its machine

    def note(self, name: str) -> Any:
        """Return something that the job noted; NotCheckedError if it could not."""
        if name not in self.noted:
            why = "; ".join(self.problems) or f"the run is {self.status}"
            raise NotCheckedError(f"the job left no note of its machine ({why})")
        return self.noted[name]


@contextmanager
def _noting(problems: list[str], what: str = "") -> Iterator[None]:
    """Note why something could not be seen, whatever a client makes of that."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        problems.append(f"{what}{explained(error) or repr(error)}")


class _Following(threading.Thread):
    """The lines of a log as they come, read beside what else is done."""

    def __init__(self, lines: Iterator[str], problems: list[str]) -> None:
        super().__init__(daemon=True)
        self._source, self._problems, self.begins = lines, problems, threading.Event()
        self.lines: list[str] = []

    def run(self) -> None:
        with _noting(self._problems, "its log: "):
            for line in self._source:
                self.lines.append(line)
                if BEGINS in line:
                    self.begins.set()


def observed(backend: Backend[Any], uri: str, config: Any) -> Observed:
    """Submit the job to a backend, its run in a trial's bucket `uri`, and watch it to its end.

    Raises KaggleOpsError if it is not taken.
    """
    with temporary_folder() as folder:
        project = shutil.copytree(_PROJECT, folder / "first-contact")
        commit = commit_folder(project, "First contact")
        run = backend.submit(commit, Launch(tracking_uri(uri)), config)
    problems: list[str] = []
    following = _Following(run.logs(follow=True), problems)
    following.start()
    said, last, live = _watched(run, uri, following, problems)
    following.join(timeout=60)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    client = mlflow.MlflowClient(run.tracking_uri)
    files: dict[str, bytes] = {}
    noted: dict[str, Any] = {}
    lines: tuple[str, ...] = ()
    with temporary_folder() as folder:
        with _noting(problems):
            brought = run.download(folder / "output")
            files = {each.name: each.read_bytes() for each in brought.files}
            problems += brought.problems
        with _noting(problems, "its notes: "):
            came = client.download_artifacts(run.run_id, _NOTES, str(folder))
            noted = json.loads(Path(came).read_text())
    with _noting(problems):
        lines = tuple(run.logs())
    ended = client.get_run(run.run_id)
    status, tags = ended.info.status, ended.data.tags
    return Observed(
        *(backend, config, status, tags, said, last, live, lines, files, tuple(problems), noted)
    )


def _watched(
    run: RemoteRun, uri: str, following: _Following, problems: list[str]
) -> tuple[tuple[str, ...], JobState | None, tuple[str, ...]]:
    """Return the words for its states, its last state, and the lines that came before that."""
    said: list[str] = []
    live: tuple[str, ...] = ()
    until, cancelled = time.monotonic() + 60 * _LONGEST, False
    pause = _PAUSE
    while True:
        seen, lines = following.begins.is_set(), tuple(following.lines)
        try:
            state = run.state()
            if state and state.said not in said[-1:]:
                said.append(state.said)
            if (state is None or state.ended) and is_ended(run.get_status()):
                return tuple(said), state, live
            if state and not state.ended:
                live = lines
                if seen:  # it goes on, and what it printed has come all the same
                    with suppress(ConflictError):
                        open_bucket(uri).write("seen", b"", expected=ABSENT)
        except KaggleOpsError as error:
            if str(error) not in problems:
                problems.append(str(error))
        if time.monotonic() > until:
            if cancelled:
                return tuple(said), None, live
            problems.append(f"it had not ended after {_LONGEST} minutes, and was cancelled")
            run.cancel()
            cancelled, until = True, time.monotonic() + _TO_END
        if following.begins.is_set():
            time.sleep(min(pause, 2.0))
        else:
            following.begins.wait(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)
