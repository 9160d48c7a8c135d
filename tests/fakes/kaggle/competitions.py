"""What Kaggle's API can do with competitions, to which files or notebooks are submitted.

What Kaggle says of a notebook that fails with the hidden test set is in its users' words:
https://www.kaggle.com/code-competition-debugging.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from kagglesdk.competitions.types import competition_api_service as types

from tests.fakes.kaggle.behaviour import Behaviour
from tests.fakes.kaggle.machines import Machines
from tests.fakes.kaggle.paging import page_of
from tests.fakes.kaggle.session import Job, Session
from tests.fakes.kaggle.store import (
    Competition,
    Kernel,
    Store,
    Submission,
    User,
    Version,
    bad_request,
    timestamp,
)

Content = Mapping[str, Any]


class Competitions:
    """Answers requests about competitions.

    Args:
        store: what there is.
        behaviour: how it is to misbehave.
        machines: where notebooks are run again.
    """

    def __init__(self, store: Store, behaviour: Behaviour, machines: Machines) -> None:
        self._store = store
        self._machines = machines
        self._behaviour = behaviour

    def submit(self, user: User, request: types.ApiCreateSubmissionRequest) -> Content:
        with self._store.lock:
            competition = self._store.competition(request.competition_name)
            if competition.hidden is not None:
                said = "This competition only accepts Submissions from Notebooks."
                raise bad_request(f"Submission not allowed: {said}")
            if _left_today(competition, user) == 0:
                raise bad_request("You have reached the daily limit of submissions.")
            blob = self._store.take_blob(request.blob_file_tokens)
            made = self._scored(
                competition, user, blob.name, request.submission_description, blob.content or b""
            )
        return {"message": f"Successfully submitted to {competition.title}", "ref": made.ref}

    def submit_code(self, user: User, request: types.ApiCreateCodeSubmissionRequest) -> Content:
        with self._store.lock:
            competition = self._store.competition(request.competition_name)
            if _left_today(competition, user) == 0:
                raise bad_request("You have reached the daily limit of submissions.")
            kernel = self._store.kernel(user, request.kernel_owner, request.kernel_slug)
            versions = {version.number: version for version in kernel.versions}
            version = versions.get(request.kernel_version)
            outputs = version.session.outputs() if version and version.session else {}
            if request.file_name not in outputs:
                raise bad_request(f"The notebook's version has no output {request.file_name!r}")
            if version and version.internet:
                raise bad_request("Your Notebook cannot use internet access in this competition.")
            content = outputs[request.file_name].read_bytes()
            name, said = request.file_name, request.submission_description
            if competition.hidden is None:
                made = self._scored(competition, user, name, said, content)
            else:
                assert version
                made = Submission(self._store.next_id(), user.name, name, said or "", 0, None, "")
                made.rerun = self._rerun(user, competition, kernel, version)
                competition.submissions.append(made)
        return {"message": f"Successfully submitted to {competition.title}", "ref": made.ref}

    def _scored(
        self, competition: Competition, user: User, name: str, said: str, content: bytes
    ) -> Submission:
        score, error = _scored(competition, content)
        made = Submission(
            self._store.next_id(), user.name, name, said or "", len(content), score, error
        )
        if not error:
            made.private_score = competition.private(content)
        competition.submissions.append(made)
        return made

    def _rerun(
        self, user: User, competition: Competition, kernel: Kernel, version: Version
    ) -> Session:
        """Run a notebook's version with the hidden files; no accelerator's hours count."""
        seconds = competition.rerun_seconds

        def prepare() -> Job:
            return self._machines.make(user, kernel, version, seconds, hidden=True)

        number, held = self._store.next_id(), self._behaviour.hold_sessions
        return Session(number, user.name, prepare, "", held=held)

    def _settle(self, competition: Competition) -> None:
        """Score what has been run again."""
        with self._store.lock:
            for each in competition.submissions:
                if each.rerun is None or not each.rerun.ended:
                    continue
                file, session = each.rerun.outputs().get(each.file_name), each.rerun
                if session.state != "COMPLETE":
                    each.error = _WORDS[bool(session.failure)]
                elif file is None:
                    each.error = "Submission CSV Not Found"
                else:
                    content = file.read_bytes()
                    each.score, wrong = _scored(competition, content)
                    each.error = "Submission Scoring Error" if wrong else ""
                    each.size = len(content)
                    each.private_score = None if wrong else competition.private(content)
                each.rerun = None

    def submissions(self, user: User, request: types.ApiListSubmissionsRequest) -> Content:
        competition = self._store.competition(request.competition_name)
        self._settle(competition)
        mine = [each for each in reversed(competition.submissions) if each.user == user.name]
        some, token = page_of(mine, request.page_size, request.page_token, request.page)
        pending = self._behaviour.score_is_late()
        return {
            "submissions": [
                _described(each, pending=pending or bool(each.rerun), ended=competition.ended)
                for each in some
            ],
            "nextPageToken": token,
        }

    def limits(self, user: User, request: types.ApiGetSubmissionLimitsRequest) -> Content:
        competition = self._store.competition(request.competition_name)
        self._settle(competition)
        left = _left_today(competition, user)
        return {"numToday": competition.daily_limit - left, "numAllowedNow": left}

    def leaderboard(self, user: User, request: types.ApiGetLeaderboardRequest) -> Content:
        competition = self._store.competition(request.competition_name)
        scored = [each for each in competition.submissions if each.score is not None]
        scored.sort(key=lambda each: each.score or 0.0)
        best = {each.user: each for each in scored}
        ranked = sorted(best.values(), key=scored.index, reverse=True)
        some, token = page_of(ranked, request.page_size, request.page_token)
        teams = [
            {
                "teamName": each.user,
                "submissionDate": timestamp(each.date),
                "score": _shown(each.score),
            }
            for each in some
        ]
        return {"submissions": teams, "nextPageToken": token}


_WORDS = ("Notebook Threw Exception", "Notebook Timeout")
"""What is said of a notebook that failed by itself, and of one that took too long."""


def _scored(competition: Competition, content: bytes) -> tuple[float | None, str]:
    try:
        return competition.score(content), ""
    except ValueError as error:
        return None, str(error)


def _left_today(competition: Competition, user: User) -> int:
    today = datetime.now(UTC).date()
    made = [
        each
        for each in competition.submissions
        if each.user == user.name and each.date.date() == today and not each.error
    ]
    return competition.daily_limit - len(made)


def _described(submission: Submission, *, pending: bool, ended: bool) -> Content:
    status = "PENDING" if pending else "ERROR" if submission.error else "COMPLETE"
    return {
        "ref": submission.ref,
        "totalBytes": submission.size,
        "date": timestamp(submission.date),
        "description": submission.description,
        "errorDescription": "" if pending else submission.error,
        "fileName": submission.file_name,
        "publicScore": "" if pending else _shown(submission.score),
        "privateScore": _shown(submission.private_score) if ended and not pending else "",
        "status": status,
        "submittedBy": submission.user,
        "teamName": submission.user,
    }


def _shown(score: float | None) -> str:
    return "" if score is None else f"{score:.5f}"
