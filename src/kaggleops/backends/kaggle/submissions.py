"""What a run predicted, submitted to its competition; its score goes to the runs behind it.

Kaggle's own list of submissions is the truth. Each one that is sent says in its description which
run it is of and what it holds, so one whose answer was lost is found there, and so is what somebody
sent before, from whatever machine. A file is compared with the competition's sample_submission.csv
first. A run that predicts names the runs whose models it used, in its param `runs`: the score is
theirs, too.
"""

import csv
import hashlib
import itertools
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.launch.launcher import temporary_folder
from kaggleops.platforms.http import NoAnswerError, NotTakenError, NotThereError
from kaggleops.platforms.kaggle import sign_in
from kaggleops.resources.kaggle import KaggleOrigin
from kaggleops.resources.manifest import MANIFEST, OnKaggle, find_manifest
from kaggleops.tags import RUN_NAME, SHORT_COMMIT

FILE = "submission.csv"
"""The artifact, or the notebook's output file, that is submitted if none is named."""

_PAGE = 100  # submissions in one answer
_SHORTEST_PAUSE = 0.5  # seconds
_LONGEST_MESSAGE = 400  # characters; Kaggle's own limit is above that
_MARK = re.compile(r"\[kaggleops (?P<run>\S+) (?P<content>[0-9a-f]{16})\]")
_COMPETITION, _REF, _TIME = "submission_competition", "submission_ref", "submission_time"
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_SAMPLE = re.compile(r"(?:.*/)?sample_?submission[^/]*\.csv", re.IGNORECASE)


def pauses() -> Iterator[float]:
    """Yield the seconds between two looks at something that takes minutes."""
    seconds = _SHORTEST_PAUSE
    while True:
        yield seconds
        seconds = min(2 * seconds, 15.0)


@dataclass(frozen=True)
class Submission:
    """One submission, as Kaggle lists it."""

    ref: int  # Kaggle's number of it
    competition: str
    status: str  # `PENDING`, `COMPLETE`, `ERROR`, or a word of Kaggle's that is unknown here
    submitted: datetime | None  # None where that is not told
    content: str  # the mark of what it holds, "" where it was sent otherwise
    run: str  # the id of the run that it is of, likewise
    public_score: float | None = None  # None where there is none yet
    private_score: float | None = None  # None until the competition has ended
    error: str = ""  # why Kaggle could not score it

    @property
    def page(self) -> str:
        """Where people see it."""
        return f"https://www.kaggle.com/competitions/{self.competition}/submissions"


class Submissions:
    """What the user of this machine has submitted to a competition, and may submit today.

    The competition is, unless named, the only one that the manifest around the working directory
    has. Raises UsageError if there is none, or nobody is signed in to Kaggle.
    """

    def __init__(self, competition: str) -> None:
        self.competition = competition or _declared_competition()
        if not re.fullmatch(r"[\w-]+", self.competition):
            problem = f"{self.competition!r} is no name of one"
            raise UsageError("choosing the competition", problem, "It is like titanic.")
        self.client = sign_in()

    def __iter__(self) -> Iterator[Submission]:
        """Yield all, the newest first."""
        doing = f"listing the submissions to {self.competition}"
        for number in itertools.count(1):
            listing, of = self.client.competition_submissions, self.competition
            ask = partial(listing, of, page_number=number, page_size=_PAGE)
            page = self.client.quietly(doing, ask) or ()
            for each in filter(None, page):
                mark = _MARK.search(each.description or "")
                yield Submission(
                    int(each.ref or 0),
                    self.competition,
                    each.status.name,
                    each.date,
                    mark["content"] if mark else "",
                    mark["run"] if mark else "",
                    _score(each.public_score),
                    _score(each.private_score),
                    each.error_description or "",
                )
            if len(page) < _PAGE:
                return

    def holding(self, content: str, *, failed: bool = False) -> Submission | None:
        """Return the newest that holds this, if there is one; one that `failed` only if asked."""
        found = (each for each in self if each.content == content)
        return next((each for each in found if failed or each.status != "ERROR"), None)

    def left_today(self) -> str:
        """Return how many are left, in words; "" where Kaggle does not say."""
        limits = self._limits("reading the day's limit")
        if limits.limited_by_total:
            return f"{limits.num_allowed_now} submissions are left in all"
        most = limits.num_allowed_now + limits.num_today
        return f"{limits.num_allowed_now} of {most} submissions are left" if most else ""

    def refuse_over_limit(self, doing: str) -> None:
        """Raise KaggleOpsError if no more are taken today."""
        limits = self._limits(doing)
        # Who never submitted is in no team yet, and has all of them at zero.
        if limits.num_allowed_now or not (limits.num_today or limits.num_total):
            return
        if limits.limited_by_total:
            raise KaggleOpsError(doing, f"all {limits.num_total} submissions are used up")
        problem = f"today's limit of {limits.num_today} is reached"
        raise KaggleOpsError(doing, problem, "The next is free at 00:00 UTC.")

    def _limits(self, doing: str) -> Any:
        from kagglesdk.competitions.types import competition_api_service

        request = competition_api_service.ApiGetSubmissionLimitsRequest()
        request.competition_name = self.competition
        return self.client.ask(doing, "get_submission_limits", request, of="competition")


