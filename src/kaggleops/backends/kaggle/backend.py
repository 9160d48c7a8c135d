"""Kaggle, as a backend.

A run's notebook is called after the run, so whoever submits it again finds it there. It is pushed
by Kaggle's own client, which reports success whatever Kaggle answers; here a refusal is an error,
and an answer that was lost is looked for.
"""

import functools
import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal

import requests
from pydantic import Field

from kaggleops.backends import job_log
from kaggleops.backends.base import Backend
from kaggleops.backends.config import Config, Count
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
from kaggleops.bucket.location import bucket_uri
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.launch.launcher import temporary_folder
from kaggleops.platforms.http import NoAnswerError, NotTakenError, NotThereError, session
from kaggleops.platforms.kaggle import DATASET, sign_in
from kaggleops.platforms.kaggle.http import explained

if TYPE_CHECKING:
    from kaggleops.platforms.kaggle.client import Client


_PART = r"[\w-]+"
Owned = Annotated[str, Field(pattern=rf"^{_PART}/{_PART}$")]
"""`owner/name`."""

LONGEST_HOURS = 12
"""What a session may last at most (secondary sources, 2026); 9 with a TPU."""
_LONGEST_ON_TPU = 9

_MEMORY_GB = {"": 30.0, "nvidiateslat4": 16.0, "nvidiateslap100": 16.0, "tpuv5e8": 128.0}
"""Of the accelerator, of one where there are two; of the machine without (likewise)."""


@dataclass(frozen=True)
class KaggleConfig(Config):
    """The fields of config/backend/kaggle.yaml, where each is explained."""

    lasts = "session_hours"

    credentials: Annotated[str, Field(pattern=rf"^({_PART}/{_PART})?$")] = ""
    machine_shape: str = "NvidiaTeslaT4"
    internet: bool = True
    session_hours: Annotated[float, Field(gt=0, le=LONGEST_HOURS)] | None = None
    sessions: Count = 2
    competition_sources: list[Annotated[str, Field(pattern=rf"^{_PART}$")]] = field(
        default_factory=list
    )
    dataset_sources: list[Owned] = field(default_factory=list)
    kernel_sources: list[Owned] = field(default_factory=list)
    # owner/model/framework/variation/1
    model_sources: list[Annotated[str, Field(pattern=rf"^({_PART}/){{4}}\d+$")]] = field(
        default_factory=list
    )
    docker_image: str = ""
    docker_image_pinning: Literal["", "original", "latest"] = ""

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


_log = logging.getLogger("kaggleops")

NOTEBOOK = "kaggle_notebook"
"""The tag of a run that names its notebook: `owner/slug`."""

_STATUSES = {
    **dict.fromkeys(("NEW_SCRIPT", "QUEUED"), "SCHEDULED"),
    **dict.fromkeys(("RUNNING", "CANCEL_REQUESTED"), "RUNNING"),
    **{"COMPLETE": "FINISHED", "ERROR": "FAILED", "CANCEL_ACKNOWLEDGED": "KILLED"},
}
_SILENCE = 3.0  # seconds without a line after which a live log has said all that it has
_LATE = (0.0, 1.0, 1.0, 1.0, 1.0)  # seconds before each time that a kept log is asked for
_PAGE = 100  # files in one answer
_CHUNK = 1 << 20


