"""`kaggleops copy`."""

import sys

import click
from rich.progress import Progress

from kaggleops.bucket.location import bucket_uri
from kaggleops.cli.options import bucket_at, bucket_of, bucket_option, json_option
from kaggleops.cli.output import err, out, print_error, print_json


@click.command("copy")
@click.argument("target", metavar="TARGET")
@bucket_option
@json_option
def copy_command(target: str, bucket: str | None, as_json: bool) -> None:
    """Copy the bucket, artifacts included, into the bucket TARGET, and verify the copy.

    To another project or region, or back from a folder that `kaggleops pull --artifacts` made. It
    can be repeated: what both have merges, and only what differs is copied.
    """
    from kaggleops.mlruns.copying import copy_bucket

    source, place = bucket_of(bucket), bucket_uri(target)
    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("Copying", total=None)
        copied = copy_bucket(
            bucket_at(source),
            bucket_at(place),
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        print_json(
            source=source,
            target=place,
            objects=copied.objects,
            copied=copied.copied,
            merged=copied.merged,
            copied_bytes=copied.copied_bytes,
            problems=copied.problems,
        )
    else:
        merged = f", {copied.merged} were merged" if copied.merged else ""
        out.print(
            f"{copied.copied} of {copied.objects} objects were copied to {place} "
            f"({copied.copied_bytes / 1e6:.1f} MB, every checksum verified){merged}.\n"
            f"Use it: write `bucket: {place}` into config/local.yaml. {source} is as it was.",
        )
    for problem in copied.problems:
        print_error(problem)
    if copied.problems:
        sys.exit(1)
