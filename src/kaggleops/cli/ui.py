"""`kaggleops ui`."""

from pathlib import Path

import click

from kaggleops.bucket.location import bucket_uri
from kaggleops.cli.options import bucket_of, bucket_option, json_option, port_option
from kaggleops.cli.serve import serve
from kaggleops.cli.tunnel import open_option, show_remote
from kaggleops.platforms.settings import local_setting


@click.command("ui")
@bucket_option
@port_option
@open_option
@click.option("--local", is_flag=True, help="Serve the bucket here, even if there is a server.")
@json_option
def ui_command(
    bucket: str | None, port: int | None, open_browser: bool, local: bool, as_json: bool
) -> None:
    """Open the MLflow UI over the bucket, until Ctrl-C.

    That of your server, if config/local.yaml names one and you name no bucket (`kaggleops tunnel`);
    else the bucket is served from here (`kaggleops serve`).
    """
    from kaggleops.server.tunnel import Machine

    here = bucket or local or _another_bucket()
    machine = None if here else Machine.of_settings(Path())
    if machine:
        show_remote(machine, port, open_browser, as_json)
    else:
        serve(bucket_of(bucket), port, open_browser=open_browser, as_json=as_json)


def _another_bucket() -> bool:
    """Return whether MLFLOW_TRACKING_URI names another one than the settings that name a server."""
    settings = local_setting(Path(), "bucket")
    return settings is not None and bucket_of(None) != bucket_uri(settings)
