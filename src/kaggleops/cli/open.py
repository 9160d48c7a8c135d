"""`kaggleops open`: a run's page, its notebook or its commit, in the browser."""

import json
import time
import urllib.error
import urllib.request
import webbrowser
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from kaggleops.bucket.location import tracking_uri
from kaggleops.cli import options
from kaggleops.cli.indexed import run_named
from kaggleops.cli.output import err, out, print_json
from kaggleops.errors import UsageError
from kaggleops.tags import COMMIT, REPOSITORY, SUBMITTED_TO

if TYPE_CHECKING:
    from kaggleops.mlruns.liveness import RunState

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
