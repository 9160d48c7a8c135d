"""What is known of a platform, as one class: how it is told, signed in on, and given its key.

Each platform is a file beside this one, and stands in the list of `kaggleops.platforms`. A platform
is told by what it sets in every process that it starts, never by what the network would answer.
"""

import importlib
import os
import platform
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from kaggleops.bucket.location import is_remote, is_s3
from kaggleops.errors import UsageError, first_line
from kaggleops.platforms.folders import state_folder, write_private
from kaggleops.platforms.google import GoogleKeys
from kaggleops.platforms.keys import Content, Keys, NotThisWayError, key_in
from kaggleops.platforms.machine import accelerator
from kaggleops.platforms.s3 import S3Keys
from kaggleops.session_end import time_left

ROOT = "KAGGLEOPS_ROOT"
"""The environment variable for the folder under which `/kaggle`, `/content` and `/workspace` lie:
`/` unless a platform is simulated."""

SECRET = "KAGGLEOPS_KEY"  # noqa: S105 - the name, not the secret
"""What the key is called in Kaggle's and Colab's secrets, and in the environment of a pod."""

KEY_FILE = "kaggleops-key.json"
"""What the key's file is called, in a dataset of credentials and on disks."""

_MOUNT_DEPTH = 4  # /kaggle/input/datasets/<owner>/<slug>/<file> at the deepest

Way = Callable[[Keys], str]
"""Signs in with such a key as the way has, and returns in words where that was; "" for none."""


def keys_of(owner: str) -> Keys:
    """Return the keys of a bucket, by its address, or of Google's account, by its email address."""
    return S3Keys(owner) if is_s3(owner) else GoogleKeys(owner)


def for_clients(key: Content) -> str:
    """Return the text of a file in which a service's clients find a key."""
    return next(each for each in (S3Keys, GoogleKeys) if each.takes(key)).for_clients(key)


