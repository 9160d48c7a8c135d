"""What the sweeps of a bucket are at: told from their runs alone, as an index has them.

The index is brought up to date first, so what is open is as the bucket has it, LOST included.
Importing MLflow takes longer than all of this, and nothing here needs it. Anybody may have written
a tag: a sweep whose tags make no sense has a `problem`, and is skipped.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from kaggleops.campaign.sweep import (
    Direction,
    Job,
    Sweep,
    Trial,
    fold_id,
    means_by_step,
    means_of,
    trial_id,
)
from kaggleops.errors import KaggleOpsError
from kaggleops.launch.legs import next_leg
from kaggleops.mlruns.liveness import LOST as IS_LOST
from kaggleops.reports.score import declared, score_among
from kaggleops.reports.trainings import point_told
from kaggleops.tags import (
    LEGS,
    LOST,
    PARENT,
    PRUNED,
    SUBMITTED_TO,
    SWEEP,
    TO_BE_CONTINUED,
    TRIAL,
)

if TYPE_CHECKING:
    from kaggleops.reports.history import History
    from kaggleops.reports.trainings import Run

OPEN = ("SCHEDULED", "RUNNING", IS_LOST)

_MOST_TRIALS = 100_000


@dataclass(frozen=True)
class SweepState:
    """One sweep, as its runs tell it."""

    id: str  # its parent run's
    experiment_id: str
    name: str
    sweep: Sweep
    trials: Sequence[Trial] = ()  # by number
    status: str = "RUNNING"  # the parent's
    tags: Mapping[str, str] = field(default_factory=dict)  # the parent's
    begun_ms: int = 0
    problem: str = ""  # why it cannot continue, "" if it can

    @property
    def progress(self) -> str:
        """How far it is, in a few words."""
        parts: Sequence[Job | Trial] = self.jobs if self.sweep.only_folds else self.trials
        return self.sweep.progress(each.status for each in parts)

    @property
    def jobs(self) -> list[Job]:
        """All that a machine runs, or has run."""
        return [job for trial in self.trials for job in trial.jobs]


def open_sweeps(history: "History") -> list[SweepState]:
    """Return the sweeps that are not over, the oldest first: the runs have to be up to date.

    One that was cancelled comes too, as long as jobs of it are open.
    """
    found = []
    for parent in history.having(SWEEP):
        if parent.status in ("RUNNING", "SCHEDULED", "KILLED"):
            state = state_of(history, parent)
            if parent.status != "KILLED" or any(each.status in OPEN for each in state.jobs):
                found.append(state)
    return found


def state_of(history: "History", parent: "Run", *, histories: bool = True) -> SweepState:
    """Return what a sweep is at; with `histories`, the metric's points too, if it prunes."""
    told = SweepState(
        parent.id,
        parent.experiment_id,
        parent.name,
        Sweep(()),
        status=parent.status,
        tags=parent.tags,
        begun_ms=parent.started_ms,
    )
    try:
        sweep = Sweep.from_tag(parent.tags.get(SWEEP, ""))
    except KaggleOpsError as error:
        return replace(told, problem=error.problem)
    told = replace(told, sweep=sweep)
    try:
        trials = _trials(history, parent.id, sweep)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return replace(told, problem=f"the tags of a trial make no sense ({error})")
    if sweep.pruner and sweep.metrics and histories:
        trials = _with_reports(history, trials, sweep.metrics[0])
    return replace(told, trials=trials)


def with_score(state: SweepState) -> SweepState:
    """Return a sweep that names no metric with its jobs' score as its metric; any other as it is.

    By that its trials are ranked where people read of them; what is tried next does not follow it.
    """
    if state.sweep.metrics or not state.jobs:
        return state
    counted = Counter(name for job in state.jobs for name in job.metrics)
    if (score := score_among(counted, declared(state.jobs[0].tags))) is None:
        return state
    direction: Direction = "minimize" if score.lower else "maximize"
    sweep = replace(state.sweep, metrics=[score.name], directions=[direction])
    trials = [
        replace(trial, values=means_of(trial.jobs, sweep.metrics))
        if trial.status == "FINISHED"
        else trial
        for trial in state.trials
    ]
    return replace(state, sweep=sweep, trials=trials)


