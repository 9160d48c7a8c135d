"""Colab, as a backend: a session that this machine holds, or an execution without anybody.

Which of the two it is, the configuration says when a run is submitted, and its tags from then on.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import ClassVar

from kaggleops.backends.base import Backend
from kaggleops.backends.colab import attended, enterprise
from kaggleops.backends.colab.config import ColabConfig
from kaggleops.backends.colab.job import JOB
from kaggleops.backends.downloads import Downloaded
from kaggleops.backends.jobs import JobState, Reaped, Units
from kaggleops.bucket.location import is_remote
from kaggleops.errors import UsageError


class ColabBackend(Backend[ColabConfig]):
    """Runs commits on Colab, as the user whom the Colab CLI knows."""

    name: ClassVar[str] = "colab"
    config_type = ColabConfig

    def check(self, tracking_uri: str, config: ColabConfig) -> None:
        """Make sure that the notebook will reach the bucket, and that Colab lets us in."""
        if not is_remote(tracking_uri):
            hint = "Take a bucket of Cloud Storage: --bucket gs://BUCKET."
            problem = f"its machines cannot reach {tracking_uri}"
            raise UsageError("submitting to Colab", problem, hint)
        if config.enterprise.project:
            enterprise.check(config)
        else:
            attended.check(config)

    def place(self, run_id: str, config: ColabConfig) -> dict[str, str]:
        """Return the tag by which the job is found."""
        if config.enterprise.project:
            return enterprise.place(run_id, config)
        return attended.place(run_id)

    def send(
        self, tags: Mapping[str, str], notebook: str, config: ColabConfig
    ) -> Mapping[str, str] | None:
        """Hand the notebook over, unless that was done."""
        if config.enterprise.project:
            return enterprise.send(tags, notebook, config)
        attended.send(tags, notebook, config)
        return None

    def state(self, tags: Mapping[str, str]) -> JobState | None:
        """Return how far the job is."""
        return _where(tags).state(tags)

    def logs(self, tags: Mapping[str, str], follow: bool) -> Iterator[str]:
        """Yield the lines that the job printed."""
        return _where(tags).logs(tags, follow)

    def download(self, tags: Mapping[str, str], directory: Path) -> Downloaded:
        """Bring the executed notebook; what else is no artifact goes with the runtime."""
        return _where(tags).download(tags, directory)

    def remove(self, tags: Mapping[str, str]) -> bool:
        """Delete what is kept of the job, its log above all."""
        return _where(tags).remove(tags)

    def announce(self, config: ColabConfig) -> str:
        """Return who pays for an execution; a session uses up units of the account."""
        if not config.enterprise.project:
            return ""
        return enterprise.announce(config)

    def units(self, config: ColabConfig) -> Units | None:
        """Return the account's compute units; with Colab Enterprise there are none."""
        return None if config.enterprise.project else attended.units(config)

    def reap(self, tracking_uri: str, *, delete: bool) -> list[Reaped] | None:
        """Release the runtimes of this machine's jobs whose supervisors died."""
        return attended.reap(tracking_uri, delete=delete)

    def page(self, tags: Mapping[str, str]) -> str:
        """Return where the job can be seen, or ""."""
        return _where(tags).page(tags)


def _where(tags: Mapping[str, str]) -> ModuleType:
    return enterprise if tags[JOB].startswith("projects/") else attended
