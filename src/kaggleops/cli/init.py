"""`kaggleops init`."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.text import Text

from kaggleops.bucket.location import bucket_uri, is_remote, name_and_prefix
from kaggleops.cli.options import bucket_at, json_option, repository_option
from kaggleops.cli.output import err, out, print_json, stdout_for_json
from kaggleops.cli.platforms import PLATFORMS, create_command
from kaggleops.cli.run import run_command
from kaggleops.errors import UsageError
from kaggleops.layout import MLRUNS
from kaggleops.platforms.settings import (
    check_settings,
    default_bucket,
    keep_settings,
    local_setting,
)

if TYPE_CHECKING:
    from kaggleops.cli.adopt import Script
    from kaggleops.git.commits import Commit
    from kaggleops.platforms.cloud import Step

_SMOKE = "config/experiment/smoke.yaml"  # a quick experiment for a test run, if there is one


@click.command("init")
@repository_option
@click.option("--bucket", metavar="URI", help="gs://BUCKET, created if need be, or a folder.")
@click.option("--script", metavar="PATH", help="The training script. Default: train.py, …")
@click.option("--project", metavar="ID", help="The Google Cloud project for a new bucket.")
@click.option("--region", metavar="REGION", help="A new bucket's region. Default: us-central1.")
@click.option("--name", metavar="NAME", help="The name of new accounts. Default: kaggleops.")
@click.option("--platform", "platforms", type=PLATFORMS, multiple=True, help="Create its key.")
@click.option("--run", "test_run", is_flag=True, help="Make a test run at the end.")
@click.option("--yes", is_flag=True, help="Do not ask anything.")
@json_option
@click.pass_context
def init_command(
    context: click.Context,
    repository: Path,
    bucket: str | None,
    script: str | None,
    project: str | None,
    region: str | None,
    name: str | None,
    platforms: Sequence[str],
    test_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Set up this git repository as a project, and its bucket.

    Files are added beside the code and none is changed, and every step can be repeated: what exists
    stays as it is. Without --yes you see the commands for Google Cloud and confirm them first.

    \b
    Example:
      kaggleops init --bucket gs://my-bucket --platform kaggle
    """
    from kaggleops.git.commits import find_commit

    ask = not yes and sys.stdin.isatty()
    commit = find_commit(repository)
    root = commit.repository
    check_settings(root)
    place = bucket_uri(bucket or _asked_bucket(root, ask))
    # Before anything is created, so that problems with the repository come first.
    found, warnings = _script_to_adopt(commit, script)
    settings = {"bucket": place}
    with stdout_for_json(as_json):
        if is_remote(place):
            names = {"region": region, "name": name}
            named = {key: value for key, value in names.items() if value}
            settings |= _cloud(place, project, named, ask=not yes)
        keep_settings(root, settings)
        files = _write_files(commit, place, found)
        for warning in warnings:
            _said("!", warning)
        for platform in platforms:
            _give_key(context, platform, settings.get("runner") or local_setting(root, "runner"))
        if test_run or (ask and click.confirm("Make a test run now?", default=True, err=True)):
            _test_run(context, root, place)
    next_steps = _next_steps(files, bool(settings.get("runner")))
    if as_json:
        print_json(settings=settings, files=files, warnings=warnings, next=next_steps)
        return
    out.print("\nNext:")
    for step in next_steps:
        out.print(f"  {step}")


def _asked_bucket(root: Path, ask: bool) -> str:
    known = default_bucket(root)
    if ask:
        said = "Where should runs go: gs://BUCKET (created if need be), or a folder?"
        return str(click.prompt(said, default=known or str(root / "bucket"), err=True))
    if known is None:
        hint = "Add --bucket gs://BUCKET, which is created if need be, or --bucket FOLDER."
        raise UsageError("choosing a bucket", "none is named", hint)
    return known


# -- the cloud ----------------------------------------------------------------------------------


