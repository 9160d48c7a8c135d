"""The runner's keys: made and deleted by `gcloud`, put where each platform looks for them.

A key belongs to a service account that may do nothing but use the bucket. On this machine it lies
only in private files, and in a private folder while it is made and uploaded. Which key is for which
platform stands in a list on this machine, without any secret: IAM's keys have no labels.
"""

import json
import shutil
import tempfile
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kaggleops.errors import KaggleOpsError
from kaggleops.platforms.cloud import CommandFailedError, output_of
from kaggleops.platforms.folders import state_folder, write_private
from kaggleops.platforms.kaggle import sign_in
from kaggleops.platforms.kaggle.quiet import quiet
from kaggleops.platforms.sign_in import KEY_FILE, SECRET

# -- at Google -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Key:
    """A key as IAM lists it, without its secret part.

    Args:
        id: its id.
        created: when it was made, as IAM writes it (RFC 3339).
    """

    id: str
    created: str


def create_key(account: str) -> tuple[str, dict[str, Any]]:
    """Make a key of a service account; return its id, and the content of its file.

    Args:
        account: the account's email address.

    Raises:
        UsageError: gcloud is not installed.
        CommandFailedError: it failed.
    """
    with _folder() as folder:
        _gcloud("creating a key", account, "create", str(folder / KEY_FILE))
        content: dict[str, Any] = json.loads((folder / KEY_FILE).read_text())
        return content["private_key_id"], content


def keys_of(account: str) -> list[Key]:
    """Return the keys of a service account that people made, the oldest first.

    Raises:
        UsageError: gcloud is not installed.
        CommandFailedError: it failed.
    """
    options = ("list", "--managed-by=user", "--format=json")
    found = json.loads(_gcloud("listing the keys", account, *options))
    keys = (Key(each["name"].rpartition("/")[2], each["validAfterTime"]) for each in found)
    return sorted(keys, key=lambda key: (key.created, key.id))


def delete_key(account: str, key_id: str) -> None:
    """Delete a key: whoever holds it is locked out. It is no error if it is gone already.

    Raises:
        UsageError: gcloud is not installed.
        CommandFailedError: it failed.
    """
    try:
        _gcloud(f"deleting key {key_id}", account, "delete", key_id, "--quiet")
    except CommandFailedError as error:
        if "NOT_FOUND" not in error.problem:
            raise


def _gcloud(what: str, account: str, *words: str) -> str:
    role = "roles/iam.serviceAccountKeyAdmin"
    command = ("gcloud", "iam", "service-accounts", "keys", *words, f"--iam-account={account}")
    hint = f"Is {account} the right account? You need the role {role} on it."
    return output_of(command, f"{what} of {account}", hint)


# -- on this machine -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """A key that was made on this machine.

    Args:
        id: the key's id.
        account: the service account's email address.
        platform: for which platform.
        where: where it was put.
    """

    id: str
    account: str
    platform: str
    where: str


def made_keys() -> list[Made]:
    """Return the keys made on this machine, in the order in which they were made."""
    file = _list()
    return [Made(**each) for each in json.loads(file.read_text())] if file.is_file() else []


def note(made: Made) -> None:
    """Take note of a key."""
    _write([*made_keys(), made])


def forget(key_id: str) -> None:
    """Take note that a key is gone."""
    _write([each for each in made_keys() if each.id != key_id])


def _write(keys: list[Made]) -> None:
    write_private(_list(), json.dumps([asdict(each) for each in keys], indent=1))


def _list() -> Path:
    return state_folder() / "credentials" / "keys.json"


# -- at each platform ----------------------------------------------------------------------------


class CredentialsError(KaggleOpsError):
    """A key could not be put where it belongs, or taken away."""


DATASET = "kaggleops-credentials"
"""The private dataset on Kaggle, of whoever signs in there."""


class KeyPlace(ABC):
    """Where one platform looks for the runner's key."""

    @abstractmethod
    def put(self, key: Mapping[str, Any]) -> str:
        """Put a key there in place of any other; return where that is, for people.

        Raises:
            CredentialsError: it could not be put there.
        """

    @abstractmethod
    def remove(self) -> None:
        """Take it away.

        Raises:
            CredentialsError: it could not be taken away.
        """

    def next_step(self) -> str:
        """Return what is left to do by hand; "" for nothing."""
        return ""


