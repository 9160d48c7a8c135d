"""Kaggle: where a process may run, and its own client, with which this machine asks it."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaggleops.bucket.kaggle_hook import add_on_is_on
from kaggleops.errors import KaggleOpsError, UsageError, first_line
from kaggleops.platforms.folders import write_private
from kaggleops.platforms.google import GoogleKeys
from kaggleops.platforms.keys import Content, Keys, NotThisWayError
from kaggleops.platforms.platform import KEY_FILE, SECRET, Platform, Way, module

if TYPE_CHECKING:
    from kaggleops.platforms.kaggle.client import Client

DATASET = "kaggleops-credentials"
"""The private dataset on Kaggle with the bucket's key, of whoever signs in there."""


class Kaggle(Platform):
    """Kaggle, whose notebooks find a key among their secrets, or in a private dataset."""

    name = "kaggle"
    title = "Kaggle"
    backend = "kaggle"
    network_hint = (
        "Switch it on in the editor: Session options > Internet (pushed: enable_internet: true)."
    )
    _output = "kaggle/working"
    _mounts = "kaggle/input"

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(environ)
        # What users report of 2026.
        self.session_hours = 9 if self.accelerator.startswith("TPU") else 12

    @classmethod
    def is_here(cls, environ: Mapping[str, str], root: Path) -> bool:
        return bool(environ.get("KAGGLE_KERNEL_RUN_TYPE"))

    def _ways(self, keys: Keys) -> tuple[Way, ...]:
        of_google = (self._cloud_sdk, _add_on) if isinstance(keys, GoogleKeys) else ()
        return (self._secret, *of_google)

    def _hint(self, keys: Keys) -> str:
        of_google = (
            "; Add-ons > Google Cloud SDK; or Add-ons > Google Cloud Services > Cloud Storage"
        )
        others = of_google if isinstance(keys, GoogleKeys) else ""
        return (
            f"Attach one in the editor (Add-ons > Secrets, called {SECRET}{others}), or for pushed "
            "notebooks add the dataset that `kaggleops credentials create kaggle` makes."
        )

    def _secret(self, keys: Keys) -> str:
        return self._from_secret(keys, SECRET, SECRET, f"the Kaggle secret {SECRET}")

    def _cloud_sdk(self, keys: Keys) -> str:
        # Kaggle keeps what its Cloud SDK add-on signed in with as a secret of this name.
        name = "__gcloud_sdk_auth__"
        return self._from_secret(keys, name, "Kaggle's add-on", "Kaggle's Cloud SDK add-on")

    def _from_secret(self, keys: Keys, name: str, source: str, found: str) -> str:
        secrets = module("kaggle_secrets")
        try:
            secret = str(secrets.UserSecretsClient().get_secret(name))
        except secrets.BackendError:
            return ""  # how Kaggle says that no such secret is attached to this notebook
        except Exception as error:  # noqa: BLE001 - a missing token, no internet, …
            problem = f"Kaggle's secrets cannot be read ({first_line(error)})"
            raise NotThisWayError(problem) from None
        if not secret:
            return ""
        self._use_key(keys, secret, source)
        return found

    @classmethod
    def check_place(cls) -> None:
        sign_in()

    @classmethod
    def put_key(cls, key: Content) -> str:
        client = sign_in()
        doing = "uploading the key to Kaggle"
        try:
            with tempfile.TemporaryDirectory(prefix="kaggleops-key-") as folder:
                write_private(Path(folder, KEY_FILE), json.dumps(key))
                made, into = client.has_dataset(doing, DATASET), Path(folder)
                client.put_dataset(doing, DATASET, into, "A new key", exists=made, keep_old=False)
        except OSError as error:
            raise KaggleOpsError(doing, str(error)) from None
        return f"the private dataset {client.user}/{DATASET}"

    @classmethod
    def delete_key(cls) -> None:
        client = sign_in()
        doing = "deleting the key's dataset at Kaggle"
        if client.has_dataset(doing, DATASET):
            client.quietly(
                doing, lambda: client.dataset_delete(client.user, DATASET, no_confirm=True)
            )

    @classmethod
    def next_step(cls, keys: Keys) -> str:
        return f"Add {DATASET} to a notebook's data; pushed ones name it in `dataset_sources`."


def _add_on(keys: Keys) -> str:
    # Its image hands this sign-in to every client of Cloud Storage's that is told of no other.
    return "Kaggle's Cloud Storage add-on" if add_on_is_on() else ""


def sign_in(**how: Any) -> "Client":
    """Return Kaggle's `Client` (client.py has `how`), signed in as the user of this machine.

    Raises UsageError if its package is missing or cannot make its folder, or nobody is signed in.
    """
    from kaggleops.platforms.kaggle.http import quiet

    try:
        # Where nobody is signed in, importing it prints a page.
        with quiet():
            from kaggleops.platforms.kaggle.client import Client
    except ModuleNotFoundError as error:
        hint = "Install it: pip install 'kaggleops[kaggle]'."
        raise UsageError("using Kaggle", f"{error.name} is not installed", hint) from None
    except OSError as error:
        problem = f"its client cannot make its folder ({error.strerror}: {error.filename})"
        hint = "Name one in KAGGLE_CONFIG_DIR."
        raise UsageError("using Kaggle", problem, hint) from None
    return Client(**how)
