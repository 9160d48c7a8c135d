"""What a list of runs says of each: what ran, where, how far it is, its score, why it failed."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kaggleops import tags
from kaggleops.backends.answers import number
from kaggleops.mlruns.liveness import LOST, OPEN, RunState
from kaggleops.reports.score import score_of
from kaggleops.reports.trainings import EPOCHS, point_of

TAGS = (
    *(tags.ACCELERATOR, tags.BACKEND, tags.BEGAN, tags.BRANCH, tags.CANCELLED, tags.COMMIT),
    *(tags.COST, tags.ENTRY_POINT, tags.FAILURE, tags.FOLD, tags.JOB_ENDED, tags.KEPT_UNTIL),
    *(tags.PARENT, tags.POINT, tags.PRICE, tags.PRUNED, tags.SCORE, tags.SETTINGS),
    *(tags.SHORT_COMMIT, tags.SUBJECT, tags.SUBMITTED_TO, tags.SWEEP, tags.TO_BE_CONTINUED),
    *(tags.TRIAL, tags.UNCOMMITTED),
)
"""The tags that it is told from."""

# Names of a param that says how many steps there are to be; the last part counts.
_STEPS = ("max_steps", "total_steps", "num_steps", "iterations", "num_boost_round", "n_estimators")


@dataclass(frozen=True)
class Platform:
    """What a platform says of a run, and the run's status if that follows from it."""

    said: str = ""
    status: str = ""
    price: float | None = None
    units: float | None = None


