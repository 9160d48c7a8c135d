"""`kaggleops tunnel`."""

import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kaggleops.cli.options import json_option, port_option
from kaggleops.cli.output import err, out, print_json
from kaggleops.errors import KaggleOpsError, UsageError

if TYPE_CHECKING:
    from kaggleops.server.links import Shown
    from kaggleops.server.tunnel import Machine

open_option = click.option(
    "--open/--no-open", "open_browser", default=True, help="Open the browser."
)


@click.command("tunnel")
@click.option(
    "--server",
    metavar="projects/…/zones/…/instances/…",
    help="The machine. Default: `server:` in config/local.yaml.",
)
@port_option
@open_option
@json_option
def tunnel_command(
    server: str | None,
    port: int | None,
    open_browser: bool,
    as_json: bool,
) -> None:
    """Open the MLflow UI of your server on Google Cloud, until Ctrl-C.

    Through Identity-Aware Proxy, which asks who you are: the server has no address of its own.
    """
    from kaggleops.server.tunnel import Machine

    machine = Machine.named(server) if server else Machine.of_settings(Path())
    if machine is None:
        raise UsageError(
            "opening a tunnel",
            "no server is named",
            "Write `server: projects/…/zones/…/instances/…` into config/local.yaml (terraform "
            "prints it), or serve the bucket here: kaggleops ui",
        )
    show_remote(machine, port, open_browser, as_json)


def show_remote(machine: "Machine", port: int | None, open_browser: bool, as_json: bool) -> None:
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
