"""`kaggleops serve` and `kaggleops ui`."""

import importlib.util
import re
import webbrowser
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kaggleops.bucket.location import bucket_uri
from kaggleops.cli import options
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
@options.place
@options.index
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
@options.json
def serve_command(**how: Any) -> None:
    """Serve the MLflow UI and API over the bucket, until Ctrl-C.

    The server answers from an index of the bucket, which it updates every 5 s while somebody is
    looking, every 5 minutes otherwise. Edits in the UI go to the bucket first; the index can be
    deleted at any time.

    \b
    Example:
      kaggleops serve --bucket gs://my-bucket --auth
    """
    _serve(**how)


def _serve(
    place: str,
    port: int | None,
    *,
    open_browser: bool,
    index: str | None = None,
    host: str = "127.0.0.1",
    host_names: tuple[str, ...] = (),
    auth: bool = False,
    to_anyone: bool = False,
) -> None:
    # Only light imports: this process stays, beside those that it starts.
    from kaggleops.redaction import redacted
    from kaggleops.server import settings as server
    from kaggleops.server.address import experiment_link, listening_socket, progress_line, url_of
    from kaggleops.server.supervisor import Found, serve

    folder = server.server_folder(place)
    if importlib.util.find_spec("flask") is None:  # mlflow-skinny has none
        hint = "Install it: pip install 'kaggleops[server]'."
        raise UsageError("starting the server", "the MLflow server is not installed", hint)
    with listening_socket(host, port, to_anyone=auth or to_anyone) as listening:
        url = url_of(listening)
        access = server.ask_for_passwords(folder) if auth else ""
        settings = server.Settings(
            bucket=place,
            index=index or server.default_index(place),
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
                health = f"{url}{server.HEALTH_PATH}"
                problems, database = told["problems"], redacted(settings.index)
                print_json(
                    link=link,
                    health=health,
                    bucket=place,
                    index=database,
                    problems=problems,
                    warning=told["warning"],
                    complete=told["complete"] and not told["warning"],
                )
                out.print(f"MLflow over {place}, served from here\n\n    {link}")
                left_out = f"{problems} objects; see the health page" if problems else ""
                print_rows(
                    *(("Index", database), ("Health", health), ("Access", access)),
                    ("Not shown", left_out),
                )
                out.print("\nPress Ctrl-C to stop.")
                if open_browser:
                    webbrowser.open(link)
                if not told["complete"]:
                    err.print(progress_line(told["done"], told["total"]))
                    update = bars.enter_context(progress_bar("The rest"))

            def all_in(told: Found) -> None:
                bars.close()
                line = told["warning"] or progress_line(told["total"], told["total"])
                err.print(line, style="yellow" if told["warning"] else None)
                if told["experiment"] != shown[0]["experiment"]:
                    out.print(f"\n    {experiment_link(url, told['experiment'])}")

            serve(
                settings,
                lambda line: err.print(line, style="yellow"),
                lambda done, total: update(done, total),
                show,
                all_in,
            )


@click.command("ui")
@options.bucket
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
@options.json
def ui_command(
    bucket: str | None,
    server: str | None,
    local: bool,
    port: int | None,
    open_browser: bool,
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
        _show_remote(machine, port, open_browser)
    else:
        _serve(options.bucket_of(bucket), port, open_browser=open_browser)


def _another_bucket() -> bool:
    """Return whether MLFLOW_TRACKING_URI names another bucket than the settings do."""
    settings = local_setting(Path(), "bucket")
    return settings is not None and options.bucket_of(None) != bucket_uri(settings)


def _show_remote(machine: "Machine", port: int | None, open_browser: bool) -> None:
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
        print_json(link=link, server=machine.path)
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
