"""The runner's keys, which `gcloud` makes and deletes, and the list of those made here.

A key belongs to a service account that may do nothing but use the bucket. Which key is for which
platform stands in a list on this machine, without any secret: IAM's keys have no labels. Where a
platform finds its key, its class says (`kaggleops.platforms.platform`).
"""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kaggleops.platforms.cloud import CommandFailedError, output_of
from kaggleops.platforms.folders import state_folder, write_private


@dataclass(frozen=True)
class Key:
    """A key as IAM lists it: its id, and when it was made, as IAM writes it (RFC 3339)."""

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
    with tempfile.TemporaryDirectory(prefix="kaggleops-key-") as folder:
        file = Path(folder, "key.json")
        _gcloud("creating a key", account, "create", str(file))
        content: dict[str, Any] = json.loads(file.read_text())
        return content["private_key_id"], content


def keys_of(account: str) -> list[Key]:
    """Return the keys of a service account that people made, the oldest first; see `create_key`."""
    options = ("list", "--managed-by=user", "--format=json")
    found = json.loads(_gcloud("listing the keys", account, *options))
    keys = (Key(each["name"].rpartition("/")[2], each["validAfterTime"]) for each in found)
    return sorted(keys, key=lambda key: (key.created, key.id))


def delete_key(account: str, key_id: str) -> None:
    """Delete a key, unless it is gone already: whoever holds it is locked out; see `create_key`."""
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


@dataclass(frozen=True)
class Made:
    """A key that was made on this machine: of which account, for which platform, and put where."""

    id: str
    account: str
    platform: str
    where: str


def made_keys() -> list[Made]:
    """Return the keys made on this machine, in the order in which they were made."""
    file = _list()
    return [Made(**each) for each in json.loads(file.read_text())] if file.is_file() else []


def note(made: Made) -> None:
    """Add a key to the list."""
    _write([*made_keys(), made])


def forget(key_id: str) -> None:
    """Remove a key from the list."""
    _write([each for each in made_keys() if each.id != key_id])


def _write(keys: list[Made]) -> None:
    write_private(_list(), json.dumps([asdict(each) for each in keys], indent=1))


def _list() -> Path:
    return state_folder() / "credentials" / "keys.json"
