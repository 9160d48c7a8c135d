"""Kaggle, as a backend.

A run's notebook is called after the run, so whoever submits it again finds it there, and whoever
reads the run's tags finds the notebook. It is pushed by Kaggle's own client, which reports success
whatever Kaggle answers; here a refusal is an error, and an answer that was lost is looked for.
"""

import functools
import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaggleops.backends import job_log
from kaggleops.backends.base import Backend
from kaggleops.backends.config import Config, check_sessions
from kaggleops.backends.downloads import Downloaded
from kaggleops.backends.interface import (
    UNKNOWN,
    Finding,
    JobState,
    Offer,
    Quota,
    RefusedError,
    Verdict,
)
from kaggleops.backends.kaggle import outputs
from kaggleops.bucket.location import bucket_uri
from kaggleops.errors import UsageError
from kaggleops.launch.launcher import temporary_folder
from kaggleops.platforms.http import NoAnswerError, NotTakenError, NotThereError, session
from kaggleops.platforms.kaggle import DATASET, sign_in
from kaggleops.platforms.kaggle.http import explained

if TYPE_CHECKING:
    from kaggleops.platforms.kaggle.client import Client


_PART = r"[\w-]+"
_OWNED = f"{_PART}/{_PART}"
_FORMS = {
    "credentials": (_OWNED, "owner/name"),
    "dataset_sources": (_OWNED, "owner/name"),
    "kernel_sources": (_OWNED, "owner/name"),
    "competition_sources": (_PART, "titanic"),
    "model_sources": ("/".join([_PART] * 4) + r"/\d+", "owner/model/framework/variation/1"),
}
LONGEST_HOURS = 12
"""What a session may last at most (secondary sources, 2026); 9 with a TPU."""
_LONGEST_ON_TPU = 9

_MEMORY_GB = {"": 30.0, "nvidiateslat4": 16.0, "nvidiateslap100": 16.0, "tpuv5e8": 128.0}
"""Of the accelerator, of one where there are two; of the machine without (likewise)."""


@dataclass(frozen=True)
class KaggleConfig(Config):
    """The fields of config/backend/kaggle.yaml, where each is explained."""

    credentials: str = ""
    machine_shape: str = "NvidiaTeslaT4"
    internet: bool = True
    session_hours: float | None = None
    sessions: int = 2
    competition_sources: list[str] = field(default_factory=list)
    dataset_sources: list[str] = field(default_factory=list)
    kernel_sources: list[str] = field(default_factory=list)
    model_sources: list[str] = field(default_factory=list)
    docker_image: str = ""
    docker_image_pinning: str = ""

    @property
    def resource(self) -> str:
        """Which quota a session uses up: GPU, TPU, or "" for a machine without either."""
        if not self.machine_shape:
            return ""
        return "TPU" if self.machine_shape.lower().startswith("tpu") else "GPU"

    @property
    def longest_hours(self) -> float:
        """How long a session lasts at most."""
        longest = _LONGEST_ON_TPU if self.resource == "TPU" else LONGEST_HOURS
        return min(self.session_hours or longest, longest)

    def check(self, doing: str) -> None:
        check_sessions(doing, self.sessions)
        for name, (shape, form) in _FORMS.items():
            value = getattr(self, name)
            for each in [value] if isinstance(value, str) else value:
                if each and not re.fullmatch(shape, each):
                    raise UsageError(doing, f"{name}: {each!r} is not of the form {form}")
        if self.docker_image_pinning not in ("", "original", "latest"):
            problem = f"docker_image_pinning: {self.docker_image_pinning!r} is unknown"
            raise UsageError(doing, problem, "It is original or latest.")
        if self.session_hours is not None and not 0 < self.session_hours <= LONGEST_HOURS:
            problem = f"session_hours: {self.session_hours:g} is not between 0 and {LONGEST_HOURS}"
            raise UsageError(doing, problem)


_log = logging.getLogger("kaggleops")

NOTEBOOK = "kaggle_notebook"
"""The tag of a run that names its notebook: `owner/slug`."""

_STATUSES = {
    "NEW_SCRIPT": "SCHEDULED",
    "QUEUED": "SCHEDULED",
    "RUNNING": "RUNNING",
    "COMPLETE": "FINISHED",
    "ERROR": "FAILED",
    "CANCEL_REQUESTED": "RUNNING",
    "CANCEL_ACKNOWLEDGED": "KILLED",
}
_SILENCE = 3.0  # seconds without a line after which a live log has said all that it has
_LATE = 5  # times to ask for a kept log
_PAGE = 100  # files in one answer


