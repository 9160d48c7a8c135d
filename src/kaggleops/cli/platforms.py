"""`kaggleops credentials`, `doctor` and `quota`."""

import json
import os
import sys
from contextlib import closing
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from kaggleops.bucket.location import S3_KEY, SERVICES, bucket_uri, is_s3
from kaggleops.cli import options
from kaggleops.cli.output import (
    err,
    exit_with,
    out,
    print_json,
    print_rows,
    print_table,
    stdout_for_json,
)
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.platforms import WITH_KEYS, keys_of
from kaggleops.platforms.platform import SECRET

if TYPE_CHECKING:
    from kaggleops.backends.interface import Finding
    from kaggleops.platforms.keys import Made


PLATFORMS = click.Choice(list(WITH_KEYS))
TRIED = (*SERVICES, "kaggle", "runpod", "docker", "colab", "server")


_account_option = click.option(
    "--account",
    metavar="EMAIL",
    help="Google's service account of the runner. Default: `runner:` in config/local.yaml.",
)
_from_option = click.option(
    "--from",
    "file",
    type=click.File(),
    metavar="FILE",
    help="A file with the access key of an s3 bucket; - for the standard input. Default: "
    f"{SECRET} in the environment, else you are asked.",
)


@click.group("credentials")
def credentials_command() -> None:
    """Manage each platform's key for the bucket.

    A key can use the bucket and nothing else: for gs://, one of a service account, which is made
    here; for s3://, one that you make at the bucket's service, as the command says. No command
    prints a key.

    \b
    Example:
      kaggleops credentials create kaggle
    """


@credentials_command.command("create")
@click.argument("platform", type=PLATFORMS)
@_account_option
@options.bucket
@_from_option
@options.json
def create_command(
    platform: str, account: str | None, bucket: str | None, file: TextIO | None
) -> None:
    """Create a key and store it where a platform finds it.

    Of an s3 bucket you create it yourself, as is shown; it is tried on the bucket first.

    \b
    Example:
      kaggleops credentials create kaggle
    """
    if _made(platform):
        hint = f"Replace it: kaggleops credentials rotate {platform}"
        raise UsageError(f"creating a key for {platform}", "there is one already", hint)
    _put_new(platform, _owner(account, bucket), file)


@credentials_command.command("rotate")
@click.argument("platform", type=PLATFORMS)
@_account_option
@options.bucket
@_from_option
@options.json
def rotate_command(
    platform: str, account: str | None, bucket: str | None, file: TextIO | None
) -> None:
    """Replace a platform's key, and delete the old one.

    The old one of an s3 bucket you delete yourself, at the page that is named.

    \b
    Example:
      kaggleops credentials rotate kaggle
    """
    old = _made(platform)
    named = account or bucket
    owner = old[-1].account if old and not named else _owner(account, bucket)
    _put_new(platform, owner, file)
    for each in old:
        err.print(_delete(each.id, each.account))


@credentials_command.command("list")
@_account_option
@options.bucket
@options.json
def list_command(account: str | None, bucket: str | None) -> None:
    """List the keys, and what each is for.

    Of an s3 bucket, those that were put somewhere from this machine.

    \b
    Example:
      kaggleops credentials list
    """
    from kaggleops.platforms.keys import made_keys

    owner = _owner(account, bucket)
    known = {each.id: each for each in made_keys()}
    rows = [
        {
            "id": key.id,
            "created": key.created,
            "platform": known[key.id].platform if key.id in known else "",
            "where": known[key.id].where if key.id in known else "not made on this machine",
        }
        for key in keys_of(owner).listed()
    ]
    print_json(account=owner, keys=rows)
    for row in rows:
        out.print(f"{row['id']}  {row['created']}  {row['platform']:<7} {row['where']}")
    if not rows:
        out.print(f"{owner} has no keys.")


@credentials_command.command("revoke")
@click.argument("name", metavar="PLATFORM|KEY")
@_account_option
@options.bucket
def revoke_command(name: str, account: str | None, bucket: str | None) -> None:
    """Delete a platform's keys, or one key by its id.

    A platform's keys are also removed from where it finds them. At the service of an s3 bucket you
    delete them yourself, at the page that is named.

    \b
    Example:
      kaggleops credentials revoke kaggle
    """
    found = _made(name)
    if name in WITH_KEYS and not found:
        hint = "Name a key by its id: `kaggleops credentials list` shows all."
        raise UsageError(f"revoking {name}'s key", "none was made on this machine", hint)
    ids = {each.id: each.account for each in found}
    if not ids:
        ids = {name: (owner := _owner(account, bucket))}
        if not any(key.id == name for key in keys_of(owner).listed()):
            raise UsageError(f"revoking {name}", f"{owner} has no such key")
    # At the service first: then no copy of it works anywhere.
    for key_id, owner in ids.items():
        out.print(_delete(key_id, owner))
    for platform in {each.platform for each in found}:
        if not _made(platform):
            WITH_KEYS[platform].delete_key()


