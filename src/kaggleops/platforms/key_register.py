"""Which key was made for which platform: IAM's keys have no labels. No secret stands in it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from kaggleops.platforms.folders import state_folder, write_private


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
    file = _file()
    return [Made(**each) for each in json.loads(file.read_text())] if file.is_file() else []


def note(made: Made) -> None:
    """Take note of a key."""
    _write([*made_keys(), made])


def forget(key_id: str) -> None:
    """Take note that a key is gone."""
    _write([each for each in made_keys() if each.id != key_id])


def _write(keys: list[Made]) -> None:
    write_private(_file(), json.dumps([asdict(each) for each in keys], indent=1))


def _file() -> Path:
    return state_folder() / "credentials" / "keys.json"
