"""`kaggleops serve` and `kaggleops ui`."""

import importlib.util
import re
import webbrowser
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kaggleops.bucket.location import bucket_uri
from kaggleops.cli.options import bucket_of, bucket_option, index_option, json_option, place_option
from kaggleops.cli.output import err, out, print_json, print_rows, progress_bar
from kaggleops.errors import KaggleOpsError, UsageError, first_line
from kaggleops.platforms.settings import local_setting

if TYPE_CHECKING:
    from kaggleops.server.tunnel import Machine


def _host_names(_: click.Context, __: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*", name):
            hint = "Write it without scheme and port: ml.example.com"
            raise UsageError(f"naming the server {name!r}", "not a host name", hint)
    return names


@click.command("serve")
@place_option
@index_option
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--host-name",
    "host_names",
    multiple=True,
    metavar="NAME",
    callback=_host_names,
    help="The server's name in a browser's address, if not localhost. Repeatable.",
)
@click.option(
    "--port",
    default=5000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="The port to listen on; 0 for any free one.",
)
@click.option("--auth", is_flag=True, help="Ask for a name and a password.")
@click.option(
    "--anyone-may-read-and-write",
    "to_anyone",
    is_flag=True,
    help="Let others reach it without a password.",
)
@click.option("--open", "open_browser", is_flag=True, help="Open the browser.")
@json_option
def serve_command(
    place: str,
    index: str | None,
    host: str,
    host_names: tuple[str, ...],
    port: int | None,
    auth: bool,
    to_anyone: bool,
    open_browser: bool,
    as_json: bool,
) -> None:
    """Serve the MLflow UI and API over the bucket, until Ctrl-C.

    The server answers from an index of the bucket, which it updates every 5 s while somebody is
    looking, every 5 minutes otherwise. Edits in the UI go to the bucket first; the index can be
    deleted at any time.

    \b
    Example:
      kaggleops serve --bucket gs://my-bucket --auth
    """
    # Only light imports: this process stays, beside those that it starts.
    from kaggleops.redaction import redacted
    from kaggleops.server.address import experiment_link, listening_socket, progress_line, url_of
    from kaggleops.server.settings import (
        HEALTH_PATH,
        Settings,
        ask_for_passwords,
        default_index,
        server_folder,
    )
    from kaggleops.server.supervisor import Found, serve

    folder = server_folder(place)
    if importlib.util.find_spec("flask") is None:  # mlflow-skinny has none
        hint = "Install it: pip install 'kaggleops[server]'."
        raise UsageError("starting the server", "the MLflow server is not installed", hint)
    with listening_socket(host, port, to_anyone=auth or to_anyone) as listening:
        url = url_of(listening)
        access = ask_for_passwords(folder) if auth else ""
        settings = Settings(
            bucket=place,
            index=index or default_index(place),
            scratch=str(folder / f"scratch-{listening.getsockname()[1]}"),
            auth=auth,
            socket=listening.fileno(),
            host_names=(host, *host_names),
        )
        with ExitStack() as bars:
            update = bars.enter_context(progress_bar("Updating the index"))
            shown: list[Found] = []

            def show(told: Found) -> None:
                nonlocal update
                bars.close()
                shown.append(told)
                if told["warning"]:
                    err.print(told["warning"], style="yellow")
                link = experiment_link(url, told["experiment"])
                found = {
                    "link": link,
                    "health": f"{url}{HEALTH_PATH}",
                    "bucket": place,
                    "index": redacted(settings.index),
                    "problems": told["problems"],
                    "warning": told["warning"],
                    "complete": told["complete"] and not told["warning"],
                }
                if as_json:
                    print_json(**found)
                else:
                    _show(found, access)
                if open_browser:
                    webbrowser.open(link)
                if not told["complete"]:
                    err.print(progress_line(told["done"], told["total"]))
                    update = bars.enter_context(progress_bar("The rest"))

            def all_in(told: Found) -> None:
                bars.close()
                line = told["warning"] or progress_line(told["total"], told["total"])
                err.print(line, style="yellow" if told["warning"] else None)
                if told["experiment"] != shown[0]["experiment"] and not as_json:
                    out.print(f"\n    {experiment_link(url, told['experiment'])}")

            serve(
                settings,
                lambda line: err.print(line, style="yellow"),
                lambda done, total: update(done, total),
                show,
                all_in,
            )


def _show(found: dict[str, Any], access: str) -> None:
    out.print(f"MLflow over {found['bucket']}, served from here\n\n    {found['link']}")
    rows = [("Index", found["index"]), ("Health", found["health"]), ("Access", access)]
    if found["problems"]:
        rows.append(("Not shown", f"{found['problems']} objects; see the health page"))
    print_rows(*rows)
    out.print("\nPress Ctrl-C to stop.")


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
    help="Default: 5000, or a free one if that is in use; 0 for any free one.",
)
@click.option("--open/--no-open", "open_browser", default=True, help="Open the browser.")
@json_option
@click.pass_context
def ui_command(
    context: click.Context,
    bucket: str | None,
    server: str | None,
    local: bool,
    port: int | None,
    open_browser: bool,
    as_json: bool,
) -> None:
    """Open the MLflow UI over the bucket in a browser.

    If a server on Google Cloud is configured and no bucket is named, that server is opened through
    Identity-Aware Proxy, which asks you to sign in. Otherwise the bucket is served from this
    machine, as by `kaggleops serve`, until Ctrl-C.

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
        given = {"port": port, "open_browser": open_browser, "as_json": as_json}
        context.invoke(serve_command, place=bucket_of(bucket), **given)


def _another_bucket() -> bool:
    """Return whether MLFLOW_TRACKING_URI names another bucket than the settings do."""
    settings = local_setting(Path(), "bucket")
    return settings is not None and bucket_of(None) != bucket_uri(settings)


def _show_remote(machine: "Machine", port: int | None, open_browser: bool, as_json: bool) -> None:
    """Open a remote server's UI, until Ctrl-C."""
    from kaggleops.server.address import experiment_link
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
            out.print(f"{where}\n\n    {link}\n\nPress Ctrl-C to stop.")
        if open_browser:
            webbrowser.open(link)
        opened.wait()


def _last_experiment(url: str, where: str) -> str | None:
    """Return the id of the experiment of the latest run; None if the server asks for a password."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(url)
    order = ["attributes.start_time DESC"]
    try:
        known = [each.experiment_id for each in client.search_experiments()]
        runs = client.search_runs(known, max_results=1, order_by=order)
    except MlflowException as error:
        if "401" not in str(error):
            doing = f"asking the server on {where}"
            raise KaggleOpsError(doing, first_line(error)) from error
        return None  # the browser will ask for the password
    return str(runs[0].info.experiment_id) if runs else None
