"""`kaggleops bundle`."""

from pathlib import Path

import click

from kaggleops.bucket.location import bucket_uri
from kaggleops.cli.options import (
    bucket_at,
    bucket_of,
    bucket_option,
    json_option,
    repository_option,
    secrets_option,
    version_option,
)
from kaggleops.cli.output import print_json, print_rows
from kaggleops.errors import UsageError


@click.command("bundle")
@bucket_option
@version_option
@repository_option
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write it into a folder instead, to upload it as a dataset.",
)
@secrets_option
@json_option
def bundle_command(
    bucket: str | None,
    version: str | None,
    repository: Path,
    folder: Path | None,
    allow_secrets: bool,
    as_json: bool,
) -> None:
    """Put a commit into the bucket for machines that cannot clone it.

    For private code, and for commits that are not pushed: a git bundle under the bucket's `code/`,
    where notebooks/run.ipynb finds it by the commit's hash.

    \b
    Example:
      kaggleops bundle --version my-branch
    """
    from kaggleops.git.bundles import key_of, send
    from kaggleops.git.checkouts import bundle
    from kaggleops.git.commits import find_commit

    place = bucket_of(bucket) if folder is None else ""
    commit = find_commit(repository, version)
    if commit.uncommitted and version is None:
        raise UsageError(
            f"bundling {commit.sha[:10]}",
            f"{commit.uncommitted} files are changed and not committed",
            "Commit them, or add --version HEAD to bundle the commit without them.",
        )
    if folder is None:
        key = send(commit, bucket_at(place), allow_secrets=allow_secrets)
        where = f"{bucket_uri(place)}/{key}"
    else:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / Path(key_of(commit.sha)).name
        where = str(bundle(commit, file, allow_secrets=allow_secrets))
    if as_json:
        print_json(commit=commit.sha, repository=commit.origin, bundle=where)
        return
    print_rows(
        ("Bundle", where),
        ("In the notebook", f'repository = "{commit.origin}"'),
        ("", f'version = "{commit.sha}"'),
    )