class File(KeyPlace):
    """A private file, to be mounted into a container."""

    def __init__(self, platform: str = "docker") -> None:
        self.path = state_folder() / "credentials" / platform / KEY_FILE

    def put(self, key: Mapping[str, Any]) -> str:
        """Put it there; see `KeyPlace.put`."""
        write_private(self.path, json.dumps(key))
        return str(self.path)

    def remove(self) -> None:
        """Take it away; see `KeyPlace.remove`."""
        self.path.unlink(missing_ok=True)

    def next_step(self) -> str:
        """Return what is left to do by hand."""
        variable = f"GOOGLE_APPLICATION_CREDENTIALS=/{KEY_FILE}"
        return f"docker run -v {self.path}:/{KEY_FILE}:ro -e {variable} …"


class ColabFile(File):
    """A private file, which `-b colab` uploads to each of its runtimes."""

    def __init__(self) -> None:
        super().__init__("colab")

    def next_step(self) -> str:
        """Return what is left to do by hand."""
        return "kaggleops run -b colab …"


class RunPodSecret(File):
    """A file to paste from: RunPod's API (v2) has no call for secrets."""

    def __init__(self) -> None:
        super().__init__("runpod")
        self.path = self.path.with_suffix(".base64")

    def put(self, key: Mapping[str, Any]) -> str:
        """Put it there; see `KeyPlace.put`."""
        # One line: an environment variable likes it better.
        write_private(self.path, b64encode(json.dumps(key).encode()).decode())
        return str(self.path)

    def next_step(self) -> str:
        """Return what is left to do by hand."""
        return (
            "Paste the file's text into a new secret `kaggleops_key` (RunPod console > Secrets), "
            f"and create pods with {SECRET} = {{{{ RUNPOD_SECRET_kaggleops_key }}}}."
        )


class KaggleDataset(KeyPlace):
    """A private dataset, found by notebooks that have it among their data sources."""

    def put(self, key: Mapping[str, Any]) -> str:
        """Put it there; see `KeyPlace.put`."""
        api = sign_in()
        reference = f"{api.user}/{DATASET}"
        metadata = {"id": reference, "title": DATASET, "licenses": [{"name": "other"}]}
        with _folder() as folder, _explained("uploading the key to Kaggle"):
            write_private(folder / KEY_FILE, json.dumps(key))
            (folder / "dataset-metadata.json").write_text(json.dumps(metadata))
            options = {"quiet": True, "convert_to_csv": False}
            if self._exists(api, reference):
                old = {"delete_old_versions": True}
                made = api.dataset_create_version(str(folder), "A new key", **options, **old)
            else:
                made = api.dataset_create_new(str(folder), public=False, **options)
            if getattr(made, "error", ""):  # a refusal comes as an answer like any other
                raise CredentialsError("uploading the key to Kaggle", made.error)
        return f"the private dataset {reference}"

    def remove(self) -> None:
        """Take it away; see `KeyPlace.remove`."""
        api = sign_in()
        with _explained("deleting the key's dataset at Kaggle"):
            if self._exists(api, f"{api.user}/{DATASET}"):
                api.dataset_delete(api.user, DATASET, no_confirm=True)

    def _exists(self, api: Any, reference: str) -> bool:
        found = api.dataset_list(mine=True, search=DATASET) or ()
        return any(each is not None and each.ref == reference for each in found)

    def next_step(self) -> str:
        """Return what is left to do by hand."""
        return f"Add {DATASET} to a notebook's data; pushed ones name it in `dataset_sources`."


PLACES: Mapping[str, type[KeyPlace]] = {
    "kaggle": KaggleDataset,
    "runpod": RunPodSecret,
    "docker": File,
    "colab": ColabFile,
}


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="kaggleops-key-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def _explained(doing: str) -> Iterator[None]:
    """Turn whatever Kaggle's client raises into one line; its own chatter goes nowhere."""
    from kaggleops.platforms.kaggle.http import explained

    try:
        with quiet(), explained(doing):
            yield
    except KaggleOpsError as error:
        raise CredentialsError(doing, error.problem, error.hint) from None
    except OSError as error:
        raise CredentialsError(doing, str(error)) from None