class Platform:
    """Where a process with an environment runs, and what is known of the place.

    Attributes:
        accelerator: its GPUs or TPU as their makers name them (`2x Tesla T4`, `TPU v5e-8`), ""
            for none.
        python: the interpreter's version, `3.12.11`.
        folder: where what is written is kept longest: the platform's output folder, or the working
            directory.
        inputs: where the platform mounts datasets, if it does.
    """

    name: ClassVar[str]  # what runs record of it
    title: ClassVar[str]  # its name for people
    backend: ClassVar[str] = ""  # what sends runs there, for which a key can be made; "" for none
    session_hours: float | None = None  # how long one may last, None where nothing is known
    network_hint: ClassVar[str] = "Check this machine's network, and try again."

    _output: ClassVar[str] = ""  # below the root; "" for the working directory
    _mounts: ClassVar[str] = ""
    _variable: ClassVar[str] = "environment variable"
    _may_be_own: ClassVar[bool] = False  # whether the machine's own account may be the user's

    def __init__(self, environ: Mapping[str, str]) -> None:
        root = Path(environ.get(ROOT, "/"))
        self.accelerator = accelerator(environ)
        self.python = platform.python_version()
        self.folder = root / self._output if self._output else _here()
        self.inputs = root / self._mounts if self._mounts else None

    @classmethod
    def is_here(cls, environ: Mapping[str, str], root: Path) -> bool:
        """Tell whether a process with this environment, and files below that root, runs there."""
        raise NotImplementedError

    @property
    def free_disk(self) -> float:
        """What can still be written to `folder`, in GB."""
        there = next(each for each in (self.folder, *self.folder.parents) if each.exists())
        return shutil.disk_usage(there).free / 1e9

    def describe(self) -> str:
        """Return one line of what the machine is."""
        limit = f"{self.session_hours:g} h" if self.session_hours else "no limit known"
        if (left := time_left()) is not None:  # who started the machine has said so
            limit = f"ends in {left / 3600:.1f} h"
        return (
            f"{self.title} · {self.accelerator or f'no GPU, {os.cpu_count()} CPU cores'} · "
            f"Python {self.python} · {self.free_disk:.0f} GB free · session {limit}"
        )

    # -- signing in there ---------------------------------------------------------------------

    def sign_in(self, bucket_uri: str) -> str:
        """Make the machine's credentials usable, and return in words which were found.

        Afterwards the clients of the bucket's service, in this process and in those it starts, find
        them by themselves. A key goes from the platform's own store into a private file outside the
        platform's output folder; nothing of it is printed or kept anywhere else. Raises UsageError,
        which says what to do on this platform, if there are none.
        """
        if not is_remote(bucket_uri):
            return "none needed, the bucket is a folder"
        keys = keys_of(bucket_uri)
        ways: tuple[Way, ...] = (type(keys).already_there, *self._ways(keys))
        ways += (self._mounted, self._environment, lambda keys: keys.at_last(self._may_be_own))
        why_not: list[str] = []
        try:
            for way in ways:
                try:
                    if used := way(keys):
                        return used
                except NotThisWayError as error:
                    why_not.append(str(error))
        finally:  # out of the environment, whichever way it was: no child inherits it
            os.environ.pop(SECRET, None)
        tried = "; ".join(["there are no credentials for it", *dict.fromkeys(why_not)])
        raise UsageError(f"signing in to reach {bucket_uri}", tried, self._hint(keys))

    def _ways(self, keys: Keys) -> tuple[Way, ...]:
        """Return the ways that only this platform has, the first to try first."""
        return ()

    def _hint(self, keys: Keys) -> str:
        """Return what to do where there are no credentials."""
        raise NotImplementedError

    def _mounted(self, keys: Keys) -> str:
        if self.inputs is not None and (path := _key_below(self.inputs)):
            self._use_key(keys, path.read_text(), str(path))
            return f"the credentials dataset, {path}"
        return ""

    def _environment(self, keys: Keys) -> str:
        if not (secret := os.environ.get(SECRET, "")):
            return ""
        self._use_key(keys, secret, SECRET)
        return f"the {self._variable} {SECRET}"

    def _use_key(self, keys: Keys, content: str, source: str) -> None:
        """Keep a key where only this user can read it, and let the clients find it."""
        key = key_in(content)
        if key is None:
            # Nothing of the content: it may be most of a key.
            said = f"{source} holds no {keys.title}: it should be a JSON file's text"
            raise NotThisWayError(said)
        if not keys.takes(key):
            raise NotThisWayError(f"{source} holds a key of another service, and no {keys.title}")
        keys.use(key, self._key_folder() / KEY_FILE)

    def _key_folder(self) -> Path:
        return state_folder() / "credentials"

    # -- its key, from another machine: KaggleOpsError where the platform does not take it --------

    @classmethod
    def key_file(cls) -> Path:
        """Return the private file of this machine that holds the platform's key."""
        return state_folder() / "credentials" / cls.backend / KEY_FILE

    @classmethod
    def check_place(cls) -> None:
        """See that a key can be put there, before anybody makes one."""

    @classmethod
    def put_key(cls, key: Content) -> str:
        """Put a key where the platform finds it, in place of any other; return where that is."""
        write_private(cls.key_file(), for_clients(key))
        return str(cls.key_file())

    @classmethod
    def delete_key(cls) -> None:
        """Delete it there."""
        cls.key_file().unlink(missing_ok=True)

    @classmethod
    def next_step(cls, keys: Keys) -> str:
        """Return what is left to do by hand when one of such keys was put there."""
        return f"kaggleops run -b {cls.backend} …"


def module(name: str) -> Any:
    """Return a module that only this platform has; NotThisWayError if it cannot be imported."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise NotThisWayError(f"{name} cannot be imported ({first_line(error)})") from None


def _here() -> Path:
    try:
        return Path.cwd()
    except OSError:  # somebody deleted it; a training goes on without
        return Path.home()


def _key_below(folder: Path) -> Path | None:
    # Datasets may hold millions of files further down: a key lies on top of its own.
    patterns = ("*/" * depth + KEY_FILE for depth in range(_MOUNT_DEPTH))
    found = (path for each in patterns for path in sorted(folder.glob(each)))
    return next((path for path in found if path.is_file()), None)
