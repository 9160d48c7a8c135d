"""The campaign as one HTML page, worked out from the runs: what runs where, what waits and why.

1. It is one object, and asks nobody for anything (reports/html.py).
2. What others wrote (names, tags, params, errors) is shown as text, without secrets.
3. However many trials there are, it stays below about a megabyte: some trials, points and jobs are
   left out, and it says how many.
4. The same campaign gives the same page but for the time, so that it is written again only if
   something changed. What passes by itself ("3 min ago") is worked out in the browser.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaggleops.backends.answers import number, objects, text
from kaggleops.campaign.money import sessions_of, spent
from kaggleops.campaign.plan import Forecast
from kaggleops.campaign.state import SweepState, state_of, with_score
from kaggleops.campaign.sweep import Job, Trial, means_by_step
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.mlruns.liveness import LOST as LOST_STATUS
from kaggleops.mlruns.liveness import OPEN
from kaggleops.printable import printable
from kaggleops.redaction import HIDDEN, names_a_secret, redacted
from kaggleops.reports import html
from kaggleops.reports.history import History
from kaggleops.reports.leaderboard import leaderboard, read_runs
from kaggleops.reports.score import score_of
from kaggleops.reports.statistics import interval, summarize
from kaggleops.tags import (
    ACCELERATOR,
    BACKEND,
    DECISION,
    FAILURE,
    JOB_ENDED,
    LOST,
    PRUNED,
    SUBMITTED_TO,
    SWEEP,
    TOLD,
    TRIAL,
)

if TYPE_CHECKING:
    from kaggleops.backends.interface import Offer

EVERY = 600
"""Seconds within which a page is written again while something runs: an older one says that nobody
keeps it."""

_SCRIPT = Path(__file__).with_name("campaign.js")
_MOST_SWEEPS = 20
_MOST_TRIALS = 1000  # of all sweeps together, each with its params
_MOST_CURVES = 16  # of a sweep
_MOST_POINTS = 150  # of a curve: more are not seen at its width
_MOST_READ = 64  # runs whose points are asked of the bucket
_MOST_JOBS = 60  # that run, and that failed
_MOST_RANKED = 20  # commits of an experiment
_MOST_NAMED = 4  # jobs of a group
_LONGEST = 200  # characters of a text
_DAY = 24 * 3600 * 1000

_Points = Mapping[str, Sequence[tuple[int, float]]]
"""Steps and values by run."""


def recent_sweeps(history: History, known: Sequence[SweepState] = ()) -> list[SweepState]:
    """Return the newest sweeps of a bucket; those that are `known` as they are."""
    states = {state.id: state for state in known}
    for parent in history.having(SWEEP)[-_MOST_SWEEPS:]:
        if parent.id not in states:
            states[parent.id] = state_of(history, parent, histories=False)
    return list(states.values())


def view_of(
    history: History,
    sweeps: Sequence[SweepState],
    offers: Sequence["Offer"] | None,
    now: datetime,
    bucket: str = "",
    told: Mapping[str, datetime] | None = None,
) -> dict[str, Any]:
    """Return what is to be shown of a bucket at an address, as JSON has it.

    `offers` are what the backends can give now, None where nobody was asked; `told` is when those
    said so that were not asked now.
    """
    newest = sorted(map(with_score, sweeps), key=lambda state: (-state.begun_ms, state.id))
    points = _points(history, newest[:_MOST_SWEEPS])
    room = _MOST_TRIALS
    shown = []
    for state in newest[:_MOST_SWEEPS]:
        shown.append(_sweep(state, points, room, now))
        room -= len(shown[-1]["trials"])
    jobs = _by_status([*_jobs_of(newest, points, now), *_other_jobs(history, newest, now)])
    live = any(state.status in OPEN for state in newest)
    return {
        "now": int(now.timestamp() * 1000),
        "bucket": _text(bucket),
        "every": EVERY,
        "live": live or bool({*OPEN} & jobs["counts"].keys()),
        "sweeps": shown,
        "more_sweeps": max(0, len(newest) - _MOST_SWEEPS),
        **jobs,
        "boards": _boards(history, newest),
        "offers": None if offers is None else [_offer(each, told or {}) for each in offers],
    }


def page(view: Mapping[str, Any]) -> bytes:
    """Return the page: the same bytes for the same view."""
    return html.page("KaggleOps", _SCRIPT, view).encode()


def _text(said: str) -> str:
    """Return a text as it may be shown: without secrets, and not longer than anybody reads."""
    said = printable(redacted(said))
    return said if len(said) <= _LONGEST else f"{said[: _LONGEST - 1]}…"


def _number(value: float | None) -> float | str | None:
    """Return a number as JSON has it, with as many digits as are shown."""
    if value is None or math.isnan(value):
        return value if value is None else "NaN"
    return float(f"{value:.6g}") if math.isfinite(value) else "∞" if value > 0 else "-∞"


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


# -- sweeps -------------------------------------------------------------------------------------


def _sweep(state: SweepState, points: _Points, room: int, now: datetime) -> dict[str, Any]:
    sweep, trials = state.sweep, state.trials
    metrics = list(sweep.metrics)
    order = _best_first(state)
    best = order[0] if order and _score(order[0]) is not None else None
    ended = [job.ended_ms for each in trials for job in each.jobs if job.ended_ms]
    shown = sorted(order[: max(0, room)], key=lambda trial: trial.number)
    # What is billed grows all the time: it is shown as it was some minutes ago.
    lately = datetime.fromtimestamp(now.timestamp() // EVERY * EVERY, UTC)
    names = sorted({name for trial in shown for name in trial.point})
    return {
        "id": state.id,
        "experiment": state.experiment_id,
        "name": _text(state.name or state.id[:8]),
        "status": state.status,
        "problem": _text(state.problem),
        "told": _text(state.tags.get(TOLD, "")),
        "axes": [_text(each) for each in sweep.axes],
        "sampler": _text(sweep.sampler),
        "pruner": _text(sweep.pruner),
        "metrics": [_text(each) for each in metrics],
        "directions": list(sweep.directions),
        "spent": _finite(round(spent(state.jobs, lately), 2)) or 0.0,
        "budget": _finite(sweep.budget),
        "counts": dict(sorted(Counter(each.status for each in trials).items())),
        "total": max(len(trials), sweep.trials or 0),
        "begun": state.begun_ms,
        "ended": max(ended, default=0) if state.status not in OPEN else 0,
        "best": best.number if best else None,
        "params": [_text(each) for each in names],
        "trials": [_trial(each, names, metrics) for each in shown],
        "more": len(trials) - len(shown),
        "curves": [
            [trial.number, trial.status, curve]
            for trial in _with_curves(order)
            if len(curve := _thin(_curve(trial, points))) > 1
        ],
    }


def _score(trial: Trial) -> float | None:
    return trial.values[0] if trial.values and math.isfinite(trial.values[0]) else None


def _best_first(state: SweepState) -> list[Trial]:
    """Return the trials with a score, the best first, then the others, the newest first."""
    sign = -1 if state.sweep.more_is_better("".join(state.sweep.metrics[:1])) else 1

    def rank(trial: Trial) -> tuple[int, float, int]:
        score = _score(trial)
        return (1, 0.0, -trial.number) if score is None else (0, sign * score, trial.number)

    return sorted(state.trials, key=rank)


def _trial(trial: Trial, names: Sequence[str], metrics: Sequence[str]) -> list[Any]:
    """Return number, status, scores, params, half an interval, time taken, why, score so far."""
    half = None
    if metrics and len(trial.jobs) > 1:
        values = [job.metrics[metrics[0]] for job in trial.jobs if metrics[0] in job.metrics]
        found = summarize(values)
        ends = interval(found) if found else None
        half = (ends[1] - ends[0]) / 2 if ends else None
    begun = [job.begun_ms for job in trial.jobs if job.begun_ms]
    ended = [job.ended_ms for job in trial.jobs if job.ended_ms]
    why = next((why for job in trial.jobs if (why := _why(job.tags))), "")
    over = trial.status not in OPEN and begun and ended
    return [
        trial.number,
        trial.status,
        [_number(each) for each in trial.values or ()],
        [_value(name, trial.point.get(name, "")) for name in names],
        _number(half),
        max(ended) - min(begun) if over else None,
        _text(why),
        _number(trial.reports[-1][1]) if trial.reports and not trial.values else None,
    ]


def _why(tags: Mapping[str, str]) -> str:
    return tags.get(PRUNED) or tags.get(FAILURE) or tags.get(JOB_ENDED) or tags.get(LOST) or ""


def _value(name: str, value: str) -> str:
    return HIDDEN if names_a_secret(name.rpartition(".")[2]) and value else _text(value)


# -- curves -------------------------------------------------------------------------------------


def _with_curves(order: Sequence[Trial]) -> list[Trial]:
    """Return the trials whose curves are shown: those that run, then the best, by turns."""
    running = [trial for trial in order if trial.status == "RUNNING"][: _MOST_CURVES // 2]
    others = [trial for trial in order if trial.status not in (*OPEN, "FAILED")]
    return [*running, *others[: _MOST_CURVES - len(running)]]


def _points(history: History, states: Sequence[SweepState]) -> _Points:
    """Return what jobs of drawn trials logged of their sweep's metric, unless trials report it."""
    found: dict[str, Sequence[tuple[int, float]]] = {}
    room = _MOST_READ
    for state in states:
        metric = "".join(state.sweep.metrics[:1])
        drawn = [trial for trial in _with_curves(_best_first(state)) if not trial.reports]
        logged = [job for trial in drawn for job in trial.jobs if metric in job.metrics]
        asked = [job.run_id for job in logged[:room]]
        room -= len(asked)
        # Whoever keeps the page has said by then that the bucket is out of reach.
        with suppress(KaggleOpsError):
            found |= history.points(asked, metric) if asked else {}
    return found


