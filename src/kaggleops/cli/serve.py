"""`kaggleops serve`, `ui` and `open`: what people look at, in the browser."""

import importlib.util
import json
import re
import time
import urllib.error
import urllib.request
import webbrowser
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from kaggleops.bucket.location import bucket_uri, tracking_uri
from kaggleops.cli import options
from kaggleops.cli.indexed import run_named
from kaggleops.cli.output import err, out, print_json, print_rows, progress_bar
from kaggleops.errors import KaggleOpsError, UsageError, first_line
from kaggleops.platforms.settings import local_setting
from kaggleops.tags import COMMIT, REPOSITORY, SUBMITTED_TO

if TYPE_CHECKING:
    from kaggleops.mlruns.liveness import RunState
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
        if auth:
            server.ask_for_passwords(folder)
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
                    *(("Index", database), ("Health", health), ("Access", told["access"])),
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
    bucket: str | None, server: str | None, local: bool, port: int | None, open_browser: bool
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


_OF_ADDRESSES = ":/?#[]@!$&'()*+,;=%~"
_PATIENCE = 3.0  # seconds


@click.command("open")
@click.argument("run")
@click.option("--notebook", is_flag=True, help="The notebook or machine that it runs in.")
@click.option("--commit", is_flag=True, help="Its commit, where the repository is.")
@options.place
@options.json
def open_command(run: str, notebook: bool, commit: bool, place: str) -> None:
    """Open a run's page in the browser, or its notebook or commit.

    The page is that of a `kaggleops ui` or `serve` of the bucket on this machine. The address is
    printed, too: without a browser that is all.

    \b
    Example:
      kaggleops open RUN --commit
    """
    from kaggleops.mlruns import EntityStore, Kind
    from kaggleops.mlruns.liveness import run_state

    doing = f"opening run {run}"
    if notebook and commit:
        raise UsageError(doing, "--notebook and --commit exclude each other")
    store = EntityStore(options.bucket_at(place))
    run_id = run_named(place, run)
    if (found := store.find(Kind.RUN, run_id)) is None:
        raise UsageError(doing, f"no run {run_id} in {place}", "`kaggleops status` lists runs.")
    state = run_state(store, found, time.time_ns() // 1_000_000)
    if commit:
        address = _commit_page(state, doing)
    elif notebook:
        address = _job_page(state, place, doing)
    else:
        address = _run_page(state, place)
    address = quote(address, safe=_OF_ADDRESSES)  # what others wrote in tags
    print_json(run_id=run_id, address=address)
    out.print(address)
    with suppress(webbrowser.Error):
        webbrowser.open(address)


def _commit_page(run: "RunState", doing: str) -> str:
    from kaggleops.git.addresses import web_address

    sha, web = run.tags.get(COMMIT, ""), web_address(run.tags.get(REPOSITORY, ""))
    if not sha:
        raise UsageError(doing, "it has no commit")
    if not web:
        problem = f"its commit {sha[:10]} is in no repository with a page"
        raise UsageError(doing, problem, f"See it here: git show {sha[:10]}")
    return f"{web}/commit/{sha}"


def _job_page(run: "RunState", place: str, doing: str) -> str:
    page = ""
    if SUBMITTED_TO in run.tags:
        from kaggleops.backends.lookup import submitted_run

        page = submitted_run(tracking_uri(place), run.id.name).page
    if not page:
        backend = run.tags.get(SUBMITTED_TO)
        where = f"{backend} has no page of it" if backend else "it was not submitted to a backend"
        raise UsageError(doing, where, "`kaggleops logs RUN` shows what it printed.")
    return page


def _run_page(run: "RunState", place: str) -> str:
    """Return its page on a server here; on the one that would be, where there is none."""
    from kaggleops.mlruns.ui import run_page
    from kaggleops.server.settings import server_folder

    ports = [each.name.rpartition("-")[2] for each in server_folder(place).glob("scratch-*")]
    serving = (url for port in ports if _serves(url := f"http://127.0.0.1:{port}", place))
    if (url := next(serving, "")) == "":
        url = "http://127.0.0.1:5000"
        how = f"kaggleops ui{options.bucket_flag(place)}"
        err.print(f"Nothing serves {place} here now. Start it:  {how}", style="yellow")
    return f"{url}/{run_page(run.id.experiment_id, run.id.name)}"


def _serves(url: str, place: str) -> bool:
    """Tell whether a server there answers for a bucket; one that asks for a password does, too."""
    from kaggleops.server.settings import HEALTH_PATH

    try:
        health = f"{url}{HEALTH_PATH}.json"
        with urllib.request.urlopen(health, timeout=_PATIENCE) as answer:  # noqa: S310 - http
            # It may name its bucket to nobody but those who have signed in.
            return bool(json.load(answer).get("bucket", place) == place)
    except urllib.error.HTTPError as error:
        return error.code == 401
    except (OSError, ValueError, AttributeError):
        return False
