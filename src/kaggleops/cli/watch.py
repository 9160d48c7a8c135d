"""`kaggleops watch`: keep the sweeps of a bucket going."""

import _thread
import json
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import click
from rich.live import Live
from rich.table import Table

from kaggleops.cli import options
from kaggleops.cli.indexed import require_index
from kaggleops.cli.output import (
    as_typed,
    err,
    out,
    print_error,
    redrawn,
    stdout_for_json,
    wants_json,
)
from kaggleops.layout import PAGE_KEY

if TYPE_CHECKING:
    from kaggleops.campaign.state import SweepState
    from kaggleops.campaign.sweep import Trial
    from kaggleops.campaign.turn import Turn

_NOTHING_LEFT = "no sweep is open, or another watcher keeps them going"
_OVER = ("FINISHED", "FAILED", "KILLED", "PRUNED")


@click.command("watch")
@options.place
@options.index
@click.option("--once", is_flag=True, help="Take one turn, and exit.")
@options.json
def watch_command(place: str, index: str | None, once: bool) -> None:
    """Keep all sweeps of the bucket going, until interrupted.

    Interrupting it leaves the jobs running and loses nothing: start it again on any machine. Of
    several, one acts, and another takes over when that one ends.

    \b
    Example:
      kaggleops watch --bucket gs://my-bucket
    """
    try:
        watch_in_foreground(place, index=index, once=once)
    except KeyboardInterrupt as interrupted:
        if interrupted.args != (_NOTHING_LEFT,):
            how = f"kaggleops watch{options.bucket_flag(place)}"
            err.print(f"The jobs go on. Continue their sweeps with: {how}")


def watch_in_foreground(
    place: str, only: str = "", *, index: str | None = None, once: bool = False
) -> None:
    """Keep the sweeps of a bucket going and show them; with `only`, until that sweep is over.

    Raises KeyboardInterrupt once it was interrupted and everything is put in order; with
    _NOTHING_LEFT where that leaves no sweep alone.
    """
    require_index()
    from kaggleops.campaign.watch import Watcher
    from kaggleops.server.settings import default_index

    watcher = Watcher(place, index=index or default_index(place), bucket=options.bucket_at(place))
    if not wants_json():
        err.print(f"Page  {options.bucket_at(place).object_uri(PAGE_KEY)}")
    turn = None
    with _interruptible() as stop, nullcontext() if wants_json() else redrawn() as live:
        show = _print_json if wants_json() else _Shown(live).show
        try:
            while not stop.is_set():
                with stdout_for_json():
                    turn = watcher.turn()
                show(turn)
                # One that has just ended is shown once more.
                still = [
                    each.id for each in turn.sweeps if each.status not in ("FINISHED", "FAILED")
                ]
                over = turn.read and only and only not in still
                if once or over:
                    break
                watcher.wait(turn.pause, stop)
        finally:
            watcher.close()
    if stop.is_set():
        others = turn and turn.read and not (turn.leading and turn.sweeps)
        raise KeyboardInterrupt(*([_NOTHING_LEFT] if others else []))
    if once and turn and turn.problems:
        sys.exit(1)  # they were shown


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Yield what is set by Ctrl-C and SIGTERM: a turn is not broken off, unless it comes twice."""
    stop = threading.Event()

    def heard(number: int, _: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        # Not here: this thread may hold the event's lock, as it looks at it or waits for it.
        _thread.start_new_thread(stop.set, ())

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {each: signal.signal(each, heard) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Shown:
    """Prints what is new, a line each; how things are, in one table where that can be redrawn."""

    def __init__(self, live: Live | None) -> None:
        self._live = live
        self._said: set[str] = set()
        self._ended: dict[str, set[int]] = {}  # the trials of each sweep that are over

    def show(self, turn: "Turn") -> None:
        for each in turn.sweeps:
            for line in self._results(each):
                out.print(line)
        for line in turn.done:
            out.print(line)
        if self._live:
            self._live.update(_table(turn), refresh=True)  # below those lines, which stay
            return
        state = [_led(turn), *map(_line, turn.sweeps)] if turn.read else []
        waiting = [f"waits: {each}" for each in turn.waiting.values() if each]
        lines = list(filter(None, (*state, *waiting, *turn.problems)))
        for line in lines:
            if line not in self._said:
                (print_error if line in turn.problems else out.print)(line)
        self._said = set(lines)

    def _results(self, state: "SweepState") -> Iterator[str]:
        """Yield what those trials came to that have ended since the last turn."""
        over = {each.number: each for each in state.trials if each.status in _OVER}
        known = self._ended.setdefault(state.id, set(over))
        for number in sorted({*over} - known):
            trial = over[number]
            failed = next((job.run_id for job in trial.jobs if job.status == "FAILED"), "")
            scores = ", ".join(f"{metric} {value:.4g}" for metric, value in _scores(state, trial))
            came = f"see `kaggleops logs {failed}`" if failed else scores
            yield f"{state.name} trial {number} {trial.status.lower()}{came and f': {came}'}"
        known |= {*over}


def _scores(state: "SweepState", trial: "Trial") -> list[tuple[str, float]]:
    """Return what a trial is judged by; where nobody said what that is, what looks like a score."""
    from kaggleops.reports.score import score_of

    if state.sweep.metrics:
        return list(zip(state.sweep.metrics, trial.values or (), strict=False))
    alone = trial.jobs[0] if len(trial.jobs) == 1 else None
    found = score_of(alone.tags, alone.metrics) if alone else None
    return [(found[0].name, found[1])] if found else []


def _led(turn: "Turn") -> str:
    if turn.leading:
        return ""
    if turn.holder:
        return f"another watcher is active: {turn.holder}; this one takes over when it ends"
    return "" if turn.sweeps else "no sweep is open"


def _line(state: "SweepState") -> str:
    where = ", ".join(f"{count} on {name}" for name, count in _running(state).items())
    return f"{state.name}: {state.progress}{f' ({where})' if where else ''}"


def _running(state: "SweepState") -> Counter[str]:
    from kaggleops.campaign.state import is_sent
    from kaggleops.tags import SUBMITTED_TO

    return Counter(job.tags[SUBMITTED_TO] for job in state.jobs if is_sent(job))


def _table(turn: "Turn") -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("Sweep", "Progress", "Where", "Waits for"):
        table.add_column(title, overflow="fold")
    for state in turn.sweeps:
        where = ", ".join(f"{name} {count}" for name, count in _running(state).items())
        # What it becomes when it is printed, so that there is room for it.
        waits = as_typed(turn.waiting.get(state.id, ""))
        table.add_row(state.name, state.progress, where, waits)
    if turn.read and (led := _led(turn)):
        table.add_row("", led)
    for problem in turn.problems:
        table.add_row("problem", as_typed(problem), style="yellow")
    return table


def _print_json(turn: "Turn") -> None:
    said: dict[str, Any] = {
        "leading": turn.leading,
        "holder": turn.holder,
        "sweeps": [
            {
                "sweep": state.id,
                "name": state.name,
                "trials": dict(Counter(trial.status for trial in state.trials)),
                "running": dict(_running(state)),
                "waits_for": turn.waiting.get(state.id, ""),
            }
            for state in turn.sweeps
        ],
        "done": turn.done,
        "problems": turn.problems,
    }
    click.echo(json.dumps(said))  # a line for each turn