def _curve(trial: Trial, points: _Points) -> Sequence[tuple[int, float]]:
    """Return a trial's steps and values: the means of its jobs that have reached a step."""
    return trial.reports or means_by_step(points.get(job.run_id, ()) for job in trial.jobs)


def _step(job: Job, trial: Trial, points: _Points) -> int | None:
    known = points.get(job.run_id) or (trial.reports if len(trial.jobs) == 1 else ())
    return known[-1][0] if known else None


def _thin(points: Sequence[tuple[int, float]]) -> list[list[Any]]:
    every = max(1, math.ceil(len(points) / _MOST_POINTS))
    chosen = [*points[:-1:every], *points[-1:]]
    return [[step, _number(value)] for step, value in chosen if math.isfinite(value)]


# -- jobs ---------------------------------------------------------------------------------------


def _jobs_of(
    states: Sequence[SweepState], points: _Points, now: datetime
) -> Iterable[dict[str, Any]]:
    for state in states:
        if state.status not in OPEN:
            continue
        metric = state.sweep.metrics[0] if state.sweep.metrics else ""
        jobs = [(trial, job) for trial in state.trials for job in trial.jobs]
        forecast = Forecast([job for _, job in jobs])
        for trial, job in jobs:
            if job.status in (*OPEN, "FAILED", LOST_STATUS):
                name = f"trial {job.number}"
                begun, until = _times(job, forecast, now)
                yield {
                    **_shown(job.run_id, state.experiment_id, job.status, job.tags),
                    "sweep": _text(state.name or state.id[:8]),
                    "trial": name,
                    "name": f"{name}, fold {_text(job.fold)}" if job.fold else name,
                    "step": _step(job, trial, points),
                    "metric": _text(metric),
                    "score": _number(job.metrics.get(metric)),
                    "begun": begun,
                    "until": until,
                }


