"""`kaggleops import`."""

import sys

import click
from rich.progress import Progress

from kaggleops.cli.data_output import sized
from kaggleops.cli.options import bucket_at, bucket_of, bucket_option, json_option
from kaggleops.cli.output import err, out, print_error, print_json


@click.command("import")
@click.argument("source")
@bucket_option
@json_option
def import_command(source: str, bucket: str | None, as_json: bool) -> None:
    """Import an mlruns folder with its artifacts into the bucket.

    SOURCE is a folder, or an address such as gs://BUCKET/mlruns where each file is an object; the
    output of a notebook that logged without internet works too. Artifacts in another bucket are
    copied; what has to stay elsewhere is named. Importing again adds what is new, and undoes
    nothing that was changed in the bucket.

    \b
    Example:
      kaggleops import ./mlruns
    """
    from kaggleops.mlruns import EntityStore
    from kaggleops.mlruns.importing import import_into
    from kaggleops.mlruns.sources import opened

    place = bucket_of(bucket)
    store = EntityStore(bucket_at(place))
    with Progress(console=err, transient=True) as bar:
        reading = bar.add_task("Reading", total=None)
        with opened(
            source, lambda done, total: bar.update(reading, completed=done, total=total)
        ) as found:
            bar.remove_task(reading)
            importing = bar.add_task("Importing", total=None)
            imported = import_into(
                store,
                found,
                lambda done, total, artifacts, size: bar.update(
                    importing,
                    completed=done,
                    total=total,
                    description=f"Importing ({artifacts} artifacts, {sized(size)})",
                ),
            )
    if as_json:
        print_json(
            new=[str(entity_id) for entity_id in sorted(imported.new)],
            changed=[str(entity_id) for entity_id in sorted(imported.changed)],
            unchanged=imported.unchanged,
            artifacts=imported.artifacts,
            artifacts_size=imported.artifacts_size,
            problems=imported.problems,
        )
    else:
        out.print(
            f"{place}: {len(imported.new)} new, {len(imported.changed)} changed, "
            f"{imported.unchanged} there already; {imported.artifacts} artifacts copied "
            f"({sized(imported.artifacts_size)}).",
        )
    for problem in imported.problems:
        print_error(problem)
    if imported.problems:
        sys.exit(1)
