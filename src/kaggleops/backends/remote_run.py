"""A run that a platform executes, wherever the one who looks is: all is told by its tags.

The bucket is the truth. The platform is asked only for what the bucket cannot know: whether the job
still waits for a machine, whether it ended without a word, what it printed, which files it left.
"""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run, RunTag
from mlflow.projects.submitted_run import SubmittedRun

from kaggleops.backends.downloads import Downloaded
from kaggleops.backends.interface import Host, JobState, is_ended
from kaggleops.bucket.location import bucket_uri
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.launch.failure import cause
from kaggleops.tags import FAILURE, JOB_ENDED, TO_BE_CONTINUED
from kaggleops.tracking.store import cancel

_LAST_LINES = 1000  # of a log, in which an error is looked for
_PAUSE = 10.0  # seconds between two looks at a run that is waited for

PLACES = {"runpod_log_in"}
"""The tags that say where in the run's bucket its job left something: anybody may have written
them."""


class RemoteRun(SubmittedRun):
    """MLflow's handle of a submitted run, with its log and its files.

    Whatever asks the platform or the bucket raises KaggleOpsError where that does not answer.
    """

    def __init__(self, backend: Host[Any], tracking_uri: str, run_id: str) -> None:
        super().__init__()
        self.backend = backend
        self.tracking_uri = tracking_uri
        self._run_id = run_id
        self._client = mlflow.MlflowClient(tracking_uri)

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._run_id

    @property
    def tags(self) -> Mapping[str, str]:
        """The run's tags."""
        tags: Mapping[str, str] = self.run.data.tags
        return tags

    def _tags_within(self) -> Mapping[str, str]:
        """Return the tags, if what they say lies in the run's bucket does."""
        tags, own = self.tags, bucket_uri(self.tracking_uri)
        for name in filter(tags.get, PLACES):
            if not f"{bucket_uri(tags[name])}/".startswith(f"{own}/"):
                doing = f"looking for what the job of run {self.run_id} left"
                raise KaggleOpsError(doing, f"its tag {name}, {tags[name]!r}, is outside of {own}")
        return tags

    @property
    def page(self) -> str:
        """Where the platform shows the job, or ""."""
        with self._told_by_tags():
            return self.backend.page(self.tags)

    @property
    def run(self) -> Run:
        """The run, as the bucket has it now."""
        return self._client.get_run(self.run_id)

    def state(self) -> JobState | None:
        """Return how far its job is, None where there is nobody to ask.

        Raises KaggleOpsError if the platform does not answer, or a tag that names the job is gone.
        """
        run = self.run
        with self._told_by_tags():
            state = self.backend.state(run.data.tags)
        if state and state.unless_begun and run.info.status == "SCHEDULED":
            return replace(state, reason=state.unless_begun)
        return state

    def get_status(self) -> str:
        """Return the run's status, and settle it if its job ended without a word.

        Raises what `state` does.
        """
        status: str = self.run.info.status
        return status if is_ended(status) else self.settle(self.state())

    def settle(self, state: JobState | None) -> str:
        """Return the run's status; if its job has ended and it has not, it ends as that did.

        What a job writes is in the bucket before it ends, or where its backend brings it from. So a
        run that is still open afterwards stays open for ever unless somebody says so.
        """
        run = self.run
        if state is None or not state.ended or _has_said(run):
            return str(run.info.status)
        self.backend.bring_home(self.tracking_uri)
        run = self.run
        if _has_said(run):
            return str(run.info.status)
        ended = "KILLED" if state.status == "KILLED" else "FAILED"
        tags = {JOB_ENDED: str(state)}
        if ended == "FAILED" and (why := self._cause_in_its_log()):
            tags[FAILURE] = why
        self._client.log_batch(self.run_id, tags=[RunTag(*tag) for tag in tags.items()])
        self._client.set_terminated(self.run_id, ended)
        return ended

    def _cause_in_its_log(self) -> str:
        """Return why its job failed, as far as the platform has a log of it that says so."""
        with suppress(KaggleOpsError):
            return cause(deque(self.logs(), _LAST_LINES))
        return ""

    @property
    def failure(self) -> str:
        """Why it failed; "" if it did not, or nobody knows."""
        return failure_of(self.run)

    def wait(self) -> bool:
        """Wait until the run has ended, and tell whether it succeeded. Raises what `state` does."""
        while not is_ended(status := self.get_status()):
            time.sleep(_PAUSE)
        return status == "FINISHED"

    def cancel(self) -> None:
        """Set the run to KILLED in the bucket, unless it has ended: it stops at its next look.

        Raises UsageError if there is no such run, or it has ended.
        """
        cancel(self.tracking_uri, self.run_id)

    def logs(self, follow: bool = False) -> Iterator[str]:
        """Yield the lines that its job printed; with `follow`, until it has ended.

        Raises what `state` does.
        """
        with self._told_by_tags():
            yield from self.backend.logs(self._tags_within(), follow)

    def download(self, directory: Path) -> Downloaded:
        """Bring the files that the job left on its platform. Raises what `state` does."""
        with self._told_by_tags():
            return self.backend.download(self._tags_within(), directory)

    def clean_up(self) -> bool:
        """Delete its job from the platform, and tell whether there was any; the run stays.

        Raises UsageError if the run has not ended, else what `state` does.
        """
        if not is_ended(self.get_status()):
            hint = f"First `kaggleops cancel {self.run_id}`."
            raise UsageError(f"cleaning up after run {self.run_id}", "it has not ended", hint)
        with self._told_by_tags():
            return self.backend.remove(self.tags)

    @contextmanager
    def _told_by_tags(self) -> Iterator[None]:
        try:
            yield
        except KeyError as error:  # anybody may have deleted one
            doing = f"looking for the job of run {self.run_id}"
            raise KaggleOpsError(doing, f"it has no tag {error} any more") from error


def failure_of(run: Run) -> str:
    """Return why a run failed; "" if it did not, or nobody knows."""
    tags = run.data.tags if run.info.status == "FAILED" else {}
    return "; ".join(filter(None, (tags.get(FAILURE), tags.get(JOB_ENDED))))


def _has_said(run: Run) -> bool:
    """Tell whether a run says itself how its job ended."""
    status = run.info.status
    leg_ended = status == "SCHEDULED" and TO_BE_CONTINUED in run.data.tags
    return leg_ended or is_ended(status)
