"""`kaggleops status`: the list of runs."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from kaggleops.backends.answers import number
from kaggleops.bucket.location import tracking_uri
from kaggleops.cli import options
from kaggleops.cli.indexed import can_index, history_of, run_named, runs_named
from kaggleops.cli.output import (
    err,
    exit_with,
    out,
    print_json,
    redrawn,
    table,
    terminal_width,
    wants_json,
)
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.printable import counted
from kaggleops.tags import BACKEND, BRANCH, KEPT_UNTIL, PARENT, PRICE, SUBMITTED_TO, SWEEP

if TYPE_CHECKING:
    from kaggleops.mlruns import EntityStore
    from kaggleops.mlruns.liveness import RunState
    from kaggleops.reports.listing import Platform

_STYLES = {"RUNNING": "green", "LOST": "bold red", "FAILED": "red", "UNREADABLE": "bold red"}
_RUNNING = ("SCHEDULED", "RUNNING", "LOST")
_FAILED = ("FAILED", "KILLED", "LOST", "UNREADABLE")
_AT_ONCE = 8  # requests to platforms
_EVERY = 5.0  # seconds between two looks of --watch
_ASK_EVERY = 60.0  # seconds between two questions to a platform about one run


@click.command("status")
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@options.place
@options.index
@click.option(
    "--running", is_flag=True, help="Only runs that run, wait for a machine, or are LOST."
)
@click.option("--failed", is_flag=True, help="Only runs that FAILED, were KILLED, or are LOST.")
@click.option(
    "--since",
    type=options.Since(),
    default="2d",
    show_default=True,
    help="Runs active since then: 30m, 12h, 7d, 2026-11-30. Open runs are shown anyway.",
)
@click.option("--branch", metavar="NAME", help="Only runs of this branch's commits.")
@click.option(
    "-b",
    "--backend",
    metavar="NAME",
    shell_complete=options.complete_backend,
    help="Only runs there: kaggle, local, …",
)
@click.option("--sweep", metavar="RUN", help="Only this sweep's trials and folds.")
@click.option("--watch", is_flag=True, help="Keep the list up to date until nothing runs.")
@options.json
def status_command(
    runs: tuple[str, ...],
    place: str,
    index: str | None,
    since: float,
    sweep: str | None,
    watch: bool,
    **wanted: Any,
) -> None:
    """Show runs: those named, or the open and the latest ones.

    A LOST run is RUNNING, but its machine has missed its heartbeat. The platforms are asked about
    submitted runs that have not ended, and about ended ones that are named or whose machine was
    kept. Trials of a sweep are shown with --sweep, and if they failed; --json has all.

    \b
    Examples:
      kaggleops status --since 7d --failed
      kaggleops status --watch
    """
    if watch and wants_json():
        raise UsageError("showing runs", "--watch and --json exclude each other")
    chosen = runs_named(place, runs, index)
    sweep_id = run_named(place, sweep, index) if sweep else ""
    looked = _Status(place, index, chosen, sweep_id, max(0, int(since * 1000)), **wanted)
    if watch:
        _watch(looked)
        return
    rows, problems = looked.rows()
    print_json(runs=rows)
    if not wants_json():
        out.print(looked.table(rows, terminal_width()), end="")
    exit_with(problems)


def _watch(looked: "_Status") -> None:
    try:
        with redrawn() as shown:
            while True:
                rows, problems = looked.rows()
                said = looked.table(rows, out.width)
                if shown:
                    shown.update(said, refresh=True)
                else:
                    out.print(said, end="")
                if not any(row["status"] in _RUNNING for row in rows):
                    break
                time.sleep(_EVERY)
    except KeyboardInterrupt:
        err.print("The runs go on.")
        return
    exit_with(problems)


@dataclass
class _Status:
    """Looks at the runs of a bucket, as often as it is asked."""

    place: str
    index: str | None
    chosen: Sequence[str]  # their ids; none for the open and the latest ones
    sweep: str  # the id of one, or ""
    since_ms: int
    running: bool
    failed: bool
    branch: str | None
    backend: str | None

    def __post_init__(self) -> None:
        from kaggleops.mlruns import EntityStore

        self._store = EntityStore(options.bucket_at(self.place))
        self._answers: dict[str, tuple[float, Platform]] = {}

    def _shows(self, run: "RunState", status: str) -> bool:
        statuses = (*(_RUNNING if self.running else ()), *(_FAILED if self.failed else ()))
        return (
            (status in statuses or not statuses)
            and self.branch in (None, run.tags.get(BRANCH))
            and self.backend in (None, run.tags.get(BACKEND), run.tags.get(SUBMITTED_TO))
        )

    def rows(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Return what is known of the runs to show, the latest first; and what is wrong."""
        from kaggleops.mlruns.liveness import look_at, run_state
        from kaggleops.reports.listing import row as row_of

        now_ms = time.time_ns() // 1_000_000
        if self.chosen:
            with err.status("Reading the bucket"):
                ids = [_found(self._store, run_id) for run_id in self.chosen]
                states = [run_state(self._store, each, now_ms) for each in ids]
        else:
            states = self._recent(now_ms)
        platforms = self._ask_platforms(states)
        # One that a platform says is over has ended since it was read here, or ended just now: what
        # it came to, or failed of, stands in the bucket by then.
        over = [each for each in states if each.status in _RUNNING and _is_over(each, platforms)]
        ended = {each.id: each for each in look_at(self._store, over, now_ms)}
        states = [ended.get(each.id, each) for each in states]
        sweeps = self._progress(states)
        rows = []
        for state in states:
            name = state.id.name
            row = row_of(state, platforms.get(name), sweeps.get(name, ""), now_ms)
            if self._shows(state, row["status"]):
                rows.append(row)
        return rows, [state.problem for state in states if state.problem]

    def table(self, rows: Sequence[dict[str, Any]], width: int | None) -> Any:
        """Return a table of rows for a terminal so wide; a sentence if there are none."""
        from kaggleops.reports.listing import table as cells_of

        if not rows:
            since = datetime.fromtimestamp(self.since_ms / 1000, UTC)
            such = any((self.sweep, self.running, self.failed, self.branch, self.backend))
            none = f"No {'such ' if such else ''}run in {self.place} is open or was active since"
            return f"{none} {since:%Y-%m-%d %H:%M} UTC.\n"
        parents: set[str] = set()
        if not (self.chosen or self.sweep or self.failed):
            parents = {row["run_id"] for row in rows if row["sweep"]}
            parents |= {row["run_id"] for row in rows if row["parent"] in parents}
        shown = [row for row in rows if row["parent"] not in parents]
        head, cells, below, least = cells_of(shown, width)
        text = table(head, cells, _STYLES, left=True, below=below, least=least, width=width)
        if hidden := len(rows) - len(shown):
            text.append(f"And {counted(hidden, 'run')} of sweeps: kaggleops status --sweep RUN\n")
        return text

    def _recent(self, now_ms: int) -> "list[RunState]":
        """Return the runs to show, the latest first.

        Which those are is told by the index, and so is all of those that have ended; what is open
        is looked at in the bucket.
        """
        from kaggleops.mlruns.liveness import OPEN, look_at, recent_runs
        from kaggleops.reports.listing import TAGS

        since_ms, sweep = self.since_ms, self.sweep
        if can_index():
            with history_of(self.place, self.index, fresh_for=0) as history:
                # A sweep's runs are shown whenever they ended.
                ended, unsure = history.recent(0 if sweep else since_ms, TAGS)
            # A time that a run has logged may be any.
            ended = [replace(each, heard_ms=min(max(0, each.heard_ms), now_ms)) for each in ended]
            if sweep:
                unsure = _below(sweep, [*ended, *unsure], unsure)
                ended = _below(sweep, ended, ended)
            states = [*ended, *look_at(self._store, unsure, now_ms)]
        else:
            self._store.check()
            states = recent_runs(self._store, 0 if sweep else since_ms, now_ms)
            states = _below(sweep, states, states) if sweep else states
        shown = [
            state
            for state in states
            if sweep
            or state.status in OPEN
            or state.heard_ms >= since_ms
            or _kept_until(state) > now_ms / 1000
        ]
        return sorted(shown, key=lambda state: -state.heard_ms)

    def _progress(self, states: "list[RunState]") -> dict[str, str]:
        """Return how far each of those runs is that is the parent of a sweep, in one line."""
        from kaggleops.campaign.sweep import Sweep

        found = {}
        for state in states:
            with suppress(KaggleOpsError):  # of a version to come, or nothing that we wrote
                if SWEEP in state.tags:
                    found[state.id.name] = Sweep.from_tag(state.tags[SWEEP])
        if not found or not can_index():
            return dict.fromkeys(found, "sweep")
        with history_of(self.place, self.index) as history:
            trials = history.trials(list(found))
        return {
            name: f"sweep, {each.progress(trials.get(name, ()))}" for name, each in found.items()
        }

    def _ask_platforms(self, states: "list[RunState]") -> "dict[str, Platform]":
        now = time.time()
        asked = [
            state
            for state in states
            if state.tags.get(SUBMITTED_TO)
            and (state.status in _RUNNING or self.chosen or _kept_until(state) > now)
            and now - self._answers.get(state.id.name, (0.0, None))[0] > _ASK_EVERY
        ]
        if asked:
            uri = tracking_uri(self.place)
            with err.status("Asking the platforms"), ThreadPoolExecutor(_AT_ONCE) as pool:
                answers = list(pool.map(lambda state: _ask(uri, state), asked))
            for state, said in zip(asked, answers, strict=True):
                self._answers[state.id.name] = now, said
        return {name: said for name, (_, said) in self._answers.items()}