class KaggleBackend(Backend[KaggleConfig]):
    """Runs commits on Kaggle, as the user whose credentials this machine has."""

    name = "kaggle"
    waiting = "waiting in Kaggle's queue"
    config_type = KaggleConfig

    @functools.cached_property
    def _client(self) -> "Client":
        return sign_in()

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
        before = self.latest(ref)[0]
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
            if (arrived := self.latest(ref)[0]) > before:
                return arrived
            raise
        except (NotTakenError, NotThereError) as error:
            raise RefusedError(error.doing, error.problem, error.hint) from error
        self._refuse_invalid(ref, answer, before)
        given = self._look(ref).metadata.machine_shape
        if config.machine_shape and given and given != config.machine_shape:
            _log.warning("Kaggle has no %s for you: it gives %s.", config.machine_shape, given)
        return int(answer.version_number or self.latest(ref)[0])

    def _refuse_invalid(self, ref: str, answer: Any, before: int) -> None:
        doing = f"pushing {ref} to Kaggle"
        if answer.error:
            hint = "`kaggleops quota` shows what is left, `kaggleops status` what is running."
            raise RefusedError(doing, answer.error, hint)
        kinds = ("competition", "dataset", "kernel", "model")
        invalid = {kind: getattr(answer, f"invalid_{kind}_sources") for kind in kinds}
        named = ", ".join(f"{kind} {each}" for kind, some in invalid.items() for each in some or ())
        if named:
            # It was pushed all the same, and would train without its data.
            self.remove({NOTEBOOK: ref})
            hint = "Correct them in config/backend/kaggle.yaml. (A competition has to be joined.)"
            raise RefusedError(doing, f"you cannot use these sources: {named}", hint)
        if not answer.version_number and self.latest(ref)[0] <= before:
            raise RefusedError(doing, "Kaggle made no version of it, and did not say why")

    def remove(self, tags: Mapping[str, str]) -> bool:
        """Delete the notebook, its log and its files; a session of it ends."""
        try:
            self._ask(f"deleting {tags[NOTEBOOK]}", "delete_kernel", tags[NOTEBOOK])
        except NotThereError:
            return False
        return True

    def latest(self, ref: str) -> tuple[int, str]:
        """Return the number and the source of a notebook's latest version; 0 if there is none."""
        try:
            found = self._look(ref)
        except NotThereError:
            return 0, ""
        source = found.blob.source if found.blob else ""
        return int(found.metadata.current_version_number or 1), source or ""

    def _look(self, ref: str) -> Any:
        doing = f"looking for {ref} on Kaggle"
        found = self._ask(doing, "get_kernel", ref)
        if found.metadata is None:
            raise NoAnswerError(doing, "Kaggle's answer does not say anything of it", "Try again.")
        return found

    def _ask(self, doing: str, method: str, ref: str, token: str | None = None) -> Any:
        return self._client.ask(doing, method, about(method, ref, token))

    def state(self, tags: Mapping[str, str]) -> JobState:
        return self._state(tags[NOTEBOOK])

    def _state(self, ref: str) -> JobState:
        doing = f"asking Kaggle about {ref}"
        answer = self._ask(doing, "get_kernel_session_status", ref)
        said = answer.status.name
        return JobState(_STATUSES.get(said, UNKNOWN), said, answer.failure_message or "")

    def page(self, tags: Mapping[str, str]) -> str:
        return f"https://www.kaggle.com/code/{tags[NOTEBOOK]}"

    def logs(self, tags: Mapping[str, str], follow: bool) -> Iterator[str]:
        ref, shown, over = tags[NOTEBOOK], job_log.Once(), False
        client = self._client if follow else sign_in(silence=_SILENCE)

        def ended() -> bool:
            nonlocal over
            over = self._state(ref).ended
            return over

        def live() -> Iterator[str]:
            if not over:
                # Kaggle drops it, and replays it from its start.
                with explained(f"reading the log of {ref}"):
                    for *_, text in shown.new(map(entry, client.kernels_logs_stream(ref))):
                        yield text

        if follow:
            yield from job_log.follow(live, ended)
        elif not ended():
            yield from job_log.until_silent(live)
            return
        for pause in _LATE if follow else _LATE[:1]:  # the kept one may come a little after the end
            time.sleep(pause)
            if kept := parsed(next(self._outputs(ref)).log or ""):
                yield from (text for *_, text in shown.new(kept))
                return

    def quota(self) -> list[Quota]:
        method = "get_accelerator_quota_statistics"
        answer = self._client.ask("reading Kaggle's quota", method, None)
        return [
            Quota(
                self.name,
                resource,
                counted.time_used.total_seconds() / 3600 if counted.time_used else 0.0,
                counted.total_time_allowed.total_seconds() / 3600,
                answer.quota_refresh_time,
            )
            for resource, counted in (("GPU", answer.gpu_quota), ("TPU", answer.tpu_quota))
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
                    problem="" if quota.left_hours else _used(quota),
                )
        return [offer]

    def session_hours(self, config: KaggleConfig) -> float:
        return config.longest_hours

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

    def download(self, tags: Mapping[str, str], directory: Path) -> Downloaded:
        """Bring what the notebook left in /kaggle/working."""
        return self.fetch(tags[NOTEBOOK], directory)

    def fetch(self, ref: str, directory: Path, only: str = "") -> Downloaded:
        """Bring what a notebook left into a folder, or `only` one file of it."""
        left = (each for page in self._outputs(ref) for each in page.files or ())
        named = ((each.file_name or "", each.url or "") for each in left)
        listed = [each for each in named if not only or each[0] == only]
        pages = self._pages(f"listing the files of {ref}", "list_kernel_files", ref)
        known = (each for page in pages for each in page.files or ())
        sizes = {each.name: each.size for each in known if each.size}
        brought = Downloaded()
        with session() as fetching:
            for name, url in listed:
                fetch = functools.partial(_fetch, name, url, sizes.get(name), fetching)
                brought.keep(directory, name, fetch)
        return brought

    def _outputs(self, ref: str) -> Iterator[Any]:
        return self._pages(f"listing what {ref} left", "list_kernel_session_output", ref)

    def _pages(self, doing: str, method: str, ref: str) -> Iterator[Any]:
        token = ""
        while True:
            page = self._ask(doing, method, ref, token)
            yield page
            if not (token := page.next_page_token):
                return


