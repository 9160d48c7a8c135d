"""`kaggleops pull`."""

import sys
from pathlib import Path

import click
from rich.progress import Progress

from kaggleops.cli.options import bucket_at, bucket_of, bucket_option, json_option
from kaggleops.cli.output import err, out, print_error, print_json


@click.command("pull")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@bucket_option
@click.option("--unpack", is_flag=True, help="Make DIR a plain mlruns instead, for other tools.")
@click.option("--artifacts", is_flag=True, help="Bring models, plots and checkpoints, too.")
@json_option
def pull_command(
    folder: Path, bucket: str | None, unpack: bool, artifacts: bool, as_json: bool
) -> None:
    """Bring the bucket into the folder DIR.

    DIR becomes a bucket of its own, and pulling again brings what is new (what was deleted from
    the bucket stays in DIR). With --unpack, DIR becomes a file-store mlruns, once: DIR has to be
    new or empty.
    """
    from kaggleops.mlruns import EntityStore
    from kaggleops.mlruns.pulling import mirror, unpack_into

    place = bucket_of(bucket)
    store = EntityStore(bucket_at(place))
    store.check()
    bring = unpack_into if unpack else mirror
    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("Pulling", total=None)
        pulled = bring(
            store,
            folder,
            artifacts=artifacts,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    show = f"kaggleops ui --bucket {folder}"
    if unpack:
        show = f"MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {folder}"
    if as_json:
        print_json(
            folder=str(folder),
            entities=pulled.entities,
            fetched=pulled.fetched,
            artifacts=pulled.artifacts,
            show=show,
            problems=pulled.problems,
        )
    else:
        also = f" and {pulled.artifacts} artifacts" if artifacts else ""
        out.print(
            f"{folder} holds {pulled.entities} entities of {place}; "
            f"fetched {pulled.fetched}{also}.\nShow it: {show}",
        )
    for problem in pulled.problems:
        print_error(problem)
    if pulled.problems:
        sys.exit(1)
