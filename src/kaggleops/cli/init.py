"""`kaggleops init`."""

import io
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import click

from kaggleops.bucket.location import bucket_uri, is_remote, is_s3, local_path, name_and_prefix
from kaggleops.cli import options
from kaggleops.cli.output import as_typed, err, out, print_json, stdout_for_json
from kaggleops.cli.platforms import PLATFORMS, create_command
from kaggleops.cli.run import run_command
from kaggleops.errors import UsageError
from kaggleops.layout import MLRUNS
from kaggleops.platforms.platform import SECRET
from kaggleops.platforms.settings import (
    check_settings,
    default_bucket,
    keep_settings,
    local_setting,
)

if TYPE_CHECKING:
    from kaggleops.bucket import Bucket
    from kaggleops.cli.adopt import Found
    from kaggleops.git.commits import Commit
    from kaggleops.platforms.cloud import Step

_SMOKE = "config/experiment/smoke.yaml"  # a quick experiment for a test run, if there is one


@click.command("init")
@options.repository
@click.option(
    "--bucket", metavar="URI", help="gs://BUCKET or s3://BUCKET, created if need be, or a folder."
)
@click.option("--endpoint", metavar="URL", help="The service that has an s3 bucket, if not Amazon.")
@click.option("--script", metavar="PATH", help="The training script. Default: train.py, …")
@click.option("--score", metavar="NAME", default="", help="The metric that is a run's score.")
@click.option("--project", metavar="ID", help="The Google Cloud project for a new bucket.")
@click.option("--region", metavar="REGION", help="A new bucket's region. Default: us-central1.")
@click.option("--name", metavar="NAME", help="The name of new accounts. Default: kaggleops.")
@click.option("--platform", "platforms", type=PLATFORMS, multiple=True, help="Create its key.")
@click.option("--container", is_flag=True, help="Add Kaggle's container, with Jupyter Lab.")
@click.option("--run", "test_run", is_flag=True, help="Make a test run at the end.")
@click.option("--yes", is_flag=True, help="Do not ask anything.")
@options.json
@click.pass_context
def init_command(
    context: click.Context,
    repository: Path,
    bucket: str | None,
    endpoint: str | None,
    script: str | None,
    score: str,
    project: str | None,
    region: str | None,
    name: str | None,
    platforms: Sequence[str],
    container: bool,
    test_run: bool,
    yes: bool,
) -> None:
    """Set up this git repository as a project, and its bucket.

    Files are added beside the code, an MLproject gets what it lacks, and every step can be
    repeated: what exists stays as it is. A folder `experiments/` gets an entry point a script.
    Without --yes you see the commands for Google Cloud and confirm them first.

    \b
    Example:
      kaggleops init --bucket gs://my-bucket --platform kaggle
      kaggleops init --bucket s3://my-bucket --endpoint https://ACCOUNT.r2.cloudflarestorage.com
    """
    from kaggleops.cli.adopt import START_CONTAINER, look, warnings_about
    from kaggleops.git.commits import find_commit, with_verb

    ask = not yes and sys.stdin.isatty()
    given = os.environ.get(SECRET, "")  # for a platform: signing in takes it out of there
    commit = find_commit(repository)
    root = commit.repository
    check_settings(root)
    place = _place(root, bucket, endpoint, region, ask=ask)
    # Before anything is created, so that problems with the repository come first.
    found = look(root, script, score)
    settings = {"bucket": place}
    with stdout_for_json():
        if is_s3(place):
            _service(place)
        elif is_remote(place):
            names = options.given({"region": region, "name": name})
            settings |= _cloud(place, project, names, ask=not yes)
        folder = _made_folder(place)
        # Only now that the bucket is there: what does not come so far changes no setting.
        if (before := local_setting(root, "bucket")) and not _is_at(before, place):
            _said("!", f"config/local.yaml named {before} until now: runs go to {place} instead")
        keep_settings(root, settings)
        files, left = _write_files(commit, place, folder, found, container)
        for each in left:
            _said("-", each)
        others = _not_ours(find_commit(root), files)
        warnings = warnings_about(root, found)
        if others:
            how = "Commit it or name it in .gitignore: until then runs need --uncommitted."
            warnings.append(f"{with_verb(others)} new or changed, and not committed. {how}")
        for warning in warnings:
            _said("!", warning)
        for platform in platforms:
            account = settings.get("runner") or local_setting(root, "runner")
            whose = {"bucket": place, "file": io.StringIO(given) if given else None}
            _give_key(context, platform, whose if is_s3(place) else {"account": account})
        if test_run or (ask and click.confirm("Make a test run now?", default=True, err=True)):
            overrides = ("trainer=fast", "experiment=smoke") if (root / _SMOKE).is_file() else ()
            run: dict[str, Any] = {"repository": root, "bucket": place, "uncommitted": True}
            context.invoke(run_command, overrides=overrides, **run)
    has_runner = bool(settings.get("runner")) or is_s3(place)
    next_steps = _next_steps(root, files, bool(others), has_runner)
    if container:
        next_steps.append(START_CONTAINER)
    done = {"settings": settings, "files": files, "left": left}
    print_json(**done, warnings=warnings, next=[as_typed(each) for each in next_steps])
    out.print("\nNext:")
    for step in next_steps:
        out.print(f"  {step}")


