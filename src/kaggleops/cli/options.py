"""Options that several commands share."""

import math
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from kaggleops.bucket import Bucket, open_bucket
from kaggleops.bucket.location import bucket_uri, local_path
from kaggleops.cli.output import err, want_json
from kaggleops.errors import UsageError
from kaggleops.git.command import GitError
from kaggleops.git.commits import repository_around
from kaggleops.git.own_files import leave_out
from kaggleops.platforms.settings import LOCAL, default_bucket, keep_settings
from kaggleops.redaction import redacted

_PATIENCE = 30.0  # seconds that a command retries an unreachable bucket: somebody is waiting

_UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


class Since(click.ParamType):
    """A moment, told by its age or its date: in seconds since the epoch."""

    name = "TIME"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return when that is."""
        if match := re.fullmatch(r"(\d{1,9}(?:\.\d+)?)([mhdw])", value):
            return time.time() - float(match[1]) * _UNITS[match[2]]
        try:
            return datetime.fromisoformat(value).astimezone().timestamp()
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time. Write 30m, 12h, 7d or 2026-11-30.", param, ctx)


class NumberRange(click.FloatRange):
    """A range of finite numbers: nan is in none."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


_BUCKET = "gs://…, s3://… or a folder. Default: MLFLOW_TRACKING_URI, then config/local.yaml."
bucket = click.option("--bucket", metavar="URI", help=_BUCKET)
place = click.option(
    "--bucket",
    "place",
    metavar="URI",
    callback=lambda _context, _parameter, named: bucket_of(named),
    help=_BUCKET,
)
"""The same; the command gets the address as `place`."""
version = click.option(
    "--version", metavar="COMMIT", help="A commit, branch or tag. Default: HEAD."
)
repository = click.option(
    "--repository",
    type=click.Path(path_type=Path),
    default=Path(),
    help="A folder in the git repository. Default: the current one.",
)
secrets = click.option(
    "--allow-secrets", is_flag=True, help="Send it even if it seems to contain secrets."
)
direction = click.option(
    "--lower-is-better/--higher-is-better",
    "lower_is_better",
    default=None,
    help="Whether a lower --metric is better. Default: guessed from the metric's name.",
)
json = click.option(
    "--json",
    is_flag=True,
    expose_value=False,
    callback=want_json,
    help="Print JSON instead of text.",
)
"""The command does not get it: see `output.print_json`."""


def complete_backend(_: click.Context, __: click.Parameter, begun: str) -> list[str]:
    """Return the names of backends that begin so, for the shell: it imports none of them."""
    known = entry_points(group="mlflow.project_backend")
    return sorted(each.name for each in known if each.name.startswith(begun))


