"""Keys of a bucket: what opens each kind of them, and the list of those made on this machine.

A kind of key is a file beside this one (`google.py`, `s3.py`): how a process finds one, in which
form its clients want it, and how this machine gets a new one. Where a platform finds its key, its
class says (`kaggleops.platforms.platform`). Which key is for which platform stands in a list on
this machine, without any secret: no service has labels for that.
"""

import base64
import binascii
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from kaggleops.bucket.location import S3_KEY
from kaggleops.platforms.folders import state_folder, write_private

Content = Mapping[str, Any]
"""A key: the JSON of Google's file, or `type: s3` with `access_key_id`, `secret_access_key` and
perhaps `session_token` and `region`. `type` says which."""


class NotThisWayError(Exception):
    """A way to sign in that should have worked did not; the next one may."""


@dataclass(frozen=True)
class Key:
    """A key as its service lists it: its id, and when it was made (RFC 3339; "" if unknown)."""

    id: str
    created: str


class Keys(ABC):
    """The keys of one kind of bucket, and of its `owner`.

    That is the email address of Google's service account ("" where a process only signs in), or an
    s3 bucket's own address.
    """

    title: ClassVar[str]
    variable: ClassVar[str]
    """The environment variable that names a key's file to the service's clients."""
    form: ClassVar[str]
    """A pattern: what of such a file's text shows that the clients can read it."""
    form_in_words: ClassVar[str]

    def __init__(self, owner: str = "") -> None:
        self.owner = owner

    # -- in a process that signs in -----------------------------------------------------------

    @abstractmethod
    def already_there(self) -> str:
        """Return in words which credentials the clients find by themselves; "" for none.

        Raises NotThisWayError if some are named that are not there.
        """

    @abstractmethod
    def at_last(self, own_machine: bool) -> str:
        """Return what else makes signing in needless; "" for nothing.

        `own_machine` tells whether the machine's account, if it has one, is the user's own.
        """

    @property
    @abstractmethod
    def hint(self) -> str:
        """What to do on a machine that no platform lends."""

    @classmethod
    @abstractmethod
    def takes(cls, key: Content) -> bool:
        """Tell whether a key is of this kind."""

    @classmethod
    @abstractmethod
    def for_clients(cls, key: Content) -> str:
        """Return the text of a file in which the service's clients find a key."""

    def use(self, key: Content, file: Path) -> None:
        """Keep a key where only this user can read it, and let the service's clients find it."""
        write_private(file, self.for_clients(key))
        os.environ[self.variable] = str(file)

    # -- on the machine of whoever makes keys -------------------------------------------------

    @property
    def steps(self) -> str:
        """How somebody makes a key by hand, where no command can; "" where one does."""
        return ""

    @abstractmethod
    def create(self, given: Callable[[], str]) -> tuple[str, Content]:
        """Return the id and the content of a new key; KaggleOpsError if there is none.

        `given` returns the text of a key that somebody made, where no command can.
        """

    def can_too_much(self, key: Content) -> list[str]:
        """Return what a new key can do that no runner needs, where its service gives more.

        Raises KaggleOpsError if it cannot do what a runner has to.
        """
        return []

    @abstractmethod
    def listed(self) -> list[Key]:
        """Return what is known of the keys that people made, the oldest first."""

    @abstractmethod
    def delete(self, key_id: str) -> str:
        """Delete a key, unless it is gone already; return what is left to do by hand, or ""."""


_LINE = re.compile(
    r"(?im)^[\s{\"']*(?:export\s+)?(?:aws_)?"
    r"(access_?key_?id|secret_?access_?key|session_?token|region)"
    r"[\"']?\s*[=:]\s*[\"']?(.+?)[\"',}\s]*$"
)
_NAMES = ("access_key_id", "secret_access_key", "session_token", "region")


def key_in(text: str) -> Content | None:
    """Return the key in a text, None if there is none.

    It may be a key's JSON, that in base64 (an environment likes it better), or an access key as
    AWS's files, variables and `aws iam create-access-key` have it.
    """
    text = text.strip()
    with suppress(binascii.Error, ValueError):
        text = base64.b64decode(text, validate=True).decode()
    try:
        key = json.loads(text)
        text = json.dumps(key, indent=1)  # each value on a line of its own
    except ValueError:
        key = None
    if isinstance(key, dict) and key.get("type", S3_KEY) != S3_KEY:
        return key
    if not isinstance(key, dict) or "type" not in key:
        by_name = {name.replace("_", ""): name for name in _NAMES}
        found = (
            (by_name[name.lower().replace("_", "")], each) for name, each in _LINE.findall(text)
        )
        key = {"type": S3_KEY, **dict(found)}
    known = {name: key[name] for name in ("type", *_NAMES) if key.get(name)}
    complete = all(isinstance(known.get(name), str) for name in _NAMES[:2])
    carried = not re.search(r"[\r\n]", "".join(map(str, known.values())))
    return known if complete and carried else None


# -- those that were made here --------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """A key made on this machine: whose (see `Keys`), for which platform, and where it was put."""

    id: str
    account: str
    platform: str
    where: str


def made_keys() -> list[Made]:
    """Return the keys made on this machine, in the order in which they were made."""
    file = state_folder() / "credentials/keys.json"
    return [Made(**each) for each in json.loads(file.read_text())] if file.is_file() else []


def note(made: Made) -> None:
    """Add a key to the list."""
    _write([*made_keys(), made])


def forget(key_id: str) -> None:
    """Remove a key from the list."""
    _write([each for each in made_keys() if each.id != key_id])


def _write(keys: list[Made]) -> None:
    listed = json.dumps([asdict(each) for each in keys], indent=1)
    write_private(state_folder() / "credentials/keys.json", listed)
