"""What is known of a platform, as one class: how it is told, signed in on, and given its key.

Each platform is a file beside this one, and stands in the list of `kaggleops.platforms`. A platform
is told by what it sets in every process that it starts, never by what the network would answer.
"""

import base64
import binascii
import importlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from kaggleops.bucket.location import is_remote
from kaggleops.errors import UsageError
from kaggleops.platforms.folders import state_folder, write_private
from kaggleops.platforms.machine import accelerator

ROOT = "KAGGLEOPS_ROOT"
"""The environment variable for the folder under which `/kaggle`, `/content` and `/workspace` lie:
`/` unless a platform is simulated."""

SECRET = "KAGGLEOPS_KEY"  # noqa: S105 - the name, not the secret
"""What the key is called in Kaggle's and Colab's secrets, and in the environment of a pod."""

KEY_FILE = "kaggleops-key.json"
"""What the key's file is called in a dataset of credentials."""

ADC = "GOOGLE_APPLICATION_CREDENTIALS"
_MOUNT_DEPTH = 4  # /kaggle/input/datasets/<owner>/<slug>/<file> at the deepest


class NotThisWayError(Exception):
    """A way to sign in that should have worked did not; the next one may."""


class Platform:
    """Where a process runs, and what is known of the place.

    Args:
        environ: the environment of the process.

    Attributes:
        name: what runs record of it.
        title: its name for people.
        backend: the backend that sends runs there, for which a key can be made; "" for none.
        accelerator: its GPUs or TPU as their makers name them (`2x Tesla T4`, `TPU v5e-8`), ""
            for none.
        python: the interpreter's version, `3.12.11`.
        folder: where what is written is kept longest: the platform's output folder, or the working
            directory.
        inputs: where the platform mounts datasets, if it does.
        session_hours: how long a session may last, None where nothing is known to end it.
        network_hint: what to do about a network that is not there.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    backend: ClassVar[str] = ""
    session_hours: float | None = None
    network_hint: ClassVar[str] = "Check this machine's network, and try again."

    _output: ClassVar[str] = ""  # below the root; "" for the working directory
    _mounts: ClassVar[str] = ""
    _sign_in_hint: ClassVar[str]
    _variable: ClassVar[str] = "environment variable"
    _may_be_googles: ClassVar[bool] = False  # whether the machine's own account may be the user's

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
        return (
            f"{self.title} · {self.accelerator or f'no GPU, {os.cpu_count()} CPU cores'} · "
            f"Python {self.python} · {self.free_disk:.0f} GB free · session {limit}"
        )

    # -- signing in there ---------------------------------------------------------------------

    def sign_in(self, bucket_uri: str) -> str:
        """Make the machine's credentials usable, and return in words which were found.

        Afterwards Google's clients, in this process and in those it starts, find them by
        themselves. A key goes from the platform's own store into a private file outside the
        platform's output folder; nothing of it is printed or kept anywhere else.

        Args:
            bucket_uri: the bucket's address.

        Raises:
            UsageError: there are none; it says what to do on this platform.
        """
        if not is_remote(bucket_uri):
            return "none needed, the bucket is a folder"
        why_not: list[str] = []
        try:
            for way in (_already_there, *self._ways(), self._mounted, self._environment):
                try:
                    if used := way():
                        return used
                except NotThisWayError as error:
                    why_not.append(str(error))
        finally:  # out of the environment, whichever way it was: no child inherits it
            os.environ.pop(SECRET, None)
        if os.environ.get("STORAGE_EMULATOR_HOST"):
            return "none needed, STORAGE_EMULATOR_HOST names a test server"
        if self._may_be_googles and _on_google_cloud():
            return "the service account of this machine"
        tried = "; ".join(["there are no credentials for it", *why_not])
        raise UsageError(f"signing in to reach {bucket_uri}", tried, self._sign_in_hint)

    def _ways(self) -> tuple[Callable[[], str], ...]:
        """Return the ways that only this platform has, the first to try first."""
        return ()

    def _mounted(self) -> str:
        if self.inputs is not None and (path := next(_keys(self.inputs, _MOUNT_DEPTH), None)):
            self._use_key(path.read_text(), str(path))
            return f"the credentials dataset, {path}"
        return ""

    def _environment(self) -> str:
        if not (secret := os.environ.get(SECRET, "")):
            return ""
        self._use_key(secret, SECRET)
        return f"the {self._variable} {SECRET}"

    def _use_key(self, content: str, source: str) -> None:
        """Keep a key where only this user can read it, and let Google's clients find it."""
        key = _parsed(content)
        if key is None:
            # Nothing of the content: it may be most of a key.
            raise NotThisWayError(
                f"{source} holds no key of Google's: it should be a JSON file's text"
            )
        file = self._key_folder() / KEY_FILE
        write_private(file, json.dumps(key))
        os.environ[ADC] = str(file)

    def _key_folder(self) -> Path:
        return state_folder() / "credentials"

    # -- its key, from another machine --------------------------------------------------------

    @classmethod
    def key_file(cls) -> Path:
        """Return the private file of this machine that holds the platform's key."""
        return state_folder() / "credentials" / cls.backend / KEY_FILE

    @classmethod
    def put_key(cls, key: Mapping[str, Any]) -> str:
        """Put a key where the platform finds it, in place of any other; return where that is.

        Raises:
            KaggleOpsError: it could not be put there.
        """
        write_private(cls.key_file(), json.dumps(key))
        return str(cls.key_file())

    @classmethod
    def delete_key(cls) -> None:
        """Delete it there.

        Raises:
            KaggleOpsError: it could not be deleted.
        """
        cls.key_file().unlink(missing_ok=True)

    @classmethod
    def next_step(cls) -> str:
        """Return what is left to do by hand when a key was put there."""
        return f"kaggleops run -b {cls.backend} …"


