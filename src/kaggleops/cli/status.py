"""`kaggleops status`: which runs are running, and which have lost their machine."""

import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from kaggleops.bucket.location import tracking_uri
from kaggleops.cli.options import bucket_at, bucket_of, bucket_option, json_option
from kaggleops.cli.output import err, out, print_error, print_json, print_whole
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.printable import printable
from kaggleops.tags import BACKEND, COMMIT, KEPT_UNTIL, PRICE, SHORT_COMMIT, SUBMITTED_TO

if TYPE_CHECKING:
    from kaggleops.mlruns import EntityStore
    from kaggleops.mlruns.liveness import RunState

_STYLES = {"RUNNING": "green", "LOST": "bold red", "FAILED": "red", "UNREADABLE": "bold red"}
_OPEN = ("SCHEDULED", "RUNNING", "LOST")
_AT_ONCE = 8  # questions to platforms


@click.command("status")
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@bucket_option
@click.option(
    "--days",
    type=click.FloatRange(min=0),
    default=2.0,
    show_default=True,
    help="Show runs that were active in this many days.",
)
@json_option
def status_command(runs: tuple[str, ...], bucket: str | None, days: float, as_json: bool) -> None:
    """Show runs: those named, or those active in the last days.

    A LOST run's machine has been silent for longer than it said it would be. The platform is asked
    about submitted runs that have not ended, and about ended ones that are named or whose machine
    was kept.

    \b
    Example:
      kaggleops status --days 7
    """
    from kaggleops.mlruns import EntityStore
    from kaggleops.mlruns.liveness import recent_runs, run_state

    place = bucket_of(bucket)
    store = EntityStore(bucket_at(place))
    now_ms = time.time_ns() // 1_000_000
    with err.status("Asking the bucket"):
        if runs:
            states = [run_state(store, _found(store, run), now_ms) for run in runs]
        else:
            store.check()
            states = recent_runs(store, now_ms - int(days * 86_400_000), now_ms)
        platforms = _ask_platforms(states, tracking_uri(place), named=bool(runs))
    rows = [_row(state, platforms.get(state.entity.id.name), now_ms) for state in states]
    if as_json:
        print_json(runs=rows)
    elif rows:
        print_whole(_table(rows))
    else:
        out.print(f"No run of {place} was heard within {days:g} days.")
    for state in states:
        if state.problem:
            print_error(state.problem)
    if any(state.problem for state in states):
        sys.exit(1)


def _found(store: "EntityStore", run_id: str) -> Any:
    from kaggleops.mlruns import Kind
    from kaggleops.mlruns.layout import is_run_id

    found = store.find(Kind.RUN, run_id) if is_run_id(run_id) else None
    if found is None:
        hint = "`kaggleops status` without a run lists the last ones."
        raise UsageError(f"looking for run {run_id}", f"{store.bucket.uri} has none of it", hint)
    return found


@dataclass(frozen=True)
class _Platform:
    """What a platform says of a run, and what that makes of it."""

    said: str
    status: str
    price: float | None = None
    units: float | None = None


def _ask_platforms(states: "list[RunState]", uri: str, *, named: bool) -> dict[str, _Platform]:
    asked = [
        state
        for state in states
        if _tag(state, SUBMITTED_TO) and (state.status in _OPEN or named or _is_kept(state))
    ]
    if not asked:
        return {}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = pool.map(lambda state: _ask(uri, state), asked)
        names = [state.entity.id.name for state in asked]
        return dict(zip(names, answers, strict=True))


def _is_kept(state: "RunState") -> bool:

    return _number(state, KEPT_UNTIL) > time.time()


def _ask(uri: str, of: "RunState") -> _Platform:
    from kaggleops.backends.lookup import backend_named
    from kaggleops.backends.remote_run import RemoteRun

    try:
        run = RemoteRun(backend_named(_tag(of, SUBMITTED_TO)), uri, of.entity.id.name)
        state = run.state()
        if of.status not in _OPEN:
            # How it ended is known. What is still there costs money.
            if state is None or (state.ended and not state.units):
                return _Platform("", "")
            return _Platform(str(state), "", state.price, state.units)
        # One whose job ended without a word would stay as it is for ever.
        settled = run.settle(state) if state and state.ended else ""
    except KaggleOpsError as error:
        told = of.status in _OPEN or _tag(of, PRICE)
        return _Platform(f"unknown ({error.problem})" if told else "", "")
    if state is None:
        return _Platform("", "")
    return _Platform(str(state), settled, state.price, state.units)


def _tag(state: "RunState", name: str) -> str:
    return state.entity.files.get(f"tags/{name}", b"").decode(errors="replace")


def _number(state: "RunState", name: str) -> float:
    """Return the number that a tag holds, 0 where it holds none: anybody may have written it."""
    with suppress(ValueError):
        number = float(_tag(state, name))
        return number if math.isfinite(number) else 0.0
    return 0.0


def _row(state: "RunState", platform: _Platform | None, now_ms: int) -> dict[str, Any]:
    files = state.entity.files
    meta = state.entity.meta if files else {}
    return {
        "run_id": state.entity.id.name,
        "name": meta.get("run_name"),
        "experiment_id": state.entity.id.experiment_id,
        "status": (platform and platform.status) or state.status,
        "backend": _tag(state, BACKEND),
        "platform": platform.said if platform else "",
        "heard": datetime.fromtimestamp(state.heard_ms / 1000, UTC).isoformat(timespec="seconds"),
        "silent_seconds": max(0, (now_ms - state.heard_ms) // 1000),
        "promised_seconds": state.entity.notes.promise,
        "commit": _tag(state, SHORT_COMMIT) or _tag(state, COMMIT)[:10],
        "price_per_hour": platform.price if platform else None,
        "units_per_hour": platform.units if platform else None,
        "cost_usd": _number(state, "cost_usd") or None,
    }


def _cost(row: dict[str, Any]) -> str:
    return f"${row['cost_usd']:.2f}" if row["cost_usd"] else ""


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    cells = [
        (
            row["run_id"],
            printable(row["name"] or ""),
            printable(row["commit"]),
            Text(row["status"], style=_STYLES.get(row["status"], "")),
            printable(" ".join(filter(None, (row["backend"], row["platform"], _cost(row))))),
            f"{timedelta(seconds=row['silent_seconds'])} ago",
        )
        for row in rows
    ]
    for column in ("Run", "Name", "Commit", "Status", "Where", "Heard"):
        table.add_column(column, no_wrap=True)
    for row in cells:
        table.add_row(*row)
    return table
