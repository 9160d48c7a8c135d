"""`kaggleops ui`."""

import webbrowser
from contextlib import suppress

import click

from kaggleops.bucket.location import tracking_uri
from kaggleops.cli.options import bucket_at, bucket_of, bucket_option
from kaggleops.cli.output import err, out


@click.command("ui")
@bucket_option
@click.option("--experiment", metavar="NAME", help="Which to show. Default: the last used.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=int, help="Default: 5000, or a free one where that is taken.")
@click.option("--open/--no-open", "open_browser", default=True, help="Open the browser.")
def ui_command(
    bucket: str | None, experiment: str | None, host: str, port: int | None, open_browser: bool
) -> None:
    """Open the MLflow UI over the bucket, until Ctrl-C."""
    from kaggleops.mlruns import EntityStore
    from kaggleops.server.links import experiment_link
    from kaggleops.server.mlflow_server import mlflow_server
    from kaggleops.server.opening import experiment_to_show

    place = bucket_of(bucket)
    store = EntityStore(bucket_at(place))
    store.check()
    experiment_id = experiment_to_show(tracking_uri(place), experiment)
    with (
        suppress(KeyboardInterrupt),
        err.status("Starting the MLflow server") as status,
        mlflow_server(tracking_uri(place), store.artifact_root, host=host, port=port) as server,
    ):
        status.stop()
        link = experiment_link(server.url, experiment_id)
        out.print(f"MLflow over {place}\n\n    {link}\n\nCtrl-C ends it.", highlight=False)
        if open_browser:
            webbrowser.open(link)
        server.wait()