def _is_over(state: "RunState", platforms: "Mapping[str, Platform]") -> bool:
    said = platforms.get(state.id.name)
    return said is not None and bool(said.status) and said.status not in _RUNNING


def _kept_until(state: "RunState") -> float:
    return number(state.tags, KEPT_UNTIL) or 0.0


def _below(parent: str, among: "Sequence[RunState]", of: "Sequence[RunState]") -> "list[RunState]":
    """Return those `of` some runs that are nested below a parent, directly or below one of it."""
    ids = {parent} | {run.id.name for run in among if run.tags.get(PARENT) == parent}
    return [run for run in of if run.tags.get(PARENT) in ids]


def _found(store: "EntityStore", run_id: str) -> Any:
    from kaggleops.layout import is_run_id
    from kaggleops.mlruns import Kind

    found = store.find(Kind.RUN, run_id) if is_run_id(run_id) else None
    if found is None:
        hint = "`kaggleops status` without a run lists recent ones."
        raise UsageError("showing its status", f"no run {run_id} in {store.bucket.uri}", hint)
    return found


def _ask(uri: str, of: "RunState") -> "Platform":
    from kaggleops.backends.base import RemoteRun
    from kaggleops.backends.lookup import backend_named
    from kaggleops.reports.listing import Platform

    is_open = of.status in _RUNNING
    try:
        run = RemoteRun(backend_named(of.tags[SUBMITTED_TO]), uri, of.id.name)
        state = run.state()
        # An open run whose job has ended would otherwise stay open for ever.
        settled = run.settle(state) if is_open and state and state.ended else ""
    except KaggleOpsError as error:
        return Platform(f"unknown ({error.problem})" if is_open or of.tags.get(PRICE) else "")
    # How an ended run ended is known; what is left of it may still cost money.
    if state is None or (not is_open and state.ended and not state.units):
        return Platform()
    return Platform(str(state), settled, state.price, state.units)