def _cloud(
    place: str, project: str | None, names: Mapping[str, str], *, ask: bool
) -> dict[str, str]:
    """Create the bucket and the runner's account, unless the bucket exists and no project is named.

    Args:
        place: the bucket's address.
        project: the Google Cloud project.
        names: the region and the name of the accounts, if they are given.
        ask: whether to ask for what is missing.
    """
    from kaggleops.bucket import BucketNotFoundError
    from kaggleops.platforms import detect
    from kaggleops.platforms.cloud import Place, gcloud_steps, what_it_lacks

    detect().sign_in(place)
    if project is None:
        try:
            next(bucket_at(place).list(f"{MLRUNS}/", recursive=False), None)
        except BucketNotFoundError:
            pass
        else:
            _said("✓", f"the bucket {place} exists; used as it is")
            return {}
    if project is None and ask and sys.stdin.isatty():
        project = click.prompt("Id of the Google Cloud project (created if need be)", err=True)
    if project is None:
        hint = "Add --project ID, of an existing project or a new one."
        raise UsageError(f"creating {place}", "no Google Cloud project is named", hint)
    bucket, prefix = name_and_prefix(place)
    wanted = Place(project, bucket, prefix=f"{prefix}/" if prefix else "", **names)
    lacks = what_it_lacks(wanted)
    if lacks:
        said = f"{wanted.uri} existed before, and keeps its settings. It lacks: "
        _said("!", said + ", ".join(lacks))
    _carry_out(gcloud_steps(wanted, foreign=lacks is not None), ask)
    return {"runner": wanted.runner}


def _carry_out(steps: "Sequence[Step]", ask: bool) -> None:
    from kaggleops.platforms.cloud import is_done, output_of

    left = []
    for step in steps:
        if is_done(step):
            _said("✓", f"{step.about} exists")
        else:
            left.append(step)
    for step in left:
        err.print(Text(f"  {step.line}"))
    if ask:
        click.confirm("Run these commands?", default=True, abort=True, err=True)
    for step in left:
        output_of(step.command, f"creating {step.about}", step.hint)
        _said("✓", step.about)


# -- the repository -----------------------------------------------------------------------------


def _script_to_adopt(commit: "Commit", named: str | None) -> "tuple[Script | None, list[str]]":
    """Return the training script of a repository that is no project yet, and what to warn of."""
    from kaggleops.cli.adopt import find_script, warnings_about

    if (commit.repository / "MLproject").is_file():
        return None, []
    script = find_script(commit.repository, named)
    return script, warnings_about(commit.repository, script)


def _write_files(commit: "Commit", place: str, script: "Script | None") -> list[str]:
    """Write what the repository lacks, and return the files that are new or changed."""
    from kaggleops.bucket import open_bucket
    from kaggleops.cli.adopt import adopt, ignore
    from kaggleops.mlruns.places import local_path

    root = commit.repository
    written = adopt(root, script, commit.origin, place) if script else []
    if ignore(root, local_path(open_bucket(place).artifact_uri)):
        written.append(".gitignore")
    for file in written:
        _said("✓", f"wrote {file}")
    return written


def _give_key(context: click.Context, platform: str, account: str | None) -> None:
    from kaggleops.platforms.keys import made_keys

    if any(each.platform == platform for each in made_keys()):
        _said("✓", f"{platform} has a key")
        return
    if account is None:
        hint = "Add --project ID to create one, or write `runner: EMAIL` into config/local.yaml."
        raise UsageError(f"creating a key for {platform}", "there is no runner account", hint)
    context.invoke(create_command, platform=platform, account=account, as_json=False)


def _test_run(context: click.Context, root: Path, place: str) -> None:
    context.invoke(
        run_command,
        overrides=("experiment=smoke",) if (root / _SMOKE).is_file() else (),
        bucket=place,
        version=None,
        experiment=None,
        repository=root,
        uncommitted=True,
        entry_point="main",
        backend=None,
        backend_config=None,
        as_json=False,
    )


def _next_steps(files: Sequence[str], has_runner: bool) -> list[str]:
    steps = []
    if files:
        steps.append(f"git add {' '.join(files)} && git commit -m 'Run with KaggleOps'")
    steps += ["kaggleops doctor", "kaggleops run"]
    if has_runner:
        steps.append("kaggleops credentials create kaggle && kaggleops run -b kaggle")
    return [*steps, "kaggleops ui"]


def _said(mark: str, text: str) -> None:
    err.print(Text(f"{mark} {text}"))
