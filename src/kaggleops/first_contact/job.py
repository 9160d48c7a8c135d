"""A small real job on a platform, by the way that every run takes, and what was seen of it."""

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow

from kaggleops.backends.base import Backend
from kaggleops.backends.interface import JobState, is_ended
from kaggleops.backends.remote_run import RemoteRun
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
_PAUSES = (0.5, 10.0)  # seconds between two looks: the first, and the longest
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

    def within(self, _: str) -> "Observed":
        """Return itself: all checks look at the same job."""
        return self

    def note(self, name: str) -> Any:
        """Return something that the job noted; NotCheckedError if it could not."""
        if name not in self.noted:
            why = "; ".join(self.problems) or f"the run is {self.status}"
            raise NotCheckedError(f"the job left no note of its machine ({why})")
        return self.noted[name]


class _Following(threading.Thread):
    """The lines of a log as they come, read beside what else is done."""

    def __init__(self, lines: Iterator[str], first: threading.Event) -> None:
        super().__init__(daemon=True)
        self._source, self._first = lines, first
        self.lines: list[str] = []
        self.problem = ""

    def run(self) -> None:
        try:
            for line in self._source:
                self.lines.append(line)
                if BEGINS in line:
                    self._first.set()
        except Exception as error:  # noqa: BLE001 - whatever the platform's client raises
            self.problem = f"its log: {explained(error) or repr(error)}"


def observed(backend: Backend[Any], uri: str, config: Any) -> Observed:
    """Submit the job to a backend, its run in the bucket `uri`, and watch it to its end.

    Args:
        backend: which.
        uri: a trial's bucket.
        config: of the backend.

    Raises:
        KaggleOpsError: it was not taken.
    """
    with temporary_folder() as folder:
        project = shutil.copytree(_PROJECT, folder / "first-contact")
        commit = commit_folder(project, "First contact")
        run = backend.submit(commit, Launch(tracking_uri(uri)), config)
    begins, problems = threading.Event(), list[str]()
    following = _Following(run.logs(follow=True), begins)
    following.start()
    said, last, live = _watched(run, uri, following, begins, problems)
    following.join(timeout=60)
    problems += filter(None, [following.problem])
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    client = mlflow.MlflowClient(run.tracking_uri)
    files: dict[str, bytes] = {}
    noted: dict[str, Any] = {}
    with temporary_folder() as folder:
        output = folder / "output"
        output.mkdir()
        try:
            brought = run.download(output)
            files = {each.name: each.read_bytes() for each in brought.files}
            problems += brought.problems
        except KaggleOpsError as error:
            problems.append(str(error))
        try:
            came = client.download_artifacts(run.run_id, _NOTES, str(folder))
            noted = json.loads(Path(came).read_text())
        except Exception as error:  # noqa: BLE001 - whatever MLflow makes of an artifact's absence
            problems.append(f"its notes: {explained(error) or error}")
    try:
        lines = tuple(run.logs())
    except KaggleOpsError as error:
        lines = ()
        problems.append(str(error))
    ended = client.get_run(run.run_id)
    return Observed(
        backend,
        config,
        ended.info.status,
        ended.data.tags,
        said,
        last,
        live,
        lines,
        files,
        tuple(problems),
        noted,
    )


def _watched(
    run: RemoteRun,
    uri: str,
    following: _Following,
    begins: threading.Event,
    problems: list[str],
) -> tuple[tuple[str, ...], JobState | None, tuple[str, ...]]:
    """Return the words for its states, its last state, and the lines that came before that."""
    said: list[str] = []
    live: tuple[str, ...] = ()
    until, cancelled = time.monotonic() + 60 * _LONGEST, False
    pause, longest_pause = _PAUSES
    while True:
        seen, lines = begins.is_set(), tuple(following.lines)
        try:
            state = run.state()
            if state and state.said not in said[-1:]:
                said.append(state.said)
            if (state is None or state.ended) and is_ended(run.get_status()):
                return tuple(said), state, live
            if state and not state.ended:
                live = lines
                if seen:  # it goes on, and what it printed has come all the same
                    _mark_seen(uri)
        except KaggleOpsError as error:
            if str(error) not in problems:
                problems.append(str(error))
        if time.monotonic() > until:
            if cancelled:
                return tuple(said), None, live
            problems.append(f"it had not ended after {_LONGEST} minutes, and was cancelled")
            run.cancel()
            cancelled, until = True, time.monotonic() + _TO_END
        if begins.is_set():
            time.sleep(min(pause, 2.0))
        else:
            begins.wait(pause)
        pause = min(pause * 1.5, longest_pause)


def _mark_seen(uri: str) -> None:
    try:
        open_bucket(uri).write("seen", b"", expected=ABSENT)
    except ConflictError:
        return