def _times(job: Job, forecast: Forecast, now: datetime) -> tuple[int, int | None]:
    """Return when the session of a job began, and when the job should be over (ms), if known."""
    sessions = sessions_of(job.tags, now)
    begun = int(sessions[-1].at * 1000) if sessions else job.begun_ms
    hours = forecast.hours if job.status == "RUNNING" else None
    if hours is None:
        return begun, None
    had = sum((each.until or each.at) - each.at for each in sessions[:-1])
    return begun, int(begun + 1000 * (3600 * hours - had))


def _other_jobs(
    history: History, states: Sequence[SweepState], now: datetime
) -> Iterable[dict[str, Any]]:
    """Yield the jobs that run, or failed within a day, and are none of a sweep's."""
    since = int(now.timestamp() * 1000) - _DAY
    ended, unsure = history.recent(since, [LOST])
    found = [state.id.name for state in (*ended, *unsure) if state.status in (*OPEN, "FAILED")]
    parents = {state.id for state in states}
    for run in history.runs(found):
        if run.id not in parents and not {SWEEP, TRIAL} & run.tags.keys():
            status = LOST_STATUS if LOST in run.tags and run.status in OPEN else run.status
            scored = score_of(run.tags, run.metrics)
            name = _text(run.name or run.id[:8])
            yield {
                **_shown(run.id, run.experiment_id, status, run.tags),
                "sweep": "",
                "trial": name,
                "name": name,
                "step": None,
                "metric": _text(scored[0].name if scored else ""),
                "score": _number(scored[1] if scored else None),
                "begun": run.started_ms,
                "until": None,
            }


def _shown(run_id: str, home: str, status: str, tags: Mapping[str, str]) -> dict[str, Any]:
    accelerator = tags.get(ACCELERATOR, "")
    return {
        "run": run_id,
        "experiment": home,
        "status": status,
        "where": _text(tags.get(SUBMITTED_TO) or tags.get(BACKEND) or ""),
        "accelerator": _text(accelerator if accelerator != "none" else ""),
        "why": _text((tags.get(DECISION, "") if status in OPEN else "") or _why(tags)),
    }