backend = click.option(
    "-b",
    "--backend",
    metavar="NAME",
    shell_complete=complete_backend,
    help="kaggle, colab, runpod, skypilot, docker, local or manual.",
)
backend_config = click.option(
    "--backend-config",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="YAML or JSON. Default: the repository's config/backend/NAME.yaml, if there is one.",
)
budget = click.option(
    "--budget",
    metavar="DOLLARS",
    type=NumberRange(min=0, min_open=True),
    help="The most that the machine may cost. (runpod)",
)
keep = click.option(
    "--keep",
    is_flag=True,
    help="Keep the machine until its hours are over, to connect by SSH. (runpod)",
)
entry_point = click.option(
    "-e", "--entry-point", default="main", show_default=True, help="Of the MLproject file."
)


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those options that were given."""
    return {name: each for name, each in options.items() if each}


def in_a_folder(
    _context: click.Context, parameter: click.Parameter, file: Path | None
) -> Path | None:
    """Check at once that a file can be written (a callback): it is written after all the work.

    Raises UsageError if it cannot.
    """
    if file is not None:
        doing = f"reading {parameter.opts[0]}"
        if not file.parent.is_dir():
            raise UsageError(doing, f"there is no folder {file.parent}", "Create it first.")
        if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
            raise UsageError(doing, f"{file} cannot be written", "Name another file.")
    return file


def bucket_of(named: str | None, how: str = "Add --bucket gs://BUCKET (or a folder)") -> str:
    """Return the address of the bucket to use: the one named with `--bucket`, or the default.

    `how` says how to name one. Raises UsageError if there is none, or it is no bucket's address.
    """
    found = named or default_bucket(Path())
    if found is None:
        hint = f"{how}, or write `bucket: …` into config/local.yaml."
        raise UsageError("choosing a bucket", "none is named", hint)
    return bucket_uri(found)


def project_folder() -> Path:
    """Return the top folder of the repository around the working directory; that, without one."""
    with suppress(GitError):  # git is not installed
        return repository_around(Path.cwd()) or Path()
    return Path()


def bucket_for_runs(named: str | None, repository: Path) -> str:
    """Return the address of the bucket that the runs of a repository go to, as `bucket_of`.

    A bucket that is a folder in the repository, and its `config/local.yaml`, are in nobody's way:
    git leaves them out.
    """
    root = repository_around(repository.absolute()) if repository.is_dir() else None
    if root:
        leave_out(root / LOCAL)
    return in_no_way(bucket_of(named or (default_bucket(root) if root else None)))


def in_no_way(place: str) -> str:
    """Return the address of a bucket that is to be written, which is made if need be.

    As a folder in a repository it is in nobody's way: git leaves it out.
    """
    if folder := local_path(bucket_at(place).artifact_uri):
        leave_out(folder)
    return place


def remember(place: str, repository: Path) -> None:
    """Keep the first bucket that is named for a repository, so that other commands there find it.

    Raises BucketError for one in a service that does not answer or has none of that name.
    """
    if not (repository / ".git").exists() or default_bucket(repository):
        return
    from kaggleops.mlruns import EntityStore

    bucket = bucket_at(place)
    folder = local_path(bucket.artifact_uri)
    if folder is None:
        EntityStore(bucket).check()
    if folder is None or not folder.is_file():
        with suppress(OSError):
            keep_settings(repository, {"bucket": place})
            leave_out(repository / LOCAL)
            err.print(f"        remembered in {LOCAL}")


def bucket_flag(place: str) -> str:
    """Return what a command typed here needs to use a bucket: "" for the one it uses anyway."""
    with suppress(UsageError):  # MLFLOW_TRACKING_URI may name a server, and --bucket was given
        if (known := default_bucket(Path())) and bucket_uri(known) == place:
            return ""
    return f" --bucket {place}"


def bucket_at(place: str) -> Bucket:
    """Open the bucket at an address, for a command that somebody is waiting for.

    Raises UsageError if it is no such address.
    """
    return open_bucket(place, patience=_PATIENCE)


def _index_at(context: click.Context, parameter: click.Parameter, named: str | None) -> str | None:
    from kaggleops.server.settings import index_at

    if not named:
        return None
    typed = context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    if typed and redacted(named) != named:
        raise UsageError(
            "reading --index",
            "everybody on this machine can see a password in a command line",
            "Put the address into the variable KAGGLEOPS_INDEX, or the password into ~/.pgpass.",
        )
    url = index_at(named)
    _, is_file, file = url.partition("?")[0].partition("sqlite:///")
    if is_file and file and not Path(file).exists():  # one that is made in a repository
        for suffix in ("", ".turn", "-wal", "-shm"):
            leave_out(Path(file + suffix))
    return url


index = click.option(
    "--index",
    envvar="KAGGLEOPS_INDEX",
    metavar="URL",
    callback=_index_at,
    help="sqlite:////FOLDER/index.db or postgresql://HOST/NAME. Default: a file in this user's "
    "home. Put a URL with a password into the variable KAGGLEOPS_INDEX instead.",
)
"""The database of the index. The command gets its URL as the driver takes it, or None."""