class KaggleBackend(Backend[KaggleConfig]):
    """Runs commits on Kaggle, as the user whose credentials this machine has."""

    name = "kaggle"
    waiting = "waiting in Kaggle's queue"
    config_type = KaggleConfig

    @functools.cached_property
    def _client(self) -> "Client":
        return sign_in()

    # -- submitting ---------------------------------------------------------------------------

    def check(self, tracking_uri: str, config: KaggleConfig) -> None:
        doing = "submitting to Kaggle"
        self._require_credentials(doing, tracking_uri, config)
        for quota in self.quota():
            if quota.resource == config.resource and not quota.left_hours:
                hint = "Without an accelerator there is no quota: machine_shape: ''."
                raise RefusedError(doing, _used(quota), hint)

    def _require_credentials(self, doing: str, tracking_uri: str, config: KaggleConfig) -> None:
        self._require_cloud(doing, tracking_uri)
        if not config.internet:
            problem = f"internet: false, and its notebook has to reach {bucket_uri(tracking_uri)}"
            hint = 'Set internet: true, or run it by hand: docs/notebook.md, "Without internet".'
            raise UsageError(doing, problem, hint)
        looking = f"looking for {self._own_credentials} on Kaggle"
        if not config.credentials and not self._client.has_dataset(looking, DATASET):
            # Secrets cannot be attached through the API: kaggle-api, issue 582.
            problem = f"there is no dataset {self._own_credentials} with the bucket's key"
            raise UsageError(doing, problem, "Make it: `kaggleops credentials create kaggle`.")

    @property
    def _own_credentials(self) -> str:
        return f"{self._client.user}/{DATASET}"

    def place(self, run_id: str, config: KaggleConfig) -> dict[str, str]:
        return {NOTEBOOK: f"{self._client.user}/kaggleops-{run_id}"}

    def send(self, tags: Mapping[str, str], notebook: str, config: KaggleConfig) -> None:
        """Push the notebook, unless a session of it is under way."""
        ref = tags[NOTEBOOK]
        before = self._version(ref)
        if before and not self._state(ref).ended:
            return
        key = config.credentials or self._own_credentials
        with_key = replace(config, dataset_sources=[key, *config.dataset_sources])
        self.push(ref, notebook, with_key, before)

    def push(self, ref: str, notebook: str, config: KaggleConfig, before: int) -> int:
        """Push a notebook with what the configuration attaches, and return its new version.

        `before` is the version that is there. Raises RefusedError if Kaggle does not take it.
        """
        try:
            answer = _push(ref, notebook, config)
        except NoAnswerError:
            if (arrived := self._version(ref)) > before:
                return arrived
            raise
        except (NotTakenError, NotThereError) as error:
            raise RefusedError(error.doing, error.problem, error.hint) from error
        self._refuse_invalid(ref, answer, before)
        given = self._metadata(ref).machine_shape
        if config.machine_shape and given and given != config.machine_shape:
            _log.warning("Kaggle has no %s for you: it gives %s.", config.machine_shape, given)
        return int(answer.version_number or self._version(ref))

    def _refuse_invalid(self, ref: str, answer: Any, before: int) -> None:
        doing = f"pushing {ref} to Kaggle"
        if answer.error:
            hint = "`kaggleops quota` shows what is left, `kaggleops status` what is running."
            raise RefusedError(doing, answer.error, hint)
        invalid = {
            "competition": answer.invalid_competition_sources,
            "dataset": answer.invalid_dataset_sources,
            "kernel": answer.invalid_kernel_sources,
            "model": answer.invalid_model_sources,
        }
        named = ", ".join(f"{kind} {each}" for kind, some in invalid.items() for each in some or ())
        if named:
            # It was pushed all the same, and would train without its data.
            self.remove({NOTEBOOK: ref})
            hint = "Correct them in config/backend/kaggle.yaml. (A competition has to be joined.)"
            raise RefusedError(doing, f"you cannot use these sources: {named}", hint)
        if not answer.version_number and self._version(ref) <= before:
            raise RefusedError(doing, "Kaggle made no version of it, and did not say why")

    def remove(self, tags: Mapping[str, str]) -> bool:
        """Delete the notebook, its log and its files; a session of it ends."""
        from kagglesdk.kernels.types.kernels_api_service import ApiDeleteKernelRequest

        request = about(ApiDeleteKernelRequest, tags[NOTEBOOK])
        try:
            self._client.ask(f"deleting {tags[NOTEBOOK]}", "delete_kernel", request)
        except NotThereError:
            return False
        return True

    def _version(self, ref: str) -> int:
        return self.latest(ref)[0]

    def latest(self, ref: str) -> tuple[int, str]:
        """Return the number and the source of a notebook's latest version; 0 if there is none."""
        try:
            found = self._look(ref)
        except NotThereError:
            return 0, ""
        source = found.blob.source if found.blob else ""
        return int(found.metadata.current_version_number or 1), source or ""

    def _metadata(self, ref: str) -> Any:
        return self._look(ref).metadata

    def _look(self, ref: str) -> Any:
        from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelRequest

        request = about(ApiGetKernelRequest, ref)
        doing = f"looking for {ref} on Kaggle"
        found = self._client.ask(doing, "get_kernel", request)
        if found.metadata is None:
            raise NoAnswerError(doing, "Kaggle's answer does not say anything of it", "Try again.")
        return found

    # -- watching -----------------------------------------------------------------------------

    def state(self, tags: Mapping[str, str]) -> JobState:
        return self._state(tags[NOTEBOOK])

    def _state(self, ref: str) -> JobState:
        from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelSessionStatusRequest

        request = about(ApiGetKernelSessionStatusRequest, ref)
        doing = f"asking Kaggle about {ref}"
        answer = self._client.ask(doing, "get_kernel_session_status", request)
        said = answer.status.name
        return JobState(_STATUSES.get(said, UNKNOWN), said, answer.failure_message or "")

    def page(self, tags: Mapping[str, str]) -> str:
        return f"https://www.kaggle.com/code/{tags[NOTEBOOK]}"

    def logs(self, tags: Mapping[str, str], follow: bool) -> Iterator[str]:
        ref, log, over = tags[NOTEBOOK], outputs.Log(), False
        client = self._client if follow else sign_in(silence=_SILENCE)

        def ended() -> bool:
            nonlocal over
            over = self._state(ref).ended
            return over

        def live() -> Iterator[str]:
            if not over:
                with explained(f"reading the log of {ref}"):
                    yield from log.new(client.kernels_logs_stream(ref))

        if follow:
            yield from job_log.follow(live, ended)
        elif not ended():
            yield from job_log.until_silent(live)
            return
        for number in range(_LATE if follow else 1):  # the kept one may come a little after the end
            time.sleep(min(1.0, number))
            if kept := outputs.parsed(next(self._outputs(ref)).log or ""):
                yield from log.new(kept)
                return

    def quota(self) -> list[Quota]:
        doing, method = "reading Kaggle's quota", "get_accelerator_quota_statistics"
        answer = self._client.ask(doing, method, None)
        both = {"GPU": answer.gpu_quota, "TPU": answer.tpu_quota}
        return [
            Quota(
                backend=self.name,
                resource=resource,
                used_hours=counted.time_used.total_seconds() / 3600 if counted.time_used else 0.0,
                total_hours=counted.total_time_allowed.total_seconds() / 3600,
                refreshes=answer.quota_refresh_time,
            )
            for resource, counted in both.items()
            if counted is not None and counted.total_time_allowed
        ]

    def offers(self, tracking_uri: str, config: KaggleConfig, running: int) -> list[Offer]:
        self._require_credentials("looking for a session on Kaggle", tracking_uri, config)
        offer = Offer(
            self.name,
            max(0, config.sessions - running),
            session_hours=config.longest_hours,
            accelerator=config.machine_shape,
            memory_gb=_MEMORY_GB.get(config.machine_shape.lower()),
        )
        for quota in self.quota():
            if quota.resource == config.resource:
                offer = replace(
                    offer,
                    hours=quota.left_hours,
                    total_hours=quota.total_hours,
                    refreshes=quota.refreshes and _in_utc(quota.refreshes),
                    problem="" if quota.left_hours else _used_until(quota),
                )
        return [offer]

    def session_hours(self, config: KaggleConfig) -> float:
        return config.longest_hours

    def for_session(
        self, config: KaggleConfig, offer: Offer, hours: float | None, dollars: float
    ) -> KaggleConfig:
        if hours is None or hours >= config.longest_hours:
            return config
        return replace(config, session_hours=hours)

    def examine(self, config: KaggleConfig) -> Iterator[Finding]:
        try:
            user = self._client.user
        except UsageError as error:
            yield self._not_set_up(error)
            return
        quotas = self.quota()
        if not quotas:
            yield self._found("ok", f"signed in as {user}; Kaggle reports no quota")
        for quota in quotas:
            left = f"{quota.left_hours:.1f} of {quota.total_hours:.0f} h {quota.resource} are left"
            when = f" until {quota.refreshes:%Y-%m-%d %H:%M} UTC" if quota.refreshes else ""
            verdict: Verdict = "ok" if quota.left_hours > 0 else "warning"
            yield self._found(verdict, f"signed in as {user}, {left}{when}")

    # -- bringing home ------------------------------------------------------------------------

    def download(self, tags: Mapping[str, str], directory: Path) -> Downloaded:
        """Bring what the notebook left in /kaggle/working."""
        return self.fetch(tags[NOTEBOOK], directory)

    def fetch(self, ref: str, directory: Path, only: str = "") -> Downloaded:
        """Bring what a notebook left into a folder, or `only` one file of it."""
        from kagglesdk.kernels.types.kernels_api_service import ApiListKernelFilesRequest

        left = (each for page in self._outputs(ref) for each in page.files or ())
        named = ((each.file_name or "", each.url or "") for each in left)
        listed = [each for each in named if not only or each[0] == only]
        doing = f"listing the files of {ref}"
        pages = self._pages(doing, "list_kernel_files", ApiListKernelFilesRequest, ref)
        known = (each for page in pages for each in page.files or ())
        sizes = {each.name: each.size for each in known if each.size}
        with session() as fetching:
            return outputs.keep(listed, sizes, directory, fetching)

    def _outputs(self, ref: str) -> Iterator[Any]:
        from kagglesdk.kernels.types.kernels_api_service import ApiListKernelSessionOutputRequest

        doing, kind = f"listing what {ref} left", ApiListKernelSessionOutputRequest
        return self._pages(doing, "list_kernel_session_output", kind, ref)

    def _pages(self, doing: str, method: str, kind: Callable[[], Any], ref: str) -> Iterator[Any]:
        token = ""
        while True:
            page = self._client.ask(doing, method, about(kind, ref, token))
            yield page
            if not (token := page.next_page_token):
                return


