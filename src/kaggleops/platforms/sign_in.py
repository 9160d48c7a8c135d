"""How a process on this platform may reach the bucket: the first way that is there, and its name.

Afterwards Google's clients, in this process and in those it starts, find the credentials by
themselves. A key goes from the platform's own store into a private file outside the platform's
output folder; nothing of it is printed or kept anywhere else.
"""

import base64
import binascii
import importlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from kaggleops.bucket.location import is_remote
from kaggleops.errors import UsageError
from kaggleops.platforms.folders import state_folder, write_private
from kaggleops.platforms.machine import ROOT, Platform

SECRET = "KAGGLEOPS_KEY"  # noqa: S105 - the name, not the secret
"""What the key is called in Kaggle's and Colab's secrets, and in the environment of a pod."""

KEY_FILE = "kaggleops-key.json"
"""What the key's file is called in a dataset of credentials."""

_ADC = "GOOGLE_APPLICATION_CREDENTIALS"
_MOUNT_DEPTH = 4  # /kaggle/input/datasets/<owner>/<slug>/<file> at the deepest


def sign_in(platform: Platform, bucket_uri: str) -> str:
    """Make the machine's credentials usable, and return in words which were found.

    Args:
        platform: where this process runs.
        bucket_uri: the bucket's address.

    Raises:
        UsageError: there are none; it says what to do on this platform.
    """
    if not is_remote(bucket_uri):
        return "none needed, the bucket is a folder"
    why_not: list[str] = []
    try:
        for way in _WAYS:
            try:
                if used := way(platform):
                    return used
            except _NotThisWayError as error:
                why_not.append(str(error))
    finally:  # out of the environment, whichever way it was: no child inherits it
        os.environ.pop(SECRET, None)
    if os.environ.get("STORAGE_EMULATOR_HOST"):
        return "none needed, STORAGE_EMULATOR_HOST names a test server"
    if platform.name in ("local", "kaggle-image") and _on_google_cloud():
        return "the service account of this machine"
    tried = "; ".join(["there are no credentials for it", *why_not])
    raise UsageError(f"signing in to reach {bucket_uri}", tried, _HINTS[platform.name])


class _NotThisWayError(Exception):
    """A way that should have worked did not; the next one may."""


# -- the ways, in order --------------------------------------------------------------------------


def _already_there(platform: Platform) -> str:
    if named := os.environ.get(_ADC):
        if not Path(named).is_file():
            raise _NotThisWayError(f"{_ADC} names {named}, which is not there")
        return f"application-default credentials, {_ADC}={named}"
    if _gcloud_file().is_file():
        return "application-default credentials of gcloud"
    return ""


def _gcloud_file() -> Path:
    folder = os.environ.get("CLOUDSDK_CONFIG") or Path.home() / ".config/gcloud"
    return Path(folder) / "application_default_credentials.json"


def _on_google_cloud() -> bool:
    # Asked last, as it takes seconds; never on Colab and Kaggle, whose machines' account is theirs.
    import google.auth

    with suppress(google.auth.exceptions.DefaultCredentialsError):
        google.auth.default()
        return True
    return False


def _colab_enterprise(platform: Platform) -> str:
    # Nobody is there to sign in, and nobody has to: the machine is who the execution names.
    enterprise = os.environ.get("VERTEX_PRODUCT") == "COLAB_ENTERPRISE"
    return "the service account of Colab Enterprise" if enterprise else ""


def _colab(platform: Platform) -> str:
    if platform.name != "colab":
        return ""
    auth = _module("google.colab.auth")
    try:
        auth.authenticate_user()
    except Exception as error:  # noqa: BLE001 - nobody is there, the window was closed, …
        raise _NotThisWayError(
            f"Colab's sign-in was not completed ({_first_line(error)})"
        ) from None
    return "Colab's sign-in"


def _kaggle_secret(platform: Platform) -> str:
    secret = _kaggle_secret_named(platform, SECRET)
    return f"the Kaggle secret {SECRET}" if secret and _use_key(secret, SECRET, platform) else ""