def _made(name: str) -> "list[Made]":
    """Return the keys that this machine has put somewhere: of a platform, or of an id."""
    from kaggleops.platforms.keys import made_keys

    return [each for each in made_keys() if name in (each.platform, each.id)]


def _delete(key_id: str, owner: str) -> str:
    """Delete a key, and return what became of it."""
    from kaggleops.platforms.keys import forget

    left = keys_of(owner).delete(key_id)
    forget(key_id)
    return left or f"Deleted key {key_id} of {owner}."


def _put_new(platform: str, owner: str, file: TextIO | None) -> None:
    from kaggleops.platforms.keys import Made, note

    place, keys = WITH_KEYS[platform], keys_of(owner)
    if file and not keys.steps:
        problem = f"{owner} gets a new one, none is taken"
        raise UsageError(f"creating a key for {platform}", problem, "Leave --from out.")
    place.check_place()
    key_id, content = keys.create(lambda: _given(keys.steps, file))
    if too_much := keys.can_too_much(content):
        err.print(f"! The key can do more than a runner needs: {', '.join(too_much)}.")
    try:
        where = place.put_key(content)
    except BaseException:
        keys.delete(key_id)  # nobody has it, and an account can have ten
        raise
    note(Made(key_id, owner, platform, where))
    next_step = place.next_step(keys)
    print_json(id=key_id, account=owner, platform=platform, where=where, can_too_much=too_much)
    print_rows(("Key", key_id), ("Account", owner), ("Where", where), ("Next", next_step))


def _given(steps: str, file: TextIO | None) -> str:
    """Return the text of a key that somebody made; it is in no command line."""
    if file:
        return file.read()
    if given := os.environ.get(SECRET):
        return given
    err.print(f"{steps}\n")
    if not sys.stdin.isatty():
        hint = f"Pass it on: --from FILE, or {SECRET} in the environment."
        raise UsageError("asking for the key", "nobody is at a terminal", hint)
    key_id = click.prompt("Access key id", err=True)
    secret = click.prompt("Secret access key (not shown)", hide_input=True, err=True)
    return json.dumps({"type": S3_KEY, "access_key_id": key_id, "secret_access_key": secret})


def _owner(account: str | None, bucket: str | None) -> str:
    """Return whose keys are meant; see `kaggleops.platforms.keys.Keys`."""
    from kaggleops.platforms.settings import default_bucket, local_setting

    found = None if account else bucket or default_bucket(Path())
    if found and is_s3(found):
        return bucket_uri(found)
    if runner := account or local_setting(Path(), "runner"):
        return runner
    hint = "Add --account EMAIL, or write `runner: …` into config/local.yaml."
    raise UsageError("choosing the runner's account", "none is named", hint)


_MARKS = {"ok": "✓", "warning": "!", "error": "✗", "skipped": "-"}
_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red", "skipped": "dim"}


@click.command("doctor")
@options.bucket
@click.option(
    "--try",
    "service",
    type=click.Choice(TRIED),
    help="Run a small real job there, and check what is assumed of the service.",
)
@click.option("--yes", is_flag=True, help="Do not ask before --try makes anything.")
@options.json
def doctor_command(bucket: str | None, service: str | None, yes: bool) -> None:
    """Check that everything a run needs is set up.

    One line each, with how to fix it. The exit code is 1 if something is wrong.

    With --try, a small job of your own account finds out whether a service is as this program
    assumes. It says what that costs, asks, deletes all that it made, and writes a report.

    \b
    Example:
      kaggleops doctor --bucket gs://my-bucket
      kaggleops doctor --try kaggle
    """
    if service:
        _try(service, options.bucket_of(bucket), yes)
        return
    from kaggleops.campaign import notices
    from kaggleops.reports.doctor import asked, examine, examine_platforms
    from kaggleops.server.tunnel import examine_server

    checks = chain(
        examine(bucket, Path()),
        examine_platforms(Path()),
        asked("server", lambda: examine_server(Path())),
        asked("notices", notices.examine),
    )
    found: list[Finding] = []
    with err.status("Checking"):
        for finding in checks:
            if finding.verdict == "error" and finding.said in [each.said for each in found]:
                continue  # the same cause again, such as unreadable settings
            found.append(finding)
            _show(finding, 11)
    print_json(findings=[asdict(each) for each in found])
    if any(each.verdict == "error" for each in found):
        sys.exit(1)