def waits_for_a_machine(job: Job) -> bool:
    """Tell whether a job is to be handed to a platform: for the first time, or to go on."""
    if job.status == "SCHEDULED":
        return not job.tags.get(SUBMITTED_TO) or bool(job.tags.get(TO_BE_CONTINUED))
    if job.status in ("FAILED", "KILLED"):
        return next_leg(job.tags, job.status, job.step).what == "continue"
    return False


def is_sent(job: Job) -> bool:
    """Tell whether a platform has a job, or may have it."""
    sent = job.status in OPEN and bool(job.tags.get(SUBMITTED_TO))
    return sent and not waits_for_a_machine(job)


def _trials(history: "History", sweep_id: str, sweep: Sweep) -> list[Trial]:
    children = history.having(PARENT, [sweep_id])
    if sweep.only_folds:
        found = _trial(sweep, 0, sweep_id, children)
        return [found] if found.jobs else []
    known = {
        number: run
        for run in children
        if (number := _number(run)) is not None and run.id == trial_id(sweep_id, number)
    }
    below = defaultdict(list)
    for each in history.having(PARENT, [run.id for run in known.values()]) if sweep.folds else ():
        below[each.parent].append(each)
    return [
        _trial(sweep, number, run.id, below[run.id] if sweep.folds else [run], run)
        for number, run in sorted(known.items())
    ]


def _number(run: "Run") -> int | None:
    """Return a trial's number; None for a run that somebody nested under the sweep."""
    text = run.tags.get(TRIAL, "")
    return int(text) if text.isdecimal() and text.isascii() and int(text) < _MOST_TRIALS else None


def _job(number: int, run: "Run", fold: str = "") -> Job:
    lost = run.status == "RUNNING" and LOST in run.tags
    return Job(
        run_id=run.id,
        number=number,
        point=point_told(run.tags) or {},
        fold=fold,
        status=IS_LOST if lost else run.status,
        tags=run.tags,
        metrics=run.metrics,
        begun_ms=run.started_ms,
        ended_ms=run.ended_ms,
        step=run.step,
    )


def _trial(
    sweep: Sweep, number: int, run_id: str, runs: "Sequence[Run]", own: "Run | None" = None
) -> Trial:
    """Return a trial of the runs of its folds, or of its own run if it has none."""
    jobs = [_job(number, run) for run in runs]
    if sweep.folds:
        # A run is a fold by its id, which nobody can change; its tag is for people to read.
        by_id = {run.id: run for run in runs}
        ids = {fold: fold_id(run_id, fold) for fold in sweep.folds}
        jobs = [_job(number, by_id[ids[fold]], fold) for fold in sweep.folds if ids[fold] in by_id]
    tags = own.tags if own else {}
    point = point_told(tags) if own else {}
    # Where somebody changed that tag it counts as ended: a fold made for it would be another's.
    killed = point is None or bool(own and sweep.folds and own.status == "KILLED")
    status = _status(jobs, len(sweep.folds) or 1, killed)
    done = status == "FINISHED" and sweep.metrics
    values = means_of(jobs, sweep.metrics) if done else None
    return Trial(number, run_id, point or {}, jobs, values, status, tags=tags)


def _status(jobs: Sequence[Job], wanted: int, killed: bool) -> str:
    statuses = {"SCHEDULED" if waits_for_a_machine(job) else job.status for job in jobs}
    statuses |= {"KILLED"} if killed else set()
    if any(job.tags.get(PRUNED) for job in jobs):
        return "PRUNED"
    for word in ("FAILED", "KILLED", IS_LOST):
        if word in statuses:
            return word
    if statuses == {"FINISHED"} and len(jobs) >= wanted:
        return "FINISHED"
    begun = statuses & {"RUNNING", "FINISHED"} or any(job.tags.get(LEGS) for job in jobs)
    return "RUNNING" if begun else "SCHEDULED"


def _with_reports(history: "History", trials: Sequence[Trial], metric: str) -> list[Trial]:
    """Return trials with what their jobs logged so far, step by step: read from the bucket."""
    logged = [job.run_id for trial in trials for job in trial.jobs if metric in job.metrics]
    try:
        points = history.points(logged, metric) if logged else {}
    except KaggleOpsError:
        return list(trials)  # nothing is pruned for now
    return [
        replace(trial, reports=means_by_step(points.get(job.run_id, ()) for job in trial.jobs))
        for trial in trials
    ]
