"""`kaggleops credentials`, `doctor` and `quota`."""

import json
import os
import sys
from contextlib import closing
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click
from rich.text import Text

from kaggleops.bucket.location import S3_KEY, SERVICES, bucket_uri, is_s3
from kaggleops.cli.options import bucket_of, bucket_option, json_option, project_folder
from kaggleops.cli.output import (
    err,
    exit_with,
    out,
    print_json,
    print_rows,
    print_table,
    stdout_for_json,
)
from kaggleops.cli.submission import backend_option
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
@bucket_option
@_from_option
@json_option
def create_command(
    platform: str, account: str | None, bucket: str | None, file: TextIO | None, as_json: bool
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
    _put_new(platform, _owner(account, bucket), file, as_json)


@credentials_command.command("rotate")
@click.argument("platform", type=PLATFORMS)
@_account_option
@bucket_option
@_from_option
@json_option
def rotate_command(
    platform: str, account: str | None, bucket: str | None, file: TextIO | None, as_json: bool
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
    _put_new(platform, owner, file, as_json)
    for each in old:
        err.print(Text(_delete(each.id, each.account)))


@credentials_command.command("list")
@_account_option
@bucket_option
@json_option
def list_command(account: str | None, bucket: str | None, as_json: bool) -> None:
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
    if as_json:
        print_json(account=owner, keys=rows)
        return
    for row in rows:
        out.print(f"{row['id']}  {row['created']}  {row['platform']:<7} {row['where']}")
    if not rows:
        out.print(f"{owner} has no keys.")


@credentials_command.command("revoke")
@click.argument("name", metavar="PLATFORM|KEY")
@_account_option
@bucket_option
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
        out.print(Text(_delete(key_id, owner)))
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


def _put_new(platform: str, owner: str, file: TextIO | None, as_json: bool) -> None:
    from kaggleops.platforms.keys import Made, note

    place, keys = WITH_KEYS[platform], keys_of(owner)
    if file and not keys.steps:
        problem = f"{owner} gets a new one, none is taken"
        raise UsageError(f"creating a key for {platform}", problem, "Leave --from out.")
    place.check_place()
    key_id, content = keys.create(lambda: _given(keys.steps, file))
    if too_much := keys.can_too_much(content):
        err.print(Text(f"! The key can do more than a runner needs: {', '.join(too_much)}."))
    try:
        where = place.put_key(content)
    except BaseException:
        keys.delete(key_id)  # nobody has it, and an account can have ten
        raise
    note(Made(key_id, owner, platform, where))
    next_step = place.next_step(keys)
    if as_json:
        print_json(id=key_id, account=owner, platform=platform, where=where, can_too_much=too_much)
        return
    print_rows(("Key", key_id), ("Account", owner), ("Where", where), ("Next", next_step))


def _given(steps: str, file: TextIO | None) -> str:
    """Return the text of a key that somebody made; it is in no command line."""
    if file:
        return file.read()
    if given := os.environ.get(SECRET):
        return given
    err.print(Text(f"{steps}\n"))
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
@bucket_option
@click.option(
    "--try",
    "service",
    type=click.Choice(TRIED),
    help="Run a small real job there, and check what is assumed of the service.",
)
@click.option("--yes", is_flag=True, help="Do not ask before --try makes anything.")
@json_option
def doctor_command(bucket: str | None, service: str | None, yes: bool, as_json: bool) -> None:
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
        _try(service, bucket_of(bucket), yes, as_json)
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
            if not as_json:
                _show(finding, 11)
    if as_json:
        print_json(findings=[asdict(each) for each in found])
    if any(each.verdict == "error" for each in found):
        sys.exit(1)


def _show(finding: "Finding", width: int) -> None:
    line = f"{_MARKS[finding.verdict]} {finding.about:<{width}} {finding.said}"
    out.print(Text(line, style=_STYLES[finding.verdict]))
    if finding.hint and finding.verdict != "ok":
        out.print(Text(f"  {'':<{width}} {finding.hint}"))


def _try(service: str, bucket: str, yes: bool, as_json: bool) -> None:
    """Try a service with a job of the person's own, once they have said yes."""
    from kaggleops.first_contact.assumption import Line
    from kaggleops.first_contact.services import plan, written
    from kaggleops.git.commits import repository_around

    planned = plan(service, bucket, repository_around(Path.cwd()) or Path())
    err.print(Text(f"This {planned.costs}."))
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"trying {service}", "nobody is at a terminal", "Add --yes.")
        click.confirm("Go on?", abort=True, err=True)
    lines: list[Line] = []
    found: list[Finding] = []
    with (
        stdout_for_json(as_json),
        closing(planned.lines()) as trial,
        err.status(f"Trying {service}"),
    ):
        for each in trial:
            lines += [each] if isinstance(each, Line) else []
            found.append(each.finding if isinstance(each, Line) else each)
            if not as_json:
                _show(found[-1], 26)
    report = written(planned, lines, found[-1].said if planned.makes else "nothing was made")
    if as_json:
        print_json(assumptions=[asdict(each) for each in lines], report=str(report))
    else:
        print_rows(("Report", str(report)))
    if any(each.verdict == "error" for each in found):
        sys.exit(1)


@click.command("quota")
@backend_option
@json_option
def quota_command(backend: str | None, as_json: bool) -> None:
    """Show the hours or compute units left on each platform.

    And prices where there is no quota, and how to set up what is not set up.

    \b
    Example:
      kaggleops quota -b kaggle
    """
    from kaggleops.backends.lookup import backend_named, names

    folder = project_folder()
    quotas, prices, lines = [], [], []
    told: dict[str, list[dict[str, Any]]] = {each: [] for each in ("quotas", "prices", "machines")}
    told |= {"units": [], "not_set_up": []}
    problems: list[KaggleOpsError] = []
    with err.status("Asking the platforms"):
        for name in [backend] if backend else sorted(names(), key=lambda each: each != "kaggle"):
            try:
                asked = backend_named(name)
                for each in asked.quota():
                    told["quotas"].append(
                        asdict(each)
                        | {"left_hours": each.left_hours}
                        | {"refreshes": each.refreshes.isoformat() if each.refreshes else None}
                    )
                    hours = (f"{each.left_hours:.1f} h", f"{each.total_hours:.0f} h")
                    until = f"{each.refreshes:%Y-%m-%d %H:%M} UTC" if each.refreshes else ""
                    quotas.append([name, each.resource, *hours, until])
                for price in asked.prices():
                    told["prices"].append(asdict(price))
                    cells = (price.resource, f"${price.per_hour:.2f}", price.free or "none")
                    prices.append([name, *cells])
                if there := asked.machines():
                    told["machines"].append(asdict(there))
                    lines.append(f"{name}: {there}")
                if units := asked.units(asked.config_of(folder)):
                    told["units"].append(asdict(units))
                    lines.append(f"{name}: {units}")
            except UsageError as error:
                if backend:
                    raise
                why = {"problem": error.problem, "hint": error.hint}
                told["not_set_up"].append({"backend": name, **why})
            except KaggleOpsError as error:
                if backend:
                    raise
                problems.append(error)
    nothing = not (quotas or prices or told["units"])
    if as_json:
        print_json(**told, problems=[str(each) for each in problems])
        exit_with(problems if nothing else ())
        return
    if quotas:
        print_table(["Backend", "", "Left", "Of", "Resets"], quotas)
    if prices:
        print_table(["Backend", "", "An hour", "Free"], prices)
    for line in lines:
        out.print(line)
    if backend and nothing:
        out.print(f"{backend} has no quota.")
    if missing := told["not_set_up"]:
        out.print()
    width = max((len(each["backend"]) for each in missing), default=0)
    for lacking in missing:
        out.print(f"{lacking['backend']:<{width}}  not set up: {lacking['problem']}")
        out.print(f"{'':<{width}}  {lacking['hint']}")
    exit_with(problems if nothing else ())
    for problem in problems:
        err.print(f"skipped: {problem}", style="yellow")
