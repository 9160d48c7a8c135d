"""`kaggleops ui`."""

from contextlib import suppress
from pathlib import Path

import click

from kaggleops.bucket.location import bucket_uri, tracking_uri
from kaggleops.cli.options import bucket_at, bucket_of, bucket_option, json_option, port_option
from kaggleops.cli.output import err, print_json
from kaggleops.cli.tunnel import experiment_option, open_option, show, show_remote, stay
from kaggleops.platforms.settings import local_setting


@click.command("ui")
@bucket_option
@experiment_option
@port_option
@open_option
@click.option("--local", is_flag=True, help="Serve the bucket here, even if there is a server.")
@json_option
def ui_command(
    bucket: str | None,
    experiment: str | None,
    port: int | None,
    open_browser: bool,
    local: bool,
    as_json: bool,
) -> None:
    """Open the MLflow UI over the bucket, until Ctrl-C.

    That of your server, if config/local.yaml names one and you name no bucket; else the bucket is
    served from here.
    """
    from kaggleops.server.tunnel import Machine

    here = bucket or local or _another_bucket()
    machine = None if here else Machine.of_settings(Path())
    if machine:
        show_remote(machine, experiment, port, open_browser, as_json)
    else:
        _serve_here(bucket_of(bucket), experiment, port, open_browser, as_json)


def _another_bucket() -> bool:
    """Return whether MLFLOW_TRACKING_URI names another one than the settings that name a server."""
    settings = local_setting(Path(), "bucket")
    return settings is not None and bucket_of(None) != bucket_uri(settings)


def _serve_here(
    place: str,
    experiment: str | None,
    port: int | None,
    open_browser: bool,
    as_json: bool,
) -> None:
    from kaggleops.mlruns import EntityStore
    from kaggleops.server.links import experiment_link
    from kaggleops.server.mlflow_server import mlflow_server
    from kaggleops.server.opening import experiment_to_show

    store = EntityStore(bucket_at(place))
    store.check()
    experiment_id = experiment_to_show(tracking_uri(place), experiment)
    with (
        suppress(KeyboardInterrupt),
        err.status("Starting the MLflow server") as status,
        mlflow_server(tracking_uri(place), store.artifact_root, port=port) as server,
    ):
        status.stop()
        link = experiment_link(server.url, experiment_id)
        if as_json:
            print_json(link=link, server=None, bucket=place)
        else:
            show(f"MLflow over {place}, served from here", link)
        stay(server, link, open_browser)