def _kaggle_cloud_sdk(platform: Platform) -> str:
    # Kaggle keeps what its Cloud SDK add-on signed in with as a secret of this name.
    secret = _kaggle_secret_named(platform, "__gcloud_sdk_auth__")
    used = secret and _use_key(secret, "Kaggle's add-on", platform)
    return "Kaggle's Cloud SDK add-on" if used else ""


def _kaggle_secret_named(platform: Platform, label: str) -> str:
    if platform.name != "kaggle":
        return ""
    secrets = _module("kaggle_secrets")
    try:
        return str(secrets.UserSecretsClient().get_secret(label))
    except secrets.BackendError:
        return ""  # how Kaggle says that no such secret is attached to this notebook
    except Exception as error:  # noqa: BLE001 - a missing token, no internet, …
        reason = _first_line(error)
        raise _NotThisWayError(f"Kaggle's secrets cannot be asked ({reason})") from None


def _mounted(platform: Platform) -> str:
    if platform.inputs is None:
        return ""
    for path in _walk(platform.inputs, _MOUNT_DEPTH):
        _use_key(path.read_text(), str(path), platform)
        return f"the credentials dataset, {path}"
    return ""


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    # Datasets may hold millions of files further down: a key lies on top of its own.
    if not folder.is_dir():
        return
    if (folder / KEY_FILE).is_file():
        yield folder / KEY_FILE
    if depth > 1:
        for each in sorted(entry.path for entry in os.scandir(folder) if entry.is_dir()):
            yield from _walk(Path(each), depth - 1)


def _environment(platform: Platform) -> str:
    secret = os.environ.get(SECRET, "")
    if not secret:
        return ""
    _use_key(secret, SECRET, platform)
    kind = "RunPod secret" if platform.name == "runpod" else "environment variable"
    return f"the {kind} {SECRET}"


_WAYS: tuple[Callable[[Platform], str], ...] = (
    _already_there,
    _colab_enterprise,
    _colab,
    _kaggle_secret,
    _kaggle_cloud_sdk,
    _mounted,
    _environment,
)

_HINTS = {
    "kaggle": (
        f"Attach one in the editor (Add-ons > Secrets, called {SECRET}; or Add-ons > Google Cloud "
        "SDK), or for pushed notebooks add the dataset that `kaggleops credentials create kaggle` "
        "makes."
    ),
    "colab": "Run this cell again and complete the sign-in that Colab asks for.",
    "runpod": (
        f"Create the pod with the environment variable {SECRET} = "
        "{{ RUNPOD_SECRET_kaggleops_key }}; `kaggleops credentials create runpod` makes the key."
    ),
    "kaggle-image": (
        f"Mount the file that `kaggleops credentials create docker` makes, and name it in {_ADC}."
    ),
    "local": "Run `gcloud auth application-default login`, and try again.",
}


# -- keys ----------------------------------------------------------------------------------------


def _use_key(content: str, source: str, platform: Platform) -> bool:
    """Keep a key where only this user can read it, and let Google's clients find it."""
    key = _parsed(content)
    if key is None:
        # Nothing of the content: it may be most of a key.
        raise _NotThisWayError(
            f"{source} holds no key of Google's: it should be a JSON file's text"
        )
    file = _key_folder(platform) / KEY_FILE
    write_private(file, json.dumps(key))
    os.environ[_ADC] = str(file)
    return True


def _key_folder(platform: Platform) -> Path:
    if platform.name == "runpod":
        # A pod's state is on its network volume, which outlives it: never the key.
        return Path(os.environ.get(ROOT, "/")) / "root/.kaggleops/credentials"
    return state_folder() / "credentials"


def _parsed(content: str) -> dict[str, Any] | None:
    """Return a key from its JSON, or from that in base64, as an environment likes it better."""
    text = content.strip()
    if not text.startswith("{"):
        try:
            text = base64.b64decode(text, validate=True).decode()
        except (binascii.Error, ValueError):
            return None
    try:
        key = json.loads(text)
    except ValueError:
        return None
    return key if isinstance(key, dict) and "type" in key else None


def _module(name: str) -> Any:
    """Return a module that only this platform has."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise _NotThisWayError(f"{name} cannot be imported ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
