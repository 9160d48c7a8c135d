"""A run that a platform executes, wherever the one who looks is: all is told by its tags.

The bucket is the truth. The platform is asked only for what the bucket cannot know: whether the job
still waits for a machine, whether it ended without a word, what it printed, which files it left.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run
from mlflow.projects.submitted_run import SubmittedRun

from kaggleops.backends.downloads import Downloaded, inside
from kaggleops.backends.interface import Host, JobState, is_ended
from kaggleops.bucket.location import bucket_uri
from kaggleops.errors import KaggleOpsError, UsageError, explained
from kaggleops.tags import JOB_ENDED
from kaggleops.tracking.store import cancel

_PAUSE = 10.0  # seconds between two looks at a run that is waited for

PLACES = {"runpod_log_in"}
"""The tags that say where in the run's bucket its job left something: anybody may have written
them."""


class RemoteRun(SubmittedRun):
    """MLflow's handle of a submitted run, with its log and its files.

    Whatever asks the platform or the bucket raises KaggleOpsError where that does not answer.

    Args:
        backend: which platform has it.
        tracking_uri: the bucket's.
        run_id: which run.
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
        tags: Mapping[str, str] = self._run().data.tags
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
        return self.backend.page(self.tags)

    def _run(self) -> Run:
        return self._client.get_run(self.run_id)

    def state(self) -> JobState | None:
        """Return how far its job is, None where there is nobody to ask."""
        run = self._run()
        with self._told_by_tags():
            state = self.backend.state(run.data.tags)
        if state and state.unless_begun and run.info.status == "SCHEDULED":
            return replace(state, reason=state.unless_begun)
        return state

    def get_status(self) -> str:
        """Return the run's status, and settle it if its job ended without a word."""
        status: str = self._run().info.status
        return status if is_ended(status) else self.settle(self.state())

    def settle(self, state: JobState | None) -> str:
        """Return the run's status; if its job has ended and it has not, it ends as that did.

        Args:
            state: how far its job is. What a job writes is in the bucket before it ends, so a run
                that is still open afterwards stays open for ever unless somebody says so.
        """
        status: str = self._run().info.status
        if is_ended(status) or state is None or not state.ended:
            return status
        ended = "KILLED" if state.status == "KILLED" else "FAILED"
        self._client.set_tag(self.run_id, JOB_ENDED, str(state))
        self._client.set_terminated(self.run_id, ended)
        return ended

    def wait(self) -> bool:
        """Wait until the run has ended, and tell whether it succeeded."""
        while not is_ended(status := self.get_status()):
            time.sleep(_PAUSE)
        return status == "FINISHED"

    def cancel(self) -> None:
        """Set the run to KILLED in the bucket, unless it has ended: it stops at its next look."""
        cancel(self.tracking_uri, self.run_id)

    def logs(self, follow: bool = False) -> Iterator[str]:
        """Yield the lines that its job printed; with `follow`, until it has ended."""
        with self._told_by_tags():
            yield from self.backend.logs(self._tags_within(), follow)

    def download(self, directory: Path) -> Downloaded:
        """Bring the artifacts into `artifacts/`, and the platform's files into `output/`."""
        directory.mkdir(parents=True, exist_ok=True)
        artifacts = self._artifacts(directory / "artifacts")
        with self._told_by_tags():
            output = self.backend.download(self._tags_within(), directory / "output")
        return Downloaded(
            [*artifacts.files, *output.files], [*artifacts.problems, *output.problems]
        )

    def clean_up(self) -> bool:
        """Delete its job from the platform, and tell whether there was any; the run stays.

        Raises:
            UsageError: it has not ended.
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

    def _artifacts(self, directory: Path) -> Downloaded:
        if not self._client.list_artifacts(self.run_id):
            return Downloaded()
        directory.mkdir(exist_ok=True)
        problems = []
        try:
            self._client.download_artifacts(self.run_id, "", str(directory))
        except Exception:  # noqa: BLE001 - whatever it was, which file it was is seen one by one
            problems = list(self._one_by_one("", directory))
        return Downloaded([path for path in directory.rglob("*") if path.is_file()], problems)

    def _one_by_one(self, path: str, directory: Path) -> Iterator[str]:
        """Download the artifacts below a path; yield what is wrong with each that does not come."""
        for each in self._client.list_artifacts(self.run_id, path or None):
            if each.is_dir:
                yield from self._one_by_one(each.path, directory)
                continue
            try:
                kept = inside(directory, each.path)
                kept.unlink(missing_ok=True)  # it may be half of it
                with tempfile.TemporaryDirectory(dir=directory, prefix=".kaggleops-") as folder:
                    came = self._client.download_artifacts(self.run_id, each.path, folder)
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    Path(came).replace(kept)
            except Exception as error:  # noqa: BLE001 - a full disk, a bucket that does not answer
                said = explained(error) or error
                lines = str(said).splitlines() or [type(error).__name__]
                yield str(KaggleOpsError(f"downloading {each.path!r}", lines[0]))