def _score(shown: str | None) -> float | None:
    with suppress(ValueError):
        return float(shown or "")
    return None


def _declared_competition() -> str:
    named = set()
    with suppress(UsageError):
        for each in find_manifest(Path.cwd()).resources.values():
            if isinstance(each.address, OnKaggle) and each.address.kind == "competitions":
                named.add(each.address.ref)
    if len(named) != 1:
        listed = f"{MANIFEST} has {', '.join(sorted(named)) or 'none'}"
        hint = "Add --competition NAME, as it stands in its address."
        raise UsageError("choosing the competition", f"no competition is named; {listed}", hint)
    return named.pop()


def runs_behind(client: mlflow.MlflowClient, run: Run) -> list[Run]:
    """Return the runs whose models a run used, as its param `runs` names them by id."""
    found = []
    for run_id in re.split(r"[,\s]+", run.data.params.get("runs", "")):
        if _RUN_ID.fullmatch(run_id):
            with suppress(MlflowException):  # of another bucket
                found.append(client.get_run(run_id))
    return found


class Submitter:
    """Submits for one run.

    The competition is, unless named, the one that the run was submitted to before, or that of
    `Submissions`. Raises UsageError if there is no such run, no competition, or nobody is signed
    in to Kaggle.
    """

    def __init__(self, tracking_uri: str, run_id: str, competition: str = "") -> None:
        self._mlflow = mlflow.MlflowClient(tracking_uri)
        self._doing = f"submitting run {run_id}"
        try:
            self.run = self._mlflow.get_run(run_id)
        except MlflowException as error:
            hint = "`kaggleops status` lists the last runs."
            raise UsageError(self._doing, error.message, hint) from error
        self.run_id = str(self.run.info.run_id)
        self.submissions = Submissions(competition or self.run.data.tags.get(_COMPETITION, ""))
        self.competition = self.submissions.competition

    def submit(self, file: Path | None, message: str) -> tuple[Submission, bool]:
        """Submit a file: the run's artifact submission.csv unless another is named.

        Returns the submission, and whether the file was compared with the competition's sample.
        Raises KaggleOpsError if there is no such file, it was submitted before, the competition
        would not take it, or there are no more today.
        """
        with temporary_folder() as folder:
            found = file or self._artifact(folder)
            if not found.is_file():
                raise UsageError(self._doing, f"there is no file {found}")
            rows = self.check(found)
            with found.open("rb") as opened:
                content = hashlib.file_digest(opened, "sha256").hexdigest()[:16]
            sent = self._send("competition_submit", str(found), message, content, found.name)
            return sent, rows is not None

    def submit_version(self, ref: str, version: int, content: str, message: str) -> Submission:
        """Submit what a version of a notebook (owner/slug) left; as `submit`.

        `content` is the mark of what the notebook is, `message` the description: by default the
        run's name and commit.
        """
        what = f"{FILE} of {ref}, version {version}"
        how = {"kernel": ref, "kernel_version": version}
        return self._send("competition_submit_code", FILE, message, content, what, **how)

    def _artifact(self, folder: Path) -> Path:
        if FILE not in {each.path for each in self._mlflow.list_artifacts(self.run_id)}:
            make = f"kaggleops run --entry-point predict runs={self.run_id}"
            hint = f"Make it: `{make}`; or name a --file."
            raise UsageError(self._doing, f"it has no artifact {FILE}", hint)
        return Path(self._mlflow.download_artifacts(self.run_id, FILE, str(folder)))

    def check(self, file: Path) -> int | None:
        """Return how many rows a file has, those of the sample; None if there is no sample.

        Raises UsageError where it differs from the sample.
        """
        origin = KaggleOrigin(OnKaggle("competitions", self.competition), self.submissions.client)
        samples = [each for each in origin.list(()) if _SAMPLE.fullmatch(each.name)]
        if not samples:
            return None
        with temporary_folder() as folder:
            sample = folder / "sample_submission.csv"
            origin.read(samples[0], sample, lambda size: None)
            return check_against(sample, file)

    def submitted(self) -> Submission:
        """Return what was submitted last for the run, as it is now; record its scores.

        Raises UsageError if nothing was.
        """
        if ref := self.run.data.tags.get(_REF):
            for each in self.submissions:
                if str(each.ref) == ref:
                    return self.record(each)
        raise UsageError(self._doing, "nothing was submitted for it yet")

    def wait(
        self,
        submission: Submission,
        pause: Callable[[float], object] = time.sleep,
        how: str = "",
    ) -> Submission:
        """Return a submission once it is scored and recorded; KaggleOpsError if it cannot be.

        `how` stands behind what was being done, in the error.
        """
        between = pauses()
        while submission.status not in ("COMPLETE", "ERROR"):
            pause(next(between))
            mine = (each for each in self.submissions if each.ref == submission.ref)
            submission = next(mine, submission)  # Kaggle may not list it yet
        if submission.status == "ERROR":
            problem = submission.error or "Kaggle does not say why"
            doing = f"scoring submission {submission.ref}{how}"
            raise KaggleOpsError(doing, problem, submission.page)
        return self.record(submission)

    def _send(
        self, method: str, file: str, message: str, content: str, what: str, **how: Any
    ) -> Submission:
        doing = f"submitting {what} to {self.competition}"
        if before := self.submissions.holding(content):
            score = f", {before.public_score:g}" if before.public_score is not None else ""
            when = f" on {before.submitted:%d %B %H:%M} UTC" if before.submitted else ""
            problem = f"the same was submitted{when}{score} (submission {before.ref})"
            hint = "`kaggleops submit RUN --scores` records its score on a run."
            raise UsageError(doing, problem, hint)
        self.submissions.refuse_over_limit(doing)
        tags = self.run.data.tags
        message = message or " ".join(filter(None, [tags.get(RUN_NAME), tags.get(SHORT_COMMIT)]))
        said = f"{message[:_LONGEST_MESSAGE]} [kaggleops {self.run_id} {content}]".strip()
        problem, sent = "", None
        lost: KaggleOpsError | None = None
        try:
            # Not to be repeated: each that arrives is one of the day's.
            client = sign_in(again=False)
            send = partial(getattr(client, method), file, said, self.competition, **how)
            answer = client.quietly(doing, partial(send, quiet=True))
            if answer.ref:
                ref, now = int(answer.ref), datetime.now(UTC)
                sent = Submission(ref, self.competition, "PENDING", now, content, self.run_id)
            problem = answer.message or "Kaggle did not say why it refuses it"
        except NoAnswerError as error:
            lost = error
        except (NotTakenError, NotThereError) as error:
            page = f"https://www.kaggle.com/competitions/{self.competition}/rules"
            raise KaggleOpsError(doing, error.problem, f"Are its rules accepted? {page}") from error
        if found := sent or self.submissions.holding(content):
            return self.record(found)
        raise lost or KaggleOpsError(doing, problem)

    def record(self, submission: Submission) -> Submission:
        """Write what is known of a submission on the run, and on those whose models it used."""
        tags = {_COMPETITION: submission.competition, _REF: str(submission.ref)}
        if when := submission.submitted:
            moment = when.replace(tzinfo=when.tzinfo or UTC)
            tags[_TIME] = moment.isoformat(timespec="seconds")
        for run in (self.run, *runs_behind(self._mlflow, self.run)):
            for key, value in tags.items():
                self._mlflow.set_tag(run.info.run_id, key, value)
            for name in ("public_score", "private_score"):
                score = getattr(submission, name)
                if score is not None and run.data.metrics.get(name) != score:
                    self._mlflow.log_metric(run.info.run_id, name, score)
        return submission


