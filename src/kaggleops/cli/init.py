"""`kaggleops init`."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.text import Text

from kaggleops.bucket.location import bucket_uri, is_remote, name_and_prefix
from kaggleops.cli.options import bucket_at, json_option, repository_option
from kaggleops.cli.output import err, out, print_json, stdout_for_the_result
from kaggleops.cli.platforms import PLATFORMS, create_command
from kaggleops.cli.run import run_command
from kaggleops.errors import UsageError
from kaggleops.platforms.settings import (
    check_settings,
    default_bucket,
    keep_settings,
    local_setting,
)

if TYPE_CHECKING:
    from kaggleops.git.commits import Commit
    from kaggleops.platforms.cloud import Step

_SMOKE = "config/experiment/smoke.yaml"
"""Where a repository has an experiment that only shows that all works, as this project's has."""


@dataclass(frozen=True)
class _Cloud:
    """How a bucket that is not there yet is to be made: `names` has the region's and its own."""

    project: str | None
    names: Mapping[str, str]
    ask: bool


@click.command("init")
@repository_option
@click.option("--bucket", metavar="URI", help="gs://BUCKET, made if need be, or a folder.")
@click.option("--script", metavar="PATH", help="What starts the training. Default: train.py, …")
@click.option("--project", metavar="ID", help="The Google Cloud project of a new bucket.")
@click.option("--region", metavar="REGION", help="Of a new bucket. Default: us-central1.")
@click.option("--name", metavar="NAME", help="Of the accounts. Default: kaggleops.")
@click.option("--platform", "platforms", type=PLATFORMS, multiple=True, help="Give it a key.")
@click.option("--run", "test_run", is_flag=True, help="Make a test run in the end.")
@click.option("--yes", is_flag=True, help="Ask nothing.")
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

    Files are added beside the code, none is changed, and every step can be repeated: what is there
    already stays as it is. Without --yes the commands are shown, and you are asked before any is
    started.

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
    # Before anything is made, so that what is wrong with the repository is said first.
    adopting = _Adopting(commit, place, script)
    settings = {"bucket": place}
    with stdout_for_the_result() if as_json else nullcontext():
        if is_remote(place):
            names = {"region": region, "name": name}
            named = {key: value for key, value in names.items() if value}
            settings |= _cloud(place, _Cloud(project, named, not yes))
        keep_settings(root, settings)
        files = adopting.write()
        for platform in platforms:
            _give_key(context, platform, settings.get("runner") or local_setting(root, "runner"))
        if test_run or (ask and click.confirm("Make a test run now?", default=True, err=True)):
            _test_run(context, root, place)
    next_steps = _next_steps(files, bool(settings.get("runner")))
    if as_json:
        print_json(settings=settings, files=files, warnings=adopting.warnings, next=next_steps)
        return
    out.print("\nNext:")
    for step in next_steps:
        out.print(f"  {step}")


def _asked_bucket(root: Path, ask: bool) -> str:
    known = default_bucket(root)
    if ask:
        said = "Where do the runs go: gs://BUCKET (made if need be), or a folder?"
        return str(click.prompt(said, default=known or str(root / "bucket"), err=True))
    if known is None:
        hint = "Add --bucket gs://BUCKET, which is made if need be, or --bucket FOLDER."
        raise UsageError("choosing a bucket", "none is named", hint)
    return known


# -- the cloud ----------------------------------------------------------------------------------


def _cloud(place: str, how: _Cloud) -> dict[str, str]:
    """Make the bucket and the runner's account, unless the bucket is there and no project named."""
    from kaggleops.bucket import BucketNotFoundError
    from kaggleops.platforms import detect

    detect().sign_in(place)
    if how.project is None:
        try:
            next(bucket_at(place).list("mlruns/", recursive=False), None)
        except BucketNotFoundError:
            pass
        else:
            _said("✓", f"the bucket {place} is there; used as it is")
            return {}
    return _make(place, how)


def _make(place: str, how: _Cloud) -> dict[str, str]:
    project = how.project
    if project is None and how.ask and sys.stdin.isatty():
        project = click.prompt("Id of the Google Cloud project (made if need be)", err=True)
    if project is None:
        hint = "Add --project ID, of one that exists or of a new one."
        raise UsageError(f"making {place}", "no Google Cloud project is named", hint)
    from kaggleops.platforms.cloud import Place, gcloud_steps, what_it_lacks

    bucket, prefix = name_and_prefix(place)
    wanted = Place(project, bucket, prefix=f"{prefix}/" if prefix else "", **how.names)
    lacks = what_it_lacks(wanted)
    if lacks:
        said = f"{wanted.uri} was there before, and keeps its settings. It lacks: "
        _said("!", said + ", ".join(lacks))
    _carry_out(gcloud_steps(wanted, foreign=lacks is not None), how.ask)
    return {"runner": wanted.runner}


def _carry_out(steps: "Sequence[Step]", ask: bool) -> None:
    from kaggleops.platforms.cloud import is_done, output_of

    left = []
    for step in steps:
        if is_done(step):
            _said("✓", f"{step.about} is there")
        else:
            left.append(step)
    for step in left:
        err.print(Text(f"  {step.line}"))
    if ask:
        click.confirm("Start these commands?", default=True, abort=True, err=True)
    for step in left:
        output_of(step.command, f"making {step.about}", step.hint)
        _said("✓", step.about)


# -- the repository -----------------------------------------------------------------------------


class _Adopting:
    """What a repository lacks for being a project, found out first and written later."""

    def __init__(self, commit: "Commit", place: str, script: str | None) -> None:
        from kaggleops.cli.adopt import find_script, warnings_about

        self._commit = commit
        self._place = place
        self._script = None
        self.warnings: list[str] = []
        if not (commit.repository / "MLproject").is_file():
            self._script = find_script(commit.repository, script)
            self.warnings = warnings_about(commit.repository, self._script)

    def write(self) -> list[str]:
        """Write what is missing, and return the files that are new or changed."""
        from kaggleops.bucket import open_bucket
        from kaggleops.cli.adopt import adopt, ignore
        from kaggleops.mlruns.places import local_path

        root, written = self._commit.repository, []
        if self._script is not None:
            written = adopt(root, self._script, self._commit.origin, self._place)
        if ignore(root, local_path(open_bucket(self._place).artifact_uri)):
            written.append(".gitignore")
        for file in written:
            _said("✓", f"wrote {file}")
        for warning in self.warnings:
            _said("!", warning)
        return written


def _give_key(context: click.Context, platform: str, account: str | None) -> None:
    from kaggleops.platforms.keys import made_keys

    if any(each.platform == platform for each in made_keys()):
        _said("✓", f"{platform} has a key")
        return
    if account is None:
        hint = "Add --project ID, which makes one; or write `runner: EMAIL` into config/local.yaml."
        raise UsageError(f"making a key for {platform}", "there is no runner's account", hint)
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
