"""Kaggle's own client: with time-outs, patient, quiet, and lenient with what it reads.

The message types of Kaggle's client end with a trace at the first word that they do not know, and
so one odd item hides the whole list. Here what is missing or odd counts as not there.
"""

import contextlib
import enum
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import requests

# Importing it makes its folder, and fails where another process was faster by a moment. Its modules
# alone cannot be imported once that has failed.
with contextlib.suppress(FileExistsError):
    import kaggle as _package
import kaggle as _package  # noqa: F401
from kaggle.api.kaggle_api_extended import KaggleApi, ResumableUploadResult
from kagglesdk.kaggle_object import KaggleObject, ListSerializer, PredefinedSerializer

from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.platforms.http import ASK_AGAIN, ASK_ONCE, READ, mount, session
from kaggleops.platforms.kaggle.http import explained, quiet

_Answer = TypeVar("_Answer")
_LONGEST = 100  # characters of a word


@dataclass(frozen=True)
class Word:
    """One of Kaggle's words that its client does not know; it has a name as those that it does."""

    name: str


class Client(KaggleApi):
    """The client, signed in as the user of this machine; UsageError without credentials.

    Requests are repeated if `again`; an answer is given up after `silence` seconds without a byte.
    """

    config_values: dict[str, str]

    def __init__(self, *, again: bool = True, silence: float = READ) -> None:
        super().__init__()
        self._retry = ASK_AGAIN if again else ASK_ONCE
        self._silence = silence
        try:
            with quiet(), explained("signing in to Kaggle"):
                self.authenticate()
        except SystemExit:
            raise UsageError(
                "signing in to Kaggle",
                "there are no credentials on this machine",
                "`kaggle auth login`, or a token from https://www.kaggle.com/settings in "
                "~/.kaggle/access_token.",
            ) from None

    @property
    def user(self) -> str:
        """The user's name, as it stands in addresses."""
        return str(self.config_values[self.CONFIG_NAME_USER])

    def build_kaggle_client(self) -> Any:
        """Return a connection that reads leniently; all of the client's calls make theirs here."""
        made = super().build_kaggle_client()
        http = made.http_client()
        http._init_session()
        mount(http._session, self._retry, self._silence)
        _read_leniently(http)
        return made

    def with_retry(
        self, func: Callable[..., _Answer], *_: Any, **__: Any
    ) -> Callable[..., _Answer]:
        """Return the call as it is: the connection repeats it already, and gives up in time."""
        return func

    def upload_complete(self, path: str, url: str, quiet: bool, resume: bool = False) -> Any:
        """Send a file where Kaggle wants it, in one piece; the client tries that 100 times."""
        with session(self._silence) as http, Path(path).open("rb") as file:
            http.put(url, data=file).raise_for_status()
        return ResumableUploadResult.COMPLETE

    def ask(self, doing: str, method: str, request: Any, of: str = "kernel") -> Any:
        """Call a method of "kernel" (notebooks) or "competition", and return its answer.

        Raises KaggleOpsError in one line, whatever was wrong.
        """

        def call() -> Any:
            with self.build_kaggle_client() as kaggle:
                kernels, others = kaggle.kernels, kaggle.competitions
                service = (
                    kernels.kernels_api_client if of == "kernel" else others.competition_api_client
                )
                return getattr(service, method)(request)

        return self.quietly(doing, call)

    def quietly(self, doing: str, call: Callable[[], _Answer]) -> _Answer:
        """Return what a call of the client's returns, and print nothing of what it prints.

        Raises KaggleOpsError in one line, whatever was wrong.
        """
        before = self.config_values
        with quiet(), explained(doing):
            try:
                return call()
            except requests.HTTPError as error:
                if error.response is None or error.response.status_code != 401:
                    raise
                # What `kaggle auth login` leaves is exchanged for a token of twelve hours when a
                # client signs in, and a watcher goes on for weeks.
                self.config_values = Client(silence=self._silence).config_values
                if self.config_values == before:
                    raise
            return call()

    def put_dataset(
        self,
        doing: str,
        slug: str,
        folder: Path,
        notes: str,
        *,
        exists: bool,
        keep_old: bool = True,
    ) -> None:
        """Make what is in a folder a private dataset of the user's or, of one, the next version.

        Its folders go as archives, which Kaggle unpacks. Raises KaggleOpsError if it is not taken.
        """
        described = {"id": f"{self.user}/{slug}", "title": slug, "licenses": [{"name": "other"}]}
        (folder / self.DATASET_METADATA_FILE).write_text(json.dumps(described))
        how: dict[str, Any] = {"quiet": True, "convert_to_csv": False, "dir_mode": "zip"}
        if exists:
            how["delete_old_versions"] = not keep_old
            call = partial(self.dataset_create_version, str(folder), notes, **how)
        else:
            call = partial(self.dataset_create_new, str(folder), public=False, **how)
        made = self.quietly(doing, call)
        if made.error:  # a refusal comes as an answer like any other
            raise KaggleOpsError(doing, made.error)

    def has_dataset(self, doing: str, slug: str) -> bool:
        """Tell whether the user has a dataset of that name."""
        found = self.quietly(doing, lambda: self.dataset_list(mine=True, search=slug))
        return any(each and each.ref == f"{self.user}/{slug}" for each in found or ())


def _read_leniently(http: Any) -> None:
    """Let a `KaggleHttpClient` read what can be read of each answer."""
    strict = http._prepare_response

    def prepare(kind: Any, answer: requests.Response) -> Any:
        file = kind is not None and (
            kind.prepare_from.__func__ is not KaggleObject.prepare_from.__func__
        )
        if "text/html" in answer.headers.get("Content-Type", "") and not (file and answer.ok):
            raise requests.ConnectionError("a page came from whoever stands between")
        try:
            strict(None, answer)  # raises what the answer says is wrong
        except TypeError:  # it says so in no way that the client knows
            answer.raise_for_status()
        if kind is None:
            return None
        if file:
            return kind.prepare_from(answer)
        return read(kind, answer.json() if answer.content or kind._fields else {})

    http._prepare_response = prepare


def read(kind: Any, content: Any) -> Any:
    """Return a message of that type with all that can be read of a JSON value."""
    made = kind()
    for field in kind._fields:
        value = content.get(field.json_name) if isinstance(content, dict) else None
        if value is not None:
            # Whatever it is, it is not what the field should be.
            with contextlib.suppress(Exception):
                setattr(made, field.private_field_name, _value(field, value))
    return made


def _value(field: Any, value: Any) -> Any:
    if not isinstance(field.serializer, ListSerializer):
        return _one(field, field.serializer, value)
    found = []
    for each in list(value):
        # The serializer of a list's items is known to the list's alone.
        with contextlib.suppress(Exception):
            found.append(_one(field, None, each))
    return found


def _one(field: Any, serializer: Any, value: Any) -> Any:
    kind = field.field_type
    if isinstance(kind, type) and issubclass(kind, KaggleObject):
        return read(kind, value)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        try:
            return field.serializer.from_dict_value(kind, value)
        except KeyError:
            return Word(str(value)[:_LONGEST])
    if not isinstance(serializer, PredefinedSerializer) and kind not in (str, int, float, bool):
        return serializer.from_dict_value(kind, value)
    numbers = kind in (int, float)  # long ones come as texts
    if isinstance(value, bool) is not (kind is bool) or not (numbers or isinstance(value, kind)):
        raise TypeError(value)
    return kind(value) if numbers else value