def check_against(sample: Path, submission: Path) -> int:
    """Make sure that a file has the sample's columns, and each of its rows once; return how many.

    Rows are told by their first column, in any order, as Kaggle tells them. Raises UsageError with
    the first line that is wrong.
    """
    doing = f"checking {submission.name} against sample_submission.csv"
    wanted, rows = _rows(sample, f"reading {sample.name}"), _rows(submission, doing)
    (_, expected), (_, header) = next(wanted, (1, [])), next(rows, (1, []))
    if header != expected:
        problem = f"its columns are {', '.join(header)} instead of {', '.join(expected)}"
        raise UsageError(doing, problem, "Write the sample's columns, in its order.")
    ids = {row[0] for _, row in wanted}
    seen: dict[str, int] = {}
    for line, row in rows:
        if len(row) != len(header):
            raise UsageError(doing, f"line {line} has {len(row)} fields instead of {len(header)}")
        if row[0] not in ids:
            problem = f"line {line} has the {header[0]} {row[0]!r}, which the sample has not"
            raise UsageError(doing, problem, "Predict the competition's own test file.")
        if row[0] in seen:
            problem = f"lines {seen[row[0]]} and {line} both have the {header[0]} {row[0]!r}"
            raise UsageError(doing, problem, "Each row is wanted once.")
        seen[row[0]] = line
    if lacking := ids - seen.keys():
        problem = f"{len(lacking):,} of {len(ids):,} rows are missing, {min(lacking)!r} say"
        raise UsageError(doing, problem, "Predict the whole test file.")
    return len(ids)


def _rows(path: Path, doing: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each row ends, and its fields; empty lines are none."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.reader(opened, strict=True)
            for row in reader:
                if row:
                    yield reader.line_num, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(doing, f"it is not CSV in UTF-8 ({error})") from error
