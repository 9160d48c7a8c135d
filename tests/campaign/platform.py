"""A platform that takes jobs and does nothing with them, until a test says what becomes of each."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Metric, RunStatus, RunTag

from kaggleops.backends.base import Backend
from kaggleops.backends.config import Config
from kaggleops.backends.interface import JobState, Offer
from kaggleops.backends.ready_notebook import parameters_of
from kaggleops.bucket.location import bucket_uri
from kaggleops.errors import KaggleOpsError
from kaggleops.launch.legs import begun, legs_of, to_tag
from kaggleops.tags import LEGS
from kaggleops.tracking.session import Session
from kaggleops.tracking.store import BucketTrackingStore


@dataclass(frozen=True)
class SomewhereConfig(Config):
    """Nothing is to be set."""


class Somewhere(Backend[SomewhereConfig]):
    """A platform whose jobs are files: they outlive whoever submitted them.

    Attributes:
        sessions: how many it runs at once.
        problems: what it answers instead, one after the other.
    """

    name = "somewhere"
    config_type = SomewhereConfig

    def __init__(self, folder: Path, name: str = "somewhere", sessions: int = 2) -> None:
        self.name = name  # type: ignore[misc] # several of a kind
        self._folder = folder / name
        self._folder.mkdir(parents=True, exist_ok=True)
        self.sessions = sessions
        self.problems: list[Exception] = []
        self.asked = 0

    def _answers(self) -> None:
        self.asked += 1
        if self.problems:
            raise self.problems.pop(0)

    def check(self, tracking_uri: str, config: SomewhereConfig) -> None:
        """Whatever is asked of it will do."""

    def place(self, run_id: str, config: SomewhereConfig) -> dict[str, str]:
        return {f"{self.name}_job": run_id}

    def send(self, tags: Mapping[str, str], notebook: str, config: SomewhereConfig) -> None:
        self._answers()
        run_id = parameters_of(notebook)["run_id"]
        job = self.jobs.get(run_id)
        if job and job["status"] in ("SCHEDULED", "RUNNING"):
            return
        self._note(run_id, "SCHEDULED", 1 + (job["sent"] if job else 0))

    def _note(self, run_id: str, status: str, sent: int) -> None:
        part = self._folder / f".{run_id}"
        part.write_text(json.dumps({"status": status, "sent": sent}))
        part.rename(self._folder / run_id)

    @property
    def jobs(self) -> dict[str, dict[str, object]]:
        """What it has of each run: its status there, and how often it was really sent."""
        files = [each for each in self._folder.iterdir() if not each.name.startswith(".")]
        return {each.name: json.loads(each.read_text()) for each in files}

    def end(self, run_id: str, status: str) -> None:
        """End a job, whatever becomes of its run."""
        self._note(run_id, status, self.jobs[run_id]["sent"])  # type: ignore[arg-type]

    def state(self, tags: Mapping[str, str]) -> JobState | None:
        self._answers()
        job = self.jobs.get(tags[f"{self.name}_job"])
        if job is None:
            raise KaggleOpsError("looking for a job", "there is none of that name")
        return JobState(str(job["status"]), str(job["status"]).lower())

    def logs(self, tags: Mapping[str, str], follow: bool) -> Iterator[str]:
        yield "nothing"

    def offers(self, tracking_uri: str, config: SomewhereConfig, running: int) -> list[Offer]:
        return [Offer(self.name, max(0, self.sessions - running))]


def trains(
    uri: str,
    run_id: str,
    platform: Somewhere | None = None,
    status: str = "FINISHED",
    **metrics: float,
) -> None:
    """Run a job as its machine does: begin it, log, and end it; "" leaves it running."""
    machine = Session(bucket_uri(uri))
    store = BucketTrackingStore(machine)
    store.update_run_info(run_id, RunStatus.RUNNING, None, None)
    if legs := legs_of(store.get_run(run_id).data.tags):
        store.set_tag(run_id, RunTag(LEGS, to_tag(begun(legs, "somewhere", "", None))))
    now = int(time.time() * 1000)
    for name, value in metrics.items():
        store.log_metric(run_id, Metric(name, value, now, 0))
    if status:
        store.update_run_info(run_id, RunStatus.from_string(status), now, None)
        if platform:
            platform.end(run_id, status)
    machine.flush()
    machine.close()
