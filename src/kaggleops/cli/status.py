"""`kaggleops status`: which runs are running, and which have lost their machine."""

import math
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from kaggleops.bucket.location import tracking_uri
from kaggleops.cli.indexed import can_index, history_of
from kaggleops.cli.options import bucket_at, bucket_of, bucket_option, index_option, json_option
from kaggleops.cli.output import err, exit_with, out, print_json, print_table
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.tags import BACKEND, COMMIT, KEPT_UNTIL, PRICE, SHORT_COMMIT, SUBMITTED_TO

if TYPE_CHECKING:
    from kaggleops.mlruns import EntityStore
    from kaggleops.mlruns.liveness import RunState

_HEAD = ("Run", "Name", "Commit", "Status", "Where", "Last update")
_STYLES = {"RUNNING": "green", "LOST": "bold red", "FAILED": "red", "UNREADABLE": "bold red"}
_OPEN = ("SCHEDULED", "RUNNING", "LOST")
_COST = "cost_usd"
_TAGS = (BACKEND, SHORT_COMMIT, COMMIT, SUBMITTED_TO, KEPT_UNTIL, PRICE, _COST)
_AT_ONCE = 8  # requests to platforms


@click.command("status")
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@bucket_option
@index_option
@click.option(
    "--days",
    type=click.FloatRange(min=0),
    default=2.0,
    show_default=True,
    help="Show runs that were active in this many days.",
)
@json_option
def status_command(
    runs: tuple[str, ...], bucket: str | None, index: str | None, days: float, as_json: bool
) -> None:
    """Show runs: those named, or the open and the latest ones.

    A LOST run is RUNNING, but its machine has missed its heartbeat. The platforms are asked about
    submitted runs that have not ended, and about ended ones that are named or whose machine was
    kept.

    \b
    Example:
      kaggleops status --days 7
    """
    from kaggleops.mlruns import EntityStore
    from kaggleops.mlruns.liveness import run_state

    place = bucket_of(bucket)
    store = EntityStore(bucket_at(place))
    now_ms = time.time_ns() // 1_000_000
    if runs:
        with err.status("Reading the bucket"):
            states = [run_state(store, _found(store, run), now_ms) for run in runs]
    else:
        states = _recent(store, index, now_ms - int(days * 86_400_000), now_ms)
    platforms = _ask_platforms(states, tracking_uri(place), named=bool(runs))
    rows = [_row(state, platforms.get(state.id.name), now_ms) for state in states]
    if as_json:
        print_json(runs=rows)
    elif rows:
        print_table(_HEAD, [_cells(row) for row in rows], _STYLES, left=True)
    else:
        out.print(f"No run in {place} is open or was active in the last {days:g} days.")
    exit_with(state.problem for state in states if state.problem)


def _recent(
    store: "EntityStore", index: str | None, since_ms: int, now_ms: int
) -> "list[RunState]":
    """Return the runs to show, the latest first.

    Which those are is told by the index, and so is all of those that have ended; what is open is
    looked at in the bucket.
    """
    from kaggleops.mlruns.liveness import OPEN, look_at, recent_runs

    if can_index():
        with history_of(store.bucket.uri, index, fresh_for=0) as history:
            ended, unsure = history.recent(since_ms, _TAGS)
        # A time that a run has logged may be any.
        ended = [replace(each, heard_ms=min(max(0, each.heard_ms), now_ms)) for each in ended]
        states = [*ended, *look_at(store, unsure, now_ms)]
    else:
        store.check()
        states = recent_runs(store, since_ms, now_ms)
    shown = [
        state
        for state in states
        if state.status in OPEN
        or state.heard_ms >= since_ms
        or _number(state, KEPT_UNTIL) > now_ms / 1000
    ]
    return sorted(shown, key=lambda state: -state.heard_ms)


def _found(store: "EntityStore", run_id: str) -> Any:
    from kaggleops.layout import is_run_id
    from kaggleops.mlruns import Kind

    found = store.find(Kind.RUN, run_id) if is_run_id(run_id) else None
    if found is None:
        hint = "`kaggleops status` without a run lists recent ones."
        raise UsageError("showing its status", f"no run {run_id} in {store.bucket.uri}", hint)
    return found


class _Platform(NamedTuple):
    """What a platform says of a run, and the run's status if that follows from it."""

    said: str = ""
    status: str = ""
    price: float | None = None
    units: float | None = None


def _ask_platforms(states: "list[RunState]", uri: str, *, named: bool) -> dict[str, _Platform]:
    asked = [
        state
        for state in states
        if _tag(state, SUBMITTED_TO)
        and (state.status in _OPEN or named or _number(state, KEPT_UNTIL) > time.time())
    ]
    if not asked:
        return {}
    with err.status("Asking the platforms"), ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = pool.map(lambda state: _ask(uri, state), asked)
        return {state.id.name: said for state, said in zip(asked, answers, strict=True)}


def _ask(uri: str, of: "RunState") -> _Platform:
    from kaggleops.backends.lookup import backend_named
    from kaggleops.backends.remote_run import RemoteRun

    is_open = of.status in _OPEN
    try:
        run = RemoteRun(backend_named(_tag(of, SUBMITTED_TO)), uri, of.id.name)
        state = run.state()
        # An open run whose job has ended would otherwise stay open for ever.
        settled = run.settle(state) if is_open and state and state.ended else ""
    except KaggleOpsError as error:
        return _Platform(f"unknown ({error.problem})" if is_open or _tag(of, PRICE) else "")
    # How an ended run ended is known; what is left of it may still cost money.
    if state is None or (not is_open and state.ended and not state.units):
        return _Platform()
    return _Platform(str(state), settled, state.price, state.units)


def _tag(state: "RunState", name: str) -> str:
    return state.tags.get(name, "")


def _number(state: "RunState", name: str) -> float:
    """Return the number in a tag, or 0: anybody may have written it."""
    with suppress(ValueError):
        number = float(_tag(state, name))
        return number if math.isfinite(number) else 0.0
    return 0.0


def _row(state: "RunState", platform: _Platform | None, now_ms: int) -> dict[str, Any]:
    return {
        "run_id": state.id.name,
        "name": state.name or None,
        "experiment_id": state.id.experiment_id,
        "status": (platform and platform.status) or state.status,
        "backend": _tag(state, BACKEND),
        "platform": platform.said if platform else "",
        "heard": datetime.fromtimestamp(state.heard_ms / 1000, UTC).isoformat(timespec="seconds"),
        "silent_seconds": max(0, (now_ms - state.heard_ms) // 1000),
        "promised_seconds": state.promise,
        "commit": _tag(state, SHORT_COMMIT) or _tag(state, COMMIT)[:10],
        "price_per_hour": platform.price if platform else None,
        "units_per_hour": platform.units if platform else None,
        "cost_usd": _number(state, _COST) or None,
    }


def _cells(row: dict[str, Any]) -> list[str]:
    cost = f"${row['cost_usd']:.2f}" if row["cost_usd"] else ""
    return [
        row["run_id"],
        row["name"] or "",
        row["commit"],
        row["status"],
        " ".join(filter(None, (row["backend"], row["platform"], cost))),
        f"{timedelta(seconds=row['silent_seconds'])} ago",
    ]
