"""The names of a run's tags: MLflow's own that are read here, and those of this project.

MLflow's UI hides `mlflow.*` from its columns and from grouping, so a run's commit is there once
more as a plain tag. A backend's own tags (a pod's id, a notebook's name) stand with the backend.
"""

from typing import Protocol

COMMIT = "mlflow.source.git.commit"
REPOSITORY = "mlflow.source.git.repoURL"
ENTRY_POINT = "mlflow.project.entryPoint"
PARENT = "mlflow.parentRunId"
RUN_NAME = "mlflow.runName"
SOURCE_RUN = "mlflow.sourceRun"
"""The tag of a trace that names the run it belongs to."""
USER = "mlflow.user"
NOTE = "mlflow.note.content"
"""The description at the top of a run's page, in Markdown."""

SHORT_COMMIT = "git_commit"
"""The first ten digits of its commit's hash."""
BRANCH = "git_branch"
BACKEND = "backend"
"""Which kind of machine runs it: `kaggle`, `colab`, `runpod`, `kaggle-image`, `local`."""
ACCELERATOR = "accelerator"
"""That machine's GPUs or TPU, or `none`."""
UNCOMMITTED = "uncommitted"
"""It ran with changes that its commit does not have; says which artifact holds them."""
LOST = "lost"
"""Its heartbeats stopped: since when, and where."""
SUBMITTED_TO = "submitted_to"
"""The name of the backend that it was handed to."""
JOB_ENDED = "job_ended"
"""Its job ended before it did: how, in the platform's words."""
KEPT_UNTIL = "kept_until"
"""Until when its machine is kept, however it ended: seconds since the epoch, or ""."""
PRICE = "price_per_hour"
"""What its machine costs, in US dollars an hour."""


class _Commit(Protocol):
    @property
    def sha(self) -> str: ...
    @property
    def branch(self) -> str: ...


class _Machine(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def accelerator(self) -> str: ...


def of_commit(commit: _Commit) -> dict[str, str]:
    """Return the plain tags that every run gets of its commit; a new one is a line here."""
    return {SHORT_COMMIT: commit.sha[:10]} | ({BRANCH: commit.branch} if commit.branch else {})


def of_machine(machine: _Machine) -> dict[str, str]:
    """Return the tags that every run gets of its machine; a new one is a line here."""
    return {BACKEND: machine.name, ACCELERATOR: machine.accelerator or "none"}
