"""Submit what a run predicted to its competition, and record the score on the runs behind it.

A run that predicts names the runs whose models it used, in its param `runs`: the score is theirs,
too, and so it stands beside their cross-validation on the leaderboard.
"""

import re
import time
from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from kaggleops.backends.kaggle.backend import NOTEBOOK
from kaggleops.backends.kaggle.submissions import Competition, Submission
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.launch.launcher import temporary_folder
from kaggleops.resources.addresses import OnKaggle
from kaggleops.resources.manifest import MANIFEST, find_manifest
from kaggleops.tags import RUN_NAME, SHORT_COMMIT

FILE = "submission.csv"
"""The artifact, or the notebook's output file, that is submitted if none is named."""

_COMPETITION = "submission_competition"
_REF = "submission_ref"
_TIME = "submission_time"

_RUN_ID = re.compile(r"[0-9a-f]{32}")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0  # seconds between two looks for a score


class Submitter:
    """Submits for one run.

    Args:
        tracking_uri: where the run is.
        run_id: which run.
        competition: to which competition; "" for the one that the run was submitted to before, or
            the only one that the manifest around the working directory has.

    Raises:
        UsageError: there is no such run, or nobody knows which competition.
    """

    def __init__(self, tracking_uri: str, run_id: str, competition: str = "") -> None:
        self._mlflow = mlflow.MlflowClient(tracking_uri)
        self._doing = f"submitting run {run_id}"
        try:
            self._run = self._mlflow.get_run(run_id)
        except MlflowException as error:
            hint = "`kaggleops status` lists the last runs."
            raise UsageError(self._doing, error.message, hint) from error
        self.run_id = str(self._run.info.run_id)
        self.competition = Competition(competition or self._known_competition())

    def submit(self, file: Path | None, message: str) -> tuple[Submission, bool]:
        """Submit a file: the run's artifact submission.csv unless another is named.

        Returns:
            The submission, and whether the file could be compared with the competition's sample.

        Raises:
            KaggleOpsError: there is no such file, it is not one that the competition would take, it
                was submitted before, or there are no more today.
        """
        with temporary_folder() as folder:
            found = file or self._artifact(folder)
            if not found.is_file():
                raise UsageError(self._doing, f"there is no file {found}")
            checked = self.competition.check(found, folder)
            made = self.competition.submit_file(found, self.run_id, message or self._message)
        self._record(made)
        return made, checked

    def submit_notebook(self, file: str, message: str) -> Submission:
        """Submit the notebook that the run ran as on Kaggle, to a code competition.

        Raises:
            KaggleOpsError: it was not run on Kaggle, was submitted before, or there are no more
                today.
        """
        ref = self._run.data.tags.get(NOTEBOOK)
        if ref is None:
            hint = "Run it there: `kaggleops run -b kaggle`."
            raise UsageError(self._doing, "it was not run on Kaggle, so it has no notebook", hint)
        made = self.competition.submit_notebook(
            ref, file or FILE, self.run_id, message or self._message
        )
        self._record(made)
        return made

    def submitted(self) -> Submission:
        """Return what was submitted last for the run, as it is now, and record its scores.

        Raises:
            UsageError: nothing was.
        """
        ref = self._run.data.tags.get(_REF)
        found = self.competition.find(int(ref)) if ref and ref.isdecimal() else None
        if found is None:
            raise UsageError(self._doing, "nothing was submitted for it yet")
        self._record(found)
        return found

    def wait(
        self, submission: Submission, pause: Callable[[float], object] = time.sleep
    ) -> Submission:
        """Return a submission once it is scored, its scores recorded.

        Args:
            submission: which.
            pause: waits for so many seconds.

        Raises:
            KaggleOpsError: Kaggle could not score it.
        """
        seconds = _FIRST_PAUSE
        while submission.status not in ("COMPLETE", "ERROR"):
            pause(seconds)
            seconds = min(2 * seconds, _LONGEST_PAUSE)
            submission = self.competition.find(submission.ref) or submission
        if submission.status == "ERROR":
            problem = submission.error or "Kaggle does not say why"
            raise KaggleOpsError(f"scoring submission {submission.ref}", problem, submission.page)
        self._record(submission)
        return submission

    # -- what the run knows -------------------------------------------------------------------

    @property
    def _message(self) -> str:
        tags = self._run.data.tags
        return " ".join(filter(None, [tags.get(RUN_NAME), tags.get(SHORT_COMMIT)]))

    def _known_competition(self) -> str:
        if known := self._run.data.tags.get(_COMPETITION):
            return str(known)
        try:
            declared = find_manifest(Path.cwd()).resources.values()
        except UsageError:
            declared = {}.values()
        addresses = [each.address for each in declared]
        named = {
            each.ref
            for each in addresses
            if isinstance(each, OnKaggle) and each.kind == "competitions"
        }
        if len(named) != 1:
            listed = f"{MANIFEST} has {', '.join(sorted(named)) or 'none'}"
            hint = "Add --competition NAME, as it stands in its address."
            raise UsageError(self._doing, f"nobody says to which competition; {listed}", hint)
        return named.pop()

    def _artifact(self, folder: Path) -> Path:
        names = {each.path for each in self._mlflow.list_artifacts(self.run_id)}
        if FILE not in names:
            problem = f"it has no artifact {FILE}"
            make = f"kaggleops run --entry-point predict runs={self.run_id}"
            hint = f"Make it: `{make}`; or name a --file."
            raise UsageError(self._doing, problem, hint)
        return Path(self._mlflow.download_artifacts(self.run_id, FILE, str(folder)))

    def _record(self, submission: Submission) -> None:
        """Write what is known of a submission on the run, and on those whose models it used."""
        tags = {_COMPETITION: submission.competition, _REF: str(submission.ref)}
        if when := submission.submitted:
            moment = when.replace(tzinfo=when.tzinfo or UTC)
            tags[_TIME] = moment.isoformat(timespec="seconds")
        scores = {
            "public_score": submission.public_score,
            "private_score": submission.private_score,
        }
        for run in (self._run, *self._models()):
            for key, value in tags.items():
                self._mlflow.set_tag(run.info.run_id, key, value)
            for name, score in scores.items():
                if score is not None and run.data.metrics.get(name) != score:
                    self._mlflow.log_metric(run.info.run_id, name, score)

    def _models(self) -> list[Any]:
        named = re.split(r"[,\s]+", self._run.data.params.get("runs", ""))
        found = []
        for run_id in named:
            if _RUN_ID.fullmatch(run_id):
                try:
                    found.append(self._mlflow.get_run(run_id))
                except MlflowException:
                    continue  # of another bucket
        return found