def _show(finding: "Finding", width: int) -> None:
    line = f"{_MARKS[finding.verdict]} {finding.about:<{width}} {finding.said}"
    out.print(line, style=_STYLES[finding.verdict])
    if finding.hint and finding.verdict != "ok":
        out.print(f"  {'':<{width}} {finding.hint}")


def _try(service: str, bucket: str, yes: bool) -> None:
    """Try a service with a job of the person's own, once they have said yes."""
    from kaggleops.first_contact.assumption import Line
    from kaggleops.first_contact.services import plan, written
    from kaggleops.git.commits import repository_around

    planned = plan(service, bucket, repository_around(Path.cwd()) or Path())
    err.print(f"This {planned.costs}.")
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"trying {service}", "nobody is at a terminal", "Add --yes.")
        click.confirm("Go on?", abort=True, err=True)
    lines: list[Line] = []
    found: list[Finding] = []
    with (
        stdout_for_json(),
        closing(planned.lines()) as trial,
        err.status(f"Trying {service}"),
    ):
        for each in trial:
            lines += [each] if isinstance(each, Line) else []
            found.append(each.finding if isinstance(each, Line) else each)
            _show(found[-1], 26)
    report = written(planned, lines, found[-1].said if planned.makes else "nothing was made")
    print_json(assumptions=[asdict(each) for each in lines], report=str(report))
    print_rows(("Report", str(report)))
    if any(each.verdict == "error" for each in found):
        sys.exit(1)


@click.command("quota")
@options.backend
@options.json
def quota_command(backend: str | None) -> None:
    """Show the hours or compute units left on each platform.

    And prices where there is no quota, and how to set up what is not set up.

    \b
    Example:
      kaggleops quota -b kaggle
    """
    from kaggleops.backends.lookup import backend_named, names

    folder = options.project_folder()
    quotas, prices, machines, units = [], [], [], []
    missing: list[dict[str, str]] = []
    problems: list[KaggleOpsError] = []
    with err.status("Asking the platforms"):
        for name in [backend] if backend else sorted(names(), key=lambda each: each != "kaggle"):
            try:
                asked = backend_named(name)
                quotas += [(name, each) for each in asked.quota()]
                prices += [(name, each) for each in asked.prices()]
                machines += [(name, there)] if (there := asked.machines()) else []
                left = asked.units(asked.config_of(folder))
                units += [(name, left)] if left else []
            except KaggleOpsError as error:
                if backend:
                    raise
                if isinstance(error, UsageError):
                    why = {"problem": error.problem, "hint": error.hint}
                    missing.append({"backend": name, **why})
                else:
                    problems.append(error)
    print_json(
        quotas=[
            asdict(each)
            | {"left_hours": each.left_hours}
            | {"refreshes": each.refreshes.isoformat() if each.refreshes else None}
            for _, each in quotas
        ],
        prices=[asdict(each) for _, each in prices],
        machines=[asdict(each) for _, each in machines],
        units=[asdict(each) for _, each in units],
        not_set_up=missing,
        problems=[str(each) for each in problems],
    )
    if quotas:
        rows = [
            [
                *(name, each.resource, f"{each.left_hours:.1f} h", f"{each.total_hours:.0f} h"),
                f"{each.refreshes:%Y-%m-%d %H:%M} UTC" if each.refreshes else "",
            ]
            for name, each in quotas
        ]
        print_table(["Backend", "", "Left", "Of", "Resets"], rows)
    if prices:
        rows = [
            [name, each.resource, f"${each.per_hour:.2f}", each.free or "none"]
            for name, each in prices
        ]
        print_table(["Backend", "", "An hour", "Free"], rows)
    for name, said in [*machines, *units]:
        out.print(f"{name}: {said}")
    nothing = not (quotas or prices or units)
    if backend and nothing:
        out.print(f"{backend} has no quota.")
    if missing:
        out.print()
    width = max((len(each["backend"]) for each in missing), default=0)
    for lacking in missing:
        out.print(f"{lacking['backend']:<{width}}  not set up: {lacking['problem']}")
        out.print(f"{'':<{width}}  {lacking['hint']}")
    exit_with(problems if nothing else ())
    for problem in problems:
        err.print(f"skipped: {problem}", style="yellow")
