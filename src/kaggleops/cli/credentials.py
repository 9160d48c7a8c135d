"""`kaggleops credentials`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from kaggleops.cli.options import json_option
from kaggleops.cli.output import err, out, print_json, print_rows
from kaggleops.errors import UsageError

PLATFORMS = click.Choice(["kaggle", "runpod", "docker", "colab"])


def _account_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--account",
        metavar="EMAIL",
        help="The runner's service account. Default: `runner:` in config/local.yaml.",
    )(command)


@click.group("credentials")
def credentials_command() -> None:
    """Manage the keys with which each platform reaches the bucket.

    A key belongs to a service account that may use the bucket and nothing else. No command prints
    one.

    \b
    Example:
      kaggleops credentials create kaggle
    """


@credentials_command.command("create")
@click.argument("platform", type=PLATFORMS)
@_account_option
@json_option
def create_command(platform: str, account: str | None, as_json: bool) -> None:
    """Create a key and put it where a platform finds it."""
    from kaggleops.platforms.keys import made_keys

    if any(each.platform == platform for each in made_keys()):
        hint = f"Replace it: kaggleops credentials rotate {platform}"
        raise UsageError(f"creating a key for {platform}", "there is one already", hint)
    _put_new(platform, _account(account), as_json)


@credentials_command.command("rotate")
@click.argument("platform", type=PLATFORMS)
@_account_option
@json_option
def rotate_command(platform: str, account: str | None, as_json: bool) -> None:
    """Replace a platform's key, and delete the old one."""
    from kaggleops.platforms.keys import delete_key, forget, made_keys

    old = [each for each in made_keys() if each.platform == platform]
    _put_new(platform, account or (old[-1].account if old else _account(None)), as_json)
    for each in old:
        delete_key(each.account, each.id)
        forget(each.id)
        err.print(f"Deleted the old key {each.id}.")


@credentials_command.command("list")
@_account_option
@json_option
def list_command(account: str | None, as_json: bool) -> None:
    """List the keys that Google has, and what each is for."""
    from kaggleops.platforms.keys import keys_of, made_keys

    owner = _account(account)
    known = {each.id: each for each in made_keys()}
    rows = [
        {
            "id": key.id,
            "created": key.created,
            "platform": known[key.id].platform if key.id in known else "",
            "where": known[key.id].where if key.id in known else "not made on this machine",
        }
        for key in keys_of(owner)
    ]
    if as_json:
        print_json(account=owner, keys=rows)
        return
    for row in rows:
        line = f"{row['id']}  {row['created']}  {row['platform']:<7} {row['where']}"
        out.print(line)
    if not rows:
        out.print(f"{owner} has no keys.")


@credentials_command.command("revoke")
@click.argument("name", metavar="PLATFORM|KEY")
@_account_option
def revoke_command(name: str, account: str | None) -> None:
    """Delete a platform's keys, or one key by its id.

    A platform's keys are also removed from where it finds them.
    """
    from kaggleops.platforms.keys import PLACES, delete_key, forget, keys_of, made_keys

    found = [each for each in made_keys() if name in (each.platform, each.id)]
    if name in PLACES and not found:
        hint = "`kaggleops credentials list` shows all keys; name one by its id."
        raise UsageError(f"revoking {name}'s key", "none was made on this machine", hint)
    # At Google first: from then on it opens nothing, wherever a copy lies.
    ids = {each.id: each.account for each in found}
    if not ids:
        owner = _account(account)
        if not any(key.id == name for key in keys_of(owner)):
            raise UsageError(f"revoking {name}", f"{owner} has no such key")
        ids = {name: owner}
    for key_id, owner in ids.items():
        delete_key(owner, key_id)
        forget(key_id)
        out.print(f"Deleted key {key_id} of {owner}.")
    for platform in {each.platform for each in found}:
        if not any(each.platform == platform for each in made_keys()):
            PLACES[platform]().remove()


def _put_new(platform: str, account: str, as_json: bool) -> None:
    from kaggleops.platforms.keys import PLACES, Made, create_key, delete_key, note

    place = PLACES[platform]()
    key_id, content = create_key(account)
    try:
        where = place.put(content)
    except BaseException:
        delete_key(account, key_id)  # nobody has it, and an account may have ten
        raise
    note(Made(key_id, account, platform, where))
    if as_json:
        print_json(id=key_id, account=account, platform=platform, where=where)
        return
    print_rows(("Key", key_id), ("Account", account), ("Where", where), ("Next", place.next_step()))


def _account(named: str | None) -> str:
    from kaggleops.platforms.settings import local_setting

    if found := named or local_setting(Path(), "runner"):
        return found
    hint = "Add --account EMAIL, or write `runner: …` into config/local.yaml."
    raise UsageError("choosing the runner's account", "none is named", hint)
