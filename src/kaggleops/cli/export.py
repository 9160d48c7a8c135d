"""`kaggleops export`."""

import sys
from pathlib import Path

import click
from rich.progress import Progress

from kaggleops.cli.options import bucket_at, bucket_of, bucket_option, json_option
from kaggleops.cli.output import err, out, print_error, print_json


@click.command("export")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@bucket_option
@click.option("--artifacts", is_flag=True, help="Bring models, plots and checkpoints, too.")
@json_option
def export_command(folder: Path, bucket: str | None, artifacts: bool, as_json: bool) -> None:
    """Export the bucket's runs to DIR as a plain mlruns.

    For MLflow without KaggleOps. DIR has to be new or empty. For a copy that is a bucket itself,
    copy the objects: gcloud storage rsync -r gs://BUCKET DIR

    \b
    Example:
      kaggleops export plain-mlruns
    """
    from kaggleops.mlruns import EntityStore
    from kaggleops.mlruns.export import export

    place = bucket_of(bucket)
    store = EntityStore(bucket_at(place))
    store.check()
    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("Exporting", total=None)
        done = export(
            store,
            folder,
            artifacts=artifacts,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    show = f"MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {folder}"
    if as_json:
        print_json(
            folder=str(folder),
            entities=done.entities,
            artifacts=done.artifacts,
            show=show,
            problems=done.problems,
        )
    else:
        also = f" and {done.artifacts} artifacts" if artifacts else ""
        out.print(
            f"{folder} holds {done.entities} experiments, runs and models{also} of {place}.\n"
            f"Show it: {show}",
        )
    for problem in done.problems:
        print_error(problem)
    if done.problems:
        sys.exit(1)
