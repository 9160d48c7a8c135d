"""Options that several commands share."""

import math
import os
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from kaggleops.bucket import Bucket, open_bucket
from kaggleops.bucket.location import bucket_uri
from kaggleops.errors import UsageError
from kaggleops.platforms.settings import default_bucket
from kaggleops.redaction import redacted

_PATIENCE = 30.0  # seconds that a command retries an unreachable bucket: somebody is waiting

bucket_option = click.option(
    "--bucket",
    metavar="URI",
    help="gs://BUCKET[/PREFIX] or a folder. Default: MLFLOW_TRACKING_URI, then config/local.yaml.",
)
version_option = click.option(
    "--version", metavar="COMMIT", help="A commit, branch or tag. Default: HEAD."
)
repository_option = click.option(
    "--repository",
    type=click.Path(path_type=Path),
    default=Path(),
    help="A folder in the git repository. Default: the current one.",
)
secrets_option = click.option(
    "--allow-secrets", is_flag=True, help="Send it even if it seems to contain secrets."
)
direction_option = click.option(
    "--lower-is-better/--higher-is-better",
    "lower_is_better",
    default=None,
    help="Whether a lower --metric is better. Default: guessed from the metric's name.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


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


def in_a_folder(
    _context: click.Context, parameter: click.Parameter, file: Path | None
) -> Path | None:
    """Check at once that a file can be written (a callback): it is written after all the work."""
    if file is not None:
        doing = f"reading {parameter.opts[0]}"
        if not file.parent.is_dir():
            raise UsageError(doing, f"there is no folder {file.parent}", "Create it first.")
        if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
            raise UsageError(doing, f"{file} cannot be written", "Name another file.")
    return file


def bucket_of(named: str | None, how: str = "Add --bucket gs://BUCKET (or a folder)") -> str:
    """Return the address of the bucket to use: the one named, or the default.

    Args:
        named: the value of `--bucket`.
        how: how to name one, for the error.

    Raises:
        UsageError: there is none, or it is not a bucket's address.
    """
    found = named or default_bucket(Path())
    if found is None:
        hint = f"{how}, or write `bucket: …` into config/local.yaml."
        raise UsageError("choosing a bucket", "none is named", hint)
    return bucket_uri(found)


def bucket_at(place: str) -> Bucket:
    """Open the bucket at an address, for a command that somebody is waiting for."""
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
    return index_at(named)


index_option = click.option(
    "--index",
    envvar="KAGGLEOPS_INDEX",
    metavar="URL",
    callback=_index_at,
    help="sqlite:////FOLDER/index.db or postgresql://HOST/NAME. Default: a file in this user's "
    "home. Put a URL with a password into the variable KAGGLEOPS_INDEX instead.",
)
"""The database of the index. The command gets its URL as the driver takes it, or None."""