def module(name: str) -> Any:
    """Return a module that only this platform has.

    Raises:
        NotThisWayError: it cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise NotThisWayError(f"{name} cannot be imported ({first_line(error)})") from None


def first_line(error: Exception) -> str:
    """Return the first line of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _here() -> Path:
    try:
        return Path.cwd()
    except OSError:  # somebody deleted it; a training goes on without
        return Path.home()


def _already_there() -> str:
    if named := os.environ.get(ADC):
        if not Path(named).is_file():
            raise NotThisWayError(f"{ADC} names {named}, which is not there")
        return f"application-default credentials, {ADC}={named}"
    folder = Path(os.environ.get("CLOUDSDK_CONFIG") or Path.home() / ".config/gcloud")
    if (folder / "application_default_credentials.json").is_file():
        return "application-default credentials of gcloud"
    # Nobody is there to sign in, and nobody has to: the machine is who the execution names.
    enterprise = os.environ.get("VERTEX_PRODUCT") == "COLAB_ENTERPRISE"
    return "the service account of Colab Enterprise" if enterprise else ""


def _on_google_cloud() -> bool:
    # Asked last, as it takes seconds; never on Colab and Kaggle, whose machines' account is theirs.
    import google.auth

    with suppress(google.auth.exceptions.DefaultCredentialsError):
        google.auth.default()
        return True
    return False


def _keys(folder: Path, depth: int) -> Iterator[Path]:
    # Datasets may hold millions of files further down: a key lies on top of its own.
    if not folder.is_dir():
        return
    if (folder / KEY_FILE).is_file():
        yield folder / KEY_FILE
    if depth > 1:
        for each in sorted(entry.path for entry in os.scandir(folder) if entry.is_dir()):
            yield from _keys(Path(each), depth - 1)


def _parsed(content: str) -> dict[str, Any] | None:
    """Return a key from its JSON, or from that in base64, as an environment likes it better."""
    text = content.strip()
    try:
        if not text.startswith("{"):
            text = base64.b64decode(text, validate=True).decode()
        key = json.loads(text)
    except (binascii.Error, ValueError):
        return None
    return key if isinstance(key, dict) and "type" in key else None