def _used(quota: Quota) -> str:
    used = f"all {quota.total_hours:g} hours of {quota.resource} are used"
    return used + (f"; it is refreshed on {quota.refreshes:%d %B}" if quota.refreshes else "")


def _used_until(quota: Quota) -> str:
    used = f"kaggle's {quota.total_hours:g} h of {quota.resource} are used"
    when = quota.refreshes and _in_utc(quota.refreshes)
    return used + (f" until {when.day} {when:%B %H:%M} UTC" if when else "")


def _in_utc(when: datetime) -> datetime:
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def about(kind: Callable[[], Any], ref: str, token: str | None = None) -> Any:
    """Return a request about a notebook; for one page of a list, if there is a token."""
    request = kind()
    request.user_name, request.kernel_slug = ref.split("/")
    if token is not None:
        request.page_size = _PAGE
        request.page_token = token or None
    return request


def _push(ref: str, notebook: str, config: KaggleConfig) -> Any:
    client = sign_in(again=False)
    metadata = {
        "id": ref,
        # A title that makes another slug would make another notebook.
        "title": ref.partition("/")[2],
        "code_file": "run.ipynb",
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_internet": config.internet,
        "machine_shape": config.machine_shape or None,
        "docker_image": config.docker_image or None,
        "docker_image_pinning_type": config.docker_image_pinning or None,
        "competition_sources": config.competition_sources,
        "dataset_sources": config.dataset_sources,
        "kernel_sources": config.kernel_sources,
        "model_sources": config.model_sources,
    }
    seconds = str(int(config.session_hours * 3600)) if config.session_hours else None
    with temporary_folder() as folder:
        (folder / "run.ipynb").write_text(notebook)
        (folder / client.KERNEL_METADATA_FILE).write_text(json.dumps(metadata))
        return client.quietly(
            f"pushing {ref} to Kaggle", lambda: client.kernels_push(str(folder), seconds)
        )