def _fetch(name: str, url: str, size: int | None, http: requests.Session, file: IO[bytes]) -> None:
    """Download a file; Kaggle's own client keeps an error's page as the file."""
    doing = f"downloading {name!r}"
    with explained(doing), http.get(url, stream=True) as answer:
        answer.raise_for_status()
        for chunk in answer.iter_content(_CHUNK):
            file.write(chunk)
    if size is not None and file.tell() != size:
        raise KaggleOpsError(doing, f"{file.tell()} bytes came of {size}", "Try again.")


def entry(told: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return what makes an entry of a log another than the others: stream, time, and its text."""
    text = str(told.get("data") or "").removesuffix("\n")
    return str(told.get("stream_name")), str(told.get("time")), text


def parsed(kept: str) -> list[tuple[str, str, str]]:
    """Return the entries of a kept log: a JSON array, or else its plain lines."""
    entries = None
    with suppress(ValueError):
        entries = json.loads(kept)
    if not isinstance(entries, list):
        entries = kept.splitlines()
    return [entry(each if isinstance(each, dict) else {"data": str(each)}) for each in entries]


def _used(quota: Quota) -> str:
    used = f"kaggle's {quota.total_hours:g} h of {quota.resource} are used up"
    when = quota.refreshes and _in_utc(quota.refreshes)
    return used + (f" until {when.day} {when:%B %H:%M} UTC" if when else "")


def _in_utc(when: datetime) -> datetime:
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def about(method: str, ref: str, token: str | None = None) -> Any:
    """Return a request about a notebook; for one page of a list, if there is a token."""
    from kagglesdk.kernels.types import kernels_api_service

    name = "".join(word.capitalize() for word in method.split("_"))
    request = getattr(kernels_api_service, f"Api{name}Request")()
    request.user_name, request.kernel_slug = ref.split("/")
    if token is not None:
        request.page_size = _PAGE
        request.page_token = token or None
    return request


def _push(ref: str, notebook: str, config: KaggleConfig) -> Any:
    client = sign_in(again=False)
    attached = ("competition_sources", "dataset_sources", "kernel_sources", "model_sources")
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
        **{name: getattr(config, name) for name in attached},
    }
    seconds = str(int(config.session_hours * 3600)) if config.session_hours else None
    with temporary_folder() as folder:
        (folder / "run.ipynb").write_text(notebook)
        (folder / client.KERNEL_METADATA_FILE).write_text(json.dumps(metadata))
        return client.quietly(
            f"pushing {ref} to Kaggle", lambda: client.kernels_push(str(folder), seconds)
        )
