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
    from kaggleops.server.local_server import LocalServer
    from kaggleops.server.tunnel import Machine

experiment_option = click.option(
    "--experiment", metavar="NAME", help="Which to show. Default: the last used."
)
open_option = click.option(
    "--open/--no-open", "open_browser", default=True, help="Open the browser."
)


@click.command("tunnel")
@click.option(
    "--server",
    metavar="projects/…/zones/…/instances/…",
    help="The machine. Default: `server:` in config/local.yaml.",
)
@experiment_option
@port_option
@open_option
@json_option
def tunnel_command(
    server: str | None,
    experiment: str | None,
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
    show_remote(machine, experiment, port, open_browser, as_json)


def show_remote(
    machine: "Machine",
    experiment: str | None,
    port: int | None,
    open_browser: bool,
    as_json: bool,
) -> None:
    """Open a remote server's UI, until Ctrl-C."""
    from mlflow.exceptions import MlflowException

    from kaggleops.server.links import experiment_link
    from kaggleops.server.opening import experiment_to_show
    from kaggleops.server.tunnel import tunnel

    with (
        suppress(KeyboardInterrupt),
        err.status(f"Opening a tunnel to {machine}") as status,
        tunnel(machine, port) as server,
    ):
        try:
            shown = experiment_to_show(server.url, experiment)
        except MlflowException as error:
            if "401" not in str(error):
                doing = f"asking the server on {machine}"
                raise KaggleOpsError(doing, str(error).splitlines()[0]) from error
            shown = None  # it asks for a password, and the browser will
        status.stop()
        link = experiment_link(server.url, shown)
        if as_json:
            print_json(link=link, server=machine.path, bucket=None)
        else:
            show(f"MLflow, served by {machine}, through Identity-Aware Proxy", link)
        stay(server, link, open_browser)


def show(where: str, link: str) -> None:
    """Say what serves the UI, and where."""
    out.print(f"{where}\n\n    {link}\n\nCtrl-C ends it.")


def stay(server: "LocalServer", link: str, open_browser: bool) -> None:
    """Open the UI in the browser, if that is meant, and return when its server has ended."""
    if open_browser:
        webbrowser.open(link)
    server.wait()
