"""`kaggleops ui`."""

import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kaggleops.bucket.location import bucket_uri
from kaggleops.cli.options import bucket_of, bucket_option, json_option
from kaggleops.cli.output import err, out, print_json
from kaggleops.cli.serve import serve
from kaggleops.errors import KaggleOpsError
from kaggleops.platforms.settings import local_setting

if TYPE_CHECKING:
    from kaggleops.server.links import Shown
    from kaggleops.server.tunnel import Machine


@click.command("ui")
@bucket_option
@click.option(
    "--server",
    metavar="projects/…/zones/…/instances/…",
    help="A machine on Google Cloud. Default: `server:` in config/local.yaml.",
)
@click.option("--local", is_flag=True, help="Serve the bucket here, even if there is a server.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Default: 5000, or a free one where that is taken; 0 for any free one.",
)
@click.option("--open/--no-open", "open_browser", default=True, help="Open the browser.")
@json_option
def ui_command(
    bucket: str | None,
    server: str | None,
    local: bool,
    port: int | None,
    open_browser: bool,
    as_json: bool,
) -> None:
    """Open the MLflow UI over the bucket in a browser.

    If a server on Google Cloud is configured and no bucket is named, it is opened through
    Identity-Aware Proxy, which asks who you are. Otherwise the bucket is served from this machine,
    as by `kaggleops serve`, until Ctrl-C.

    \b
    Example:
      kaggleops ui --bucket gs://my-bucket
    """
    from kaggleops.server.tunnel import Machine

    machine = Machine.named(server) if server else None
    if not (machine or bucket or local or _another_bucket()):
        machine = Machine.of_settings(Path())
    if machine:
        _show_remote(machine, port, open_browser, as_json)
    else:
        serve(bucket_of(bucket), port, open_browser=open_browser, as_json=as_json)


def _another_bucket() -> bool:
    """Return whether MLFLOW_TRACKING_URI names another one than the settings that name a server."""
    settings = local_setting(Path(), "bucket")
    return settings is not None and bucket_of(None) != bucket_uri(settings)


def _show_remote(machine: "Machine", port: int | None, open_browser: bool, as_json: bool) -> None:
    """Open a remote server's UI, until Ctrl-C."""
    from kaggleops.server.links import experiment_link
    from kaggleops.server.tunnel import tunnel

    with (
        suppress(KeyboardInterrupt),
        err.status(f"Opening a tunnel to {machine}") as status,
        tunnel(machine, port) as opened,
    ):
        link = experiment_link(opened.url, _last_experiment(opened.url, f"{machine}"))
        status.stop()
        if as_json:
            print_json(link=link, server=machine.path)
        else:
            where = f"MLflow, served by {machine}, through Identity-Aware Proxy"
            out.print(f"{where}\n\n    {link}\n\nCtrl-C ends it.")
        if open_browser:
            webbrowser.open(link)
        opened.wait()


def _last_experiment(url: str, where: str) -> "Shown | None":
    """Return the experiment of the run that was started last; None where nobody may be told."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    from kaggleops.project import views
    from kaggleops.server.links import Shown

    client = MlflowClient(url)
    order = ["attributes.start_time DESC"]
    try:
        known = {each.experiment_id: each for each in client.search_experiments()}
        runs = client.search_runs(list(known), max_results=1, order_by=order)
    except MlflowException as error:
        if "401" not in str(error):
            doing = f"asking the server on {where}"
            raise KaggleOpsError(doing, str(error).splitlines()[0]) from error
        return None  # it asks for a password, and the browser will
    if not runs:
        return None
    last = known[runs[0].info.experiment_id]
    return Shown(str(last.experiment_id), views.TAG in last.tags)