def row(run: RunState, platform: Platform | None, sweep: str, now_ms: int) -> dict[str, Any]:
    """Return what is known of a run, ready for JSON.

    `now_ms` is the time by the bucket's clock, in milliseconds since the epoch.
    """
    told, platform = run.tags, platform or Platform()
    status = platform.status or run.status
    began = _began_ms(run)
    ended = run.ended_ms if status not in (*OPEN, LOST) else None
    until = ended or (run.heard_ms if status == LOST else now_ms)
    seconds = max(0, (until - began) // 1000) if began and status != "SCHEDULED" else None
    left, done = None, _part_done(run)
    if status == "RUNNING" and began and done is not None:  # if it goes on as it did
        left = round((now_ms - began) / 1000 * (1 - done) / done)
    score = score_of(told, run.metrics)
    return {
        "run_id": run.id.name,
        "name": run.name or None,
        "experiment_id": run.id.experiment_id,
        "parent": told.get(tags.PARENT, ""),
        "status": status,
        "to_be_continued": told.get(tags.TO_BE_CONTINUED, ""),
        "commit": told.get(tags.SHORT_COMMIT) or told.get(tags.COMMIT, "")[:10],
        "subject": told.get(tags.SUBJECT, ""),
        "branch": told.get(tags.BRANCH, ""),
        "uncommitted": tags.UNCOMMITTED in told,
        "settings": _settings(run),
        "backend": told.get(tags.BACKEND, ""),
        "accelerator": told.get(tags.ACCELERATOR, ""),
        "platform": platform.said,
        "sweep": sweep,
        "step": run.step,
        "began": _iso(began),
        "ended": _iso(ended),
        "seconds": seconds,
        "seconds_left": left,
        "score": score and {"metric": score[0].name, "value": score[1], "lower": score[0].lower},
        "failure": _failure(run, status),
        "heard": _iso(run.heard_ms),
        "silent_seconds": max(0, (now_ms - run.heard_ms) // 1000),
        "promised_seconds": run.promise,
        "price_per_hour": platform.price,
        "units_per_hour": platform.units,
        "cost_usd": number(told, tags.COST) or None,
    }


def _part_done(run: RunState) -> float | None:
    """Return which part of its steps or epochs a run has done; None where that is not told."""
    planned = {}
    for name, value in run.params.items():
        with suppress(ValueError):
            planned[name.rpartition(".")[2].rpartition("/")[2]] = float(value)
    steps = next((planned[name] for name in _STEPS if name in planned), 0.0)
    if run.step is not None and 0 < run.step <= steps < math.inf:
        return run.step / steps
    epochs = next((planned[name] for name in EPOCHS if name in planned), 0.0)
    epoch = run.metrics.get("epoch", 0.0)
    return epoch / epochs if 0 < epoch <= epochs < math.inf else None


def _began_ms(run: RunState) -> int:
    """Return when a machine began a run, or when it was made; in milliseconds since the epoch."""
    with suppress(KeyError, ValueError, OverflowError):
        return int(datetime.fromisoformat(run.tags[tags.BEGAN]).timestamp() * 1000)
    return run.began_ms


def _settings(run: RunState) -> str:
    """Return what was set for a run, in one line."""
    told, params = run.tags, run.params
    entry_point = told.get(tags.ENTRY_POINT, "main")
    is_trial = tags.TRIAL in told and tags.SWEEP not in told
    given = [f"{key}={value}" for key, value in point_of(told).items()]
    if not given and tags.SETTINGS in told:
        given = [told[tags.SETTINGS]]
    elif not given:
        repeated = [f"{name}={params[name]}" for name in ("fold", "seed") if name in params]
        given = [*repeated, params.get("overrides", "")]
    trial = f"trial {told[tags.TRIAL]}" if is_trial else ""
    return " ".join(filter(None, ["" if entry_point == "main" else entry_point, trial, *given]))


def _failure(run: RunState, status: str) -> str:
    """Return why a run did not finish, "" for one that did, or whose machine told nothing."""
    told = run.tags
    if status == "KILLED":
        cancelled = tags.CANCELLED in told and f"cancelled {told[tags.CANCELLED]}"
        return told.get(tags.PRUNED, "") or cancelled or told.get(tags.JOB_ENDED, "")
    if status == "FAILED":
        return "; ".join(filter(None, (told.get(tags.FAILURE), told.get(tags.JOB_ENDED))))
    resume = f"kaggleops resume {run.id.name[:8]}"
    return f"its machine has fallen silent: {resume}" if status == LOST else ""


def _iso(ms: int | None) -> str | None:
    with suppress(ValueError, OverflowError, OSError):
        if ms is not None:
            return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")
    return None


# -- as a table -----------------------------------------------------------------------------------

_WIDE = 110  # cells of a terminal from which on each run is one line
_NARROW = 80  # cells of a terminal below which there is little room for names
_LONGEST_TITLE = 10
_LONGEST_COMMIT = 46  # characters before what was set
_LEAST = (24, 0, 0, 0, 6, 20, 10)  # how narrow each column may become; 0: as wide as it is

Below = list[tuple[str, str]]
"""The lines below a row, each with rich's style."""


def table(
    rows: Sequence[Mapping[str, Any]], width: int | None
) -> tuple[list[str], list[list[str]], list[Below], list[int]]:
    """Return a table's head, cells, lines below its rows, and how narrow each column may become.

    Columns that are empty are left out. `width` is a terminal's, None for any: in a narrow one the
    commit, and what was set, stand below each run.
    """
    wide = width is None or width >= _WIDE
    metrics = {row["score"]["metric"] for row in rows if row["score"]}
    shared = metrics.pop() if len(metrics) == 1 else ""
    title = shared if wide else _shortened(shared)
    head = ["Run", "Status", "Time", title or "Score", "Where", "Commit", "What"]
    names = Counter(row["name"] for row in rows)
    # Of a name that stands without its run's id: it can be typed.
    longest = _LEAST[0] if width is None or width >= _NARROW else 16
    cells, below = [], []
    for row in rows:
        short, name = row["run_id"][:8], row["name"] or ""
        alone = name and names[name] == 1 and len(name) <= longest
        commit = f"{row['commit'][:8]} {row['subject']}".strip()
        changed = "uncommitted changes" if row["uncommitted"] else ""
        what = ", ".join(filter(None, (changed, row["sweep"] or row["settings"])))
        accelerator = row["accelerator"] if wide and row["accelerator"] != "none" else ""
        cells.append(
            [
                name if alone or name == short else f"{short} {name}".strip(),
                row["status"],
                _time(row),
                _score_cell(row["score"], shared),
                f"{row['backend']} {accelerator}".strip(),
                *([commit, what] if wide else []),
            ]
        )
        if not wide and what and len(commit) > _LONGEST_COMMIT:
            commit = f"{commit[: _LONGEST_COMMIT - 1]}…"
        told = "" if wide else " · ".join(filter(None, (commit, what)))
        lines = ((told, "dim"), (row["failure"], "yellow"), (_of_platform(row), "yellow"))
        below.append([line for line in lines if line[0]])
    kept = [at for at, column in enumerate(zip(*cells, strict=True)) if any(column)]
    shown = [[cell[at] for at in kept] for cell in cells]
    least = [longest, *_LEAST[1:]]
    return [head[at] for at in kept], shown, below, [least[at] for at in kept]


def _time(row: Mapping[str, Any]) -> str:
    status, step = row["status"], row["step"]
    if status == "SCHEDULED":
        waits = row["to_be_continued"] and "to be continued"
        return waits or f"waits {duration(row['silent_seconds'])}"
    if status == LOST:
        return f"silent {ago(row['silent_seconds'])}"
    took = "" if row["seconds"] is None else duration(row["seconds"])
    if status == "RUNNING":
        left = row["seconds_left"]
        at = "" if step is None else f"step {step}"
        return ", ".join(filter(None, (at, took if left is None else f"{duration(left)} left")))
    return ", ".join(filter(None, (took, f"{ago(row['silent_seconds'])} ago")))


def _score_cell(score: Mapping[str, Any] | None, shared: str) -> str:
    if score is None:
        return ""
    value = f"{score['value']:.4g}"
    return value if shared else f"{_shortened(score['metric'])} {value}"


def _shortened(metric: str) -> str:
    return metric if len(metric) <= _LONGEST_TITLE else f"{metric[: _LONGEST_TITLE - 1]}…"


def _of_platform(row: Mapping[str, Any]) -> str:
    """Return what there is to know of a run's machine besides that it waits or runs."""
    going_on = row["to_be_continued"] and f"to be continued {row['to_be_continued']}"
    said = row["platform"]
    cost = f"${row['cost_usd']:.2f}" if row["cost_usd"] else ""
    more = said if "," in said or ":" in said or said.startswith("unknown") else ""
    more = "" if more in row["failure"] else more
    return ", ".join(filter(None, (going_on, more, cost)))


def duration(seconds: float) -> str:
    """Return a time as minutes and seconds, hours before them: `0:12`, `1:12:03`; or days."""
    minutes, rest = divmod(int(seconds), 60)
    if minutes >= 2 * 24 * 60:
        return ago(seconds)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def ago(seconds: float) -> str:
    """Return how long ago something was, in the one unit that suits: `3 min`, `2 d`."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds) // size} {unit}"
    return f"{int(seconds)} s"
