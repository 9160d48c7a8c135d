"""The names of a run's tags: MLflow's own that are read here, and those of this project.

MLflow's UI hides `mlflow.*` from its columns and from grouping, so a run's commit is there once
more as a plain tag. A backend's own tags (a pod's id, a notebook's name) stand with the backend.
"""

from typing import Protocol

from kaggleops.printable import printable
from kaggleops.redaction import redacted

COMMIT = "mlflow.source.git.commit"
REPOSITORY = "mlflow.source.git.repoURL"
ENTRY_POINT = "mlflow.project.entryPoint"
PARENT = "mlflow.parentRunId"
RUN_NAME = "mlflow.runName"
SOURCE_RUN = "mlflow.sourceRun"  # The tag of a trace that names the run it belongs to
USER = "mlflow.user"
NOTE = "mlflow.note.content"  # The description at the top of a run's page, in Markdown

SHORT_COMMIT = "git_commit"  # The first ten digits of its commit's hash
BRANCH = "git_branch"
SUBJECT = "git_subject"  # The first line of its commit's message
TITLE = "commit"
"""Both: the hash and the subject, which MLflow's UI shows of a group that it makes by one tag."""
SETTINGS = "settings"  # What was set for it alone, as it was typed: `fold=0 model=minilm`
BEGAN = "began"  # When a machine began it, if it was made before: `2026-11-30T11:03:12+00:00`
FAILURE = "failure"  # Why its training failed: the last error line of its output, and its exit code
PREVIOUS = "previous_run"  # The id of the run before it on its branch, if possible of its settings
BACKEND = "backend"
"""Which kind of machine runs it: `kaggle`, `colab`, `runpod`, `kaggle-image`, `local`."""
ACCELERATOR = "accelerator"  # That machine's GPUs or TPU, or `none`
UNCOMMITTED = "uncommitted"
"""It ran with changes that its commit does not have; says which artifact holds them."""
LOST = "lost"  # Its heartbeats stopped: since when, and where
SUBMITTED_TO = "submitted_to"  # The name of the backend that it was handed to
JOB_ENDED = "job_ended"  # Its job ended before it did: how, in the platform's words
CANCELLED = "cancelled"  # When somebody ended it; not there where a machine was taken away
TO_BE_CONTINUED = "to_be_continued"
"""Its last leg ended with exit code 42, and the run waits, SCHEDULED, for the next one: since when,
and at which step."""
LEGS = "legs"  # The sessions of a run that took more than one, as JSON: see launch/legs.py
KEPT_UNTIL = "kept_until"  # Until when its machine is kept: seconds since the epoch, or ""
PRICE = "price_per_hour"  # What its machine costs, in US dollars an hour
COST = "cost_usd"  # What its machine cost in US dollars, as its job told in the end
SCORE = "kaggleops.score"  # What its commit declares as the score: "jaccard", or "rmse lower"
BLEND = "kaggleops.blend"  # Of a blend: its members' weights by their run ids, as JSON
SWEEP = "sweep"  # The tag of a parent with what its sweep tries, as JSON
TRIAL = "sweep_trial"  # The tag of a trial, and of its folds, with its number
FOLD = "sweep_fold"  # The tag of one fold of a trial with the axis's value
POINT = "sweep_point"  # The tag of a trial and of its folds with what was set for it, as JSON
FOLDS = "sweep_folds"  # The tag of a fold set with the values of its axis, as JSON
PAUSED = "sweep_paused"  # The tag of a parent with why its jobs are held back: a line, or ""
RESUMED = "sweep_resumed"  # The tag of a parent with when it was resumed: ms since the epoch
TOLD = "sweep_told"  # The tag of a parent with what the watcher has to say of it now: one line
NOTICED = "sweep_noticed"  # The tag of a parent with what people were told (campaign/notices.py)
DECISION = "sweep_placed"  # The tag of a job with why it went where it is: one line
SUMMARY = "sweep_summary"  # The tag of a parent with a digest of the results that it shows
BEST = "sweep_best"  # The tag of a parent with the run id of its best trial
SESSIONS = "sweep_sessions"  # The tag of a job with its sessions, as JSON (campaign/money.py)
PRUNED = "sweep_pruned"  # The tag of a job with why its trial was hopeless, if it was: one line

_LONGEST_SUBJECT = 200


class _Commit(Protocol):
    @property
    def sha(self) -> str: ...
    @property
    def branch(self) -> str: ...
    @property
    def subject(self) -> str: ...


class _Machine(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def accelerator(self) -> str: ...


def of_commit(commit: _Commit) -> dict[str, str]:
    """Return the plain tags that every run gets of its commit; a new one is a line here."""
    subject = redacted(printable(commit.subject))[:_LONGEST_SUBJECT]
    title = f"{commit.sha[:10]} {subject}".rstrip()
    named = {BRANCH: commit.branch, SUBJECT: subject, TITLE: title}
    return {SHORT_COMMIT: commit.sha[:10]} | {name: said for name, said in named.items() if said}


def of_machine(machine: _Machine) -> dict[str, str]:
    """Return the tags that every run gets of its machine; a new one is a line here."""
    return {BACKEND: machine.name, ACCELERATOR: machine.accelerator or "none"}