def _by_status(jobs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the jobs that run; and those that wait or went wrong, together by their reason."""
    running = sorted(
        (job for job in jobs if job["status"] == "RUNNING"),
        key=lambda job: (-job["begun"], job["sweep"], job["name"], job["run"]),
    )
    groups: defaultdict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for job in jobs:
        if job["status"] != "RUNNING":
            groups[job["status"], job["sweep"], job["why"]].append(job)
    found = [
        {
            "status": status,
            "sweep": sweep,
            "where": ", ".join(sorted({job["where"] for job in group} - {""})),
            "why": why,
            "count": len(group),
            "names": _names(group),
        }
        for (status, sweep, why), group in groups.items()
    ]
    waiting = [group for group in found if group["status"] == "SCHEDULED"]
    wrong = [group for group in found if group["status"] != "SCHEDULED"]
    return {
        "counts": dict(sorted(Counter(job["status"] for job in jobs).items())),
        "running": running[:_MOST_JOBS],
        "more_running": max(0, len(running) - _MOST_JOBS),
        "waiting": waiting[:_MOST_JOBS],
        "wrong": wrong[:_MOST_JOBS],
    }


def _names(jobs: Sequence[dict[str, Any]]) -> list[str]:
    """Return what some of a group's jobs are called: the folds of a trial together."""
    folds = Counter(job["trial"] for job in jobs)
    names = [f"{name} ({count} folds)" if count > 1 else name for name, count in folds.items()]
    return names if len(names) <= _MOST_NAMED else [*names[:_MOST_NAMED], "…"]


# -- leaderboard, quota -------------------------------------------------------------------------


def _boards(history: History, states: Sequence[SweepState]) -> list[dict[str, Any]]:
    """Return the leaderboards of the newest sweeps' experiments, else of the last run's."""
    last = history.last_experiment()
    wanted = dict.fromkeys([*(state.experiment_id for state in states), *filter(None, [last])])
    names = {number: name for name, number in history.experiments().items()}
    boards = []
    for experiment in [each for each in wanted if each in names][:3]:
        with suppress(UsageError):  # there is no score yet
            score = history.score(experiment, "ranking the commits")
            entries = leaderboard(read_runs(history, experiment, score.name), score, {})
            rows = [
                {
                    "commit": _text(
                        f"blend of {entry.members}" if entry.members else entry.sha[:10]
                    ),
                    "run": entry.runs[0],
                    "runs": len(entry.runs),
                    "mean": _number(entry.score.mean),
                    "ends": ends and [_number(each) for each in ends],
                    "cells": [
                        [name, _text(cell) if isinstance(cell, str) else _number(cell)]
                        for name, cell in entry.cells.items()
                    ],
                }
                for entry in entries[:_MOST_RANKED]
                for ends in [interval(entry.score)]
            ]
            board = {
                "experiment": experiment,
                "name": _text(names[experiment]),
                "metric": _text(score.name),
                "higher": not score.lower,
                "rows": rows,
                "more": max(0, len(entries) - _MOST_RANKED),
            }
            boards += [board] if rows else []
    return boards


def _offer(offer: "Offer", told: Mapping[str, datetime]) -> dict[str, Any]:
    when = told.get(offer.backend)
    return {
        "backend": _text(offer.backend),
        "accelerator": _text(offer.accelerator),
        "sessions": offer.sessions,
        "price": _finite(offer.price),
        "hours": _finite(offer.hours),
        "refreshes": int(offer.refreshes.timestamp() * 1000) if offer.refreshes else None,
        "problem": _text(offer.problem),
        "told": int(when.timestamp() * 1000) if when else None,
    }


def offers_told(content: object) -> tuple[list[dict[str, Any]], int] | None:
    """Return the offers in another page's data, and when they were told (ms); None without any.

    Anybody may have written that page: what is no offer is left out.
    """
    now, found = number(content, "now"), []
    for each in (objects(content, "offers") or [])[:_MOST_JOBS]:
        numbers = {name: number(each, name) for name in ("price", "hours", "refreshes", "told")}
        texts = {name: _text(text(each, name)) for name in ("backend", "accelerator", "problem")}
        if (sessions := number(each, "sessions")) is not None and texts["backend"]:
            found.append({**texts, "sessions": sessions, **numbers})
    return (found, int(now)) if found and now is not None else None