def _place(
    root: Path, bucket: str | None, endpoint: str | None, region: str | None, *, ask: bool
) -> str:
    """Return the bucket's address; one of Amazon's names its region, which no runner knows."""
    known = bucket or default_bucket(root)
    if ask and not bucket:
        said = "Where should runs go: gs://BUCKET, s3://BUCKET (created if need be), or a folder?"
        known = click.prompt(said, default=known or str(root / "bucket"), err=True)
    if known is None:
        hint = "Add --bucket gs://BUCKET (or s3://), created if need be, or --bucket FOLDER."
        raise UsageError("choosing a bucket", "none is named", hint)
    place = bucket_uri(known, endpoint=endpoint, region=region)
    if endpoint and not is_s3(place):
        hint = "Leave it out, or name s3://BUCKET."
        raise UsageError("reading --endpoint", f"{place} has none", hint)
    return place


# -- the cloud ----------------------------------------------------------------------------------


def _exists(bucket: "Bucket", place: str) -> bool:
    from kaggleops.bucket import BucketNotFoundError

    try:
        next(bucket.list(f"{MLRUNS}/", recursive=False), None)
    except BucketNotFoundError:
        return False
    _said("✓", f"the bucket {place} exists; used as it is")
    return True


def _service(place: str) -> None:
    """Create an s3 bucket unless it exists, and see that its service keeps what it promises."""
    from kaggleops.bucket.conditions import prove
    from kaggleops.platforms import detect
    from kaggleops.platforms.s3 import create_bucket, opened

    _said("✓", f"signed in: {detect().sign_in(place)}")
    bucket = opened(place)
    with err.status("Asking the service, for half a minute at most"):
        exists = _exists(bucket, place)
    if not exists:
        create_bucket(bucket)
        _said("✓", f"created the bucket {place}")
    prove(bucket)
    _said("✓", "its service honours conditional writes")


def _cloud(
    place: str, project: str | None, names: Mapping[str, str], *, ask: bool
) -> dict[str, str]:
    """Create the bucket and the runner's account, unless the bucket exists and no project is named.

    `names` are the region and the name of the accounts, if they are given; `ask` is whether to ask
    for what is missing.
    """
    from kaggleops.platforms import detect
    from kaggleops.platforms.cloud import Place, gcloud_steps, what_it_lacks

    detect().sign_in(place)
    if project is None and _exists(options.bucket_at(place), place):
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
        err.print(f"  {step.line}")
    if ask:
        click.confirm("Run these commands?", default=True, abort=True, err=True)
    for step in left:
        output_of(step.command, f"creating {step.about}", step.hint)
        _said("✓", step.about)


# -- the repository -----------------------------------------------------------------------------


def _not_ours(commit: "Commit", files: Sequence[str]) -> list[str]:
    """Return what is not committed, without the files that were just written."""
    ours = [*files, *(f"{folder}/" for each in files for folder in PurePosixPath(each).parents)]
    return [each for each in commit.uncommitted if each not in ours]


def _is_at(named: str, place: str) -> bool:
    """Tell whether a bucket, as it was named, is the one at an address."""
    with suppress(UsageError):
        return bucket_uri(named) == place
    return False


def _made_folder(place: str) -> Path | None:
    """Return the folder that is a bucket, made if need be; None for one elsewhere."""
    folder = local_path(options.bucket_at(place).artifact_uri)
    if folder and not folder.is_dir():
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise UsageError(f"creating the bucket {folder}", str(error.strerror)) from error
        _said("✓", f"created the bucket {place}")
    return folder


def _write_files(
    commit: "Commit", place: str, folder: Path | None, found: "Found", container: bool
) -> tuple[list[str], list[str]]:
    """Write what the repository lacks; return the files that are new or changed, and what stays."""
    from kaggleops.cli.adopt import adopt, ignore

    root = commit.repository
    files = [root / each for each in ("MLproject", ".gitignore")]
    before = [each.name for each in files if each.is_file() and each.stat().st_size]
    written, left = adopt(root, found, commit.origin, place, container=container)
    if ignore(root, folder, found.data):
        written.append(".gitignore")
    for file in written:
        _said("✓", f"{'added to' if file in before else 'wrote'} {file}")
    if "MLproject" in before and "MLproject" not in written:
        left.insert(0, f"MLproject {'' if left else 'lacks nothing, and '}stays as it is")
    return written, left


def _give_key(context: click.Context, platform: str, whose: Mapping[str, Any]) -> None:
    from kaggleops.platforms.keys import made_keys

    if any(each.platform == platform for each in made_keys()):
        _said("✓", f"{platform} has a key")
        return
    if not any(whose.values()):
        hint = "Add --project ID to create one, or write `runner: EMAIL` into config/local.yaml."
        raise UsageError(f"creating a key for {platform}", "there is no runner account", hint)
    context.invoke(create_command, platform=platform, **whose)


def _next_steps(root: Path, files: Sequence[str], others: bool, has_runner: bool) -> list[str]:
    from kaggleops.cli.adopt import first_run

    steps = []
    if files:
        steps.append(f"git add {' '.join(files)} && git commit -m 'Run with KaggleOps'")
    run = first_run(root)
    elsewhere = f"kaggleops credentials create kaggle && {run} -b kaggle"
    run += " --uncommitted" if others else ""
    steps += ["kaggleops doctor", run]
    if has_runner:
        steps.append(elsewhere)
    return [*steps, "kaggleops ui"]


def _said(mark: str, text: str) -> None:
    err.print(f"{mark} {text}")
