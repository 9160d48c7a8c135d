"""`kaggleops credentials`.

`kaggleops doctor`.

`kaggleops quota`.
"""

import sys
from collections.abc import Callable
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from kaggleops.cli.options import bucket_option, json_option
from kaggleops.cli.output import err, out, print_json, print_rows
from kaggleops.errors import UsageError

if TYPE_CHECKING:
    from kaggleops.backends.interface import Finding
from typing import TYPE_CHECKING

from rich.table import Table

from kaggleops.cli.output import print_whole
from kaggleops.cli.submission import backend_option, read_backend_config
from kaggleops.errors import KaggleOpsError
from kaggleops.platforms import WITH_KEYS

if TYPE_CHECKING:
    from kaggleops.backends.interface import Machines, Price, Quota, Units


PLATFORMS = click.Choice(list(WITH_KEYS))


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
    from kaggleops.platforms.keys import delete_key, forget, keys_of, made_keys

    found = [each for each in made_keys() if name in (each.platform, each.id)]
    if name in WITH_KEYS and not found:
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
            WITH_KEYS[platform].delete_key()


def _put_new(platform: str, account: str, as_json: bool) -> None:
    from kaggleops.platforms.keys import Made, create_key, delete_key, note

    place = WITH_KEYS[platform]
    key_id, content = create_key(account)
    try:
        where = place.put_key(content)
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


_MARKS = {"ok": "✓", "warning": "!", "error": "✗", "skipped": "-"}
_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red", "skipped": "dim"}


@click.command("doctor")
@bucket_option
@json_option
def doctor_command(bucket: str | None, as_json: bool) -> None:
    """Check that everything a run needs is set up.

    One line each, with what to do. The exit code is 1 if something is wrong.

    \b
    Example:
      kaggleops doctor --bucket gs://my-bucket
    """
    from kaggleops.reports.doctor import asked, examine, examine_platforms
    from kaggleops.server.doctor import examine_server

    looks = chain(
        examine(bucket, Path()),
        examine_platforms(Path()),
        asked("server", lambda: examine_server(Path())),
    )
    found: list[Finding] = []
    with err.status("Looking"):
        for finding in looks:
            if finding.verdict == "error" and finding.said in [each.said for each in found]:
                continue  # one cause, as settings that nobody can read
            found.append(finding)
            if not as_json:
                style = _STYLES[finding.verdict]
                line = f"{_MARKS[finding.verdict]} {finding.about:<11} {finding.said}"
                out.print(Text(line, style=style))
                if finding.hint and finding.verdict != "ok":
                    out.print(Text(f"  {'':<11} {finding.hint}"))
    if as_json:
        print_json(findings=[asdict(each) for each in found])
    if any(each.verdict == "error" for each in found):
        sys.exit(1)


@click.command("quota")
@backend_option
@json_option
def quota_command(backend: str | None, as_json: bool) -> None:
    """Show the hours or compute units left on each platform.

    And what the others cost. A backend that is not named and cannot be asked (no credentials) is
    skipped with a message.

    \b
    Example:
      kaggleops quota -b kaggle
    """
    from kaggleops.backends.lookup import backend_named, names

    quotas: list[Quota] = []
    prices: list[Price] = []
    machines: list[Machines] = []
    units: list[Units] = []
    problems: list[KaggleOpsError] = []
    with err.status("Asking"):
        for name in [backend] if backend else names():
            try:
                asked = backend_named(name)
                quotas += asked.quota()
                prices += asked.prices()
                machines += filter(None, [asked.machines()])
                units += filter(None, [asked.units(read_backend_config(asked, None, Path(), {}))])
            except KaggleOpsError as error:
                if backend:
                    raise
                problems.append(error)
    if problems and not (quotas or prices or units):
        raise problems[0]
    if as_json:
        rows = [_as_row(each) for each in quotas]
        print_json(
            quotas=rows,
            prices=[asdict(each) for each in prices],
            machines=[asdict(each) for each in machines],
            units=[asdict(each) for each in units],
            problems=[str(each) for each in problems],
        )
        return
    if quotas:
        print_whole(_quota_table(quotas))
    if prices:
        print_whole(_price_table(prices))
    lines = [f"{each.backend}: {each}" for each in units]
    for line in lines + [f"{each.backend}: {each}" for each in machines]:
        out.print(line)
    if backend and not (quotas or prices or units):
        out.print(f"{backend}: nothing is counted here.")
    for problem in problems:
        err.print(f"passed over: {problem}", style="yellow")


def _as_row(quota: "Quota") -> dict[str, Any]:
    refreshes = quota.refreshes.isoformat() if quota.refreshes else None
    return asdict(quota) | {"left_hours": quota.left_hours, "refreshes": refreshes}


def _quota_table(quotas: "list[Quota]") -> Table:
    table = Table("Backend", "", "Left", "Of", "Refreshed", box=None, pad_edge=False)
    for each in quotas:
        style = "" if each.left_hours else "red"
        day = f"{each.refreshes:%Y-%m-%d %H:%M} UTC" if each.refreshes else ""
        left, total = f"{each.left_hours:.1f} h", f"{each.total_hours:.0f} h"
        table.add_row(each.backend, each.resource, left, total, day, style=style)
    return table


def _price_table(prices: "list[Price]") -> Table:
    table = Table("Backend", "", "An hour", "Free", box=None, pad_edge=False)
    for each in prices:
        style = "" if each.free else "dim"
        price = f"${each.per_hour:.2f}"
        table.add_row(each.backend, each.resource, price, each.free or "none", style=style)
    return table
