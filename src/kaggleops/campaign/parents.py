"""What a parent says of its children: a fold set of its folds, a sweep of its trials.

All of it is told from the children, wherever they ran, by whoever looks, and written only where it
has changed: a parent's tag SUMMARY says which results it shows. A fold set is one training. When
all of its folds are finished it has what `competitions.gather` keeps of `fold=all`, under the same
names: `<metric>_mean` and `<metric>_std`, the out-of-fold table, and `oof_<metric>`. Before, or
where one has failed, it has none of that: a mean of some folds looks like one of all.

A mean never has the metric's own name: who averages the runs of a commit would count it as one.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Run, RunTag

from kaggleops.bucket import Bucket
from kaggleops.campaign.out_of_fold import TableError, gathered
from kaggleops.campaign.state import SweepState, with_score
from kaggleops.campaign.sweep import (
    STATUS_WORDS,
    Job,
    Sweep,
    Trial,
    front,
    means_of,
    progress,
)
from kaggleops.mlruns.folder import now_ms
from kaggleops.mlruns.liveness import LOST, OPEN
from kaggleops.mlruns.ui import run_page, with_section
from kaggleops.printable import as_code, as_markdown
from kaggleops.reports.comparison_text import number, summary
from kaggleops.reports.evidence import OOF_FILE
from kaggleops.reports.score import is_score
from kaggleops.reports.statistics import Summary, summarize
from kaggleops.tags import BEST, NOTE, SUMMARY

_SECTION = "sweep"
_SHOWN = 10  # trials in a table
_LONGEST_SECTION = 4000  # characters, of the 8,000 that MLflow takes for a description
_LONGEST_NOTE = 8000
_LONGEST_NAME = 200  # of a metric; a mean of one that is named in more is left out
_BAD = ("FAILED", "KILLED", "PRUNED")
_ENDED = ("FINISHED", *_BAD)


@dataclass(frozen=True)
class Parent:
    """What one parent's run is going to say."""

    run_id: str
    digest: str  # of the results that it shows
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    text: str  # the section of its description, in Markdown
    step: int = 0  # at which its metrics are logged
    # how it has ended, in MLflow's words; "" where it has not, or that is the watcher's to say
    status: str = ""
    ended_ms: int | None = None
    folds: Sequence[Job] = ()  # whose tables are to be put together


def keep(state: SweepState, client: MlflowClient, bucket: Bucket) -> list[str]:
    """Bring up to date what the parents of a sweep say, and return the ids of those that changed.

    Costs nothing where nothing has changed; twice is once. It goes out with the next flush.

    Raises:
        KaggleOpsError: the bucket cannot be reached.
    """
    changed = []
    for parent, tags in _parents(state):
        if tags.get(SUMMARY) != parent.digest:
            with TemporaryDirectory(prefix="kaggleops-") as folder:
                _write(parent, state.sweep, client, bucket, Path(folder))
            changed.append(parent.run_id)
    return changed


def _parents(state: SweepState) -> Iterator[tuple[Parent, Mapping[str, str]]]:
    """Yield what each parent of a sweep is to say, with the tags that it has now."""
    state = with_score(state)
    alone = any(trial.run_id == state.id for trial in state.trials)  # it is the fold set itself
    for trial in state.trials:
        if any(job.fold for job in trial.jobs):
            found = _fold_set(state, trial)
            # One of many is not written for each of its folds.
            if alone or found.status:
                yield found, state.tags if alone else trial.tags
    if not alone:
        yield _search(state), state.tags


# -- a fold set ---------------------------------------------------------------------------------


def _fold_set(state: SweepState, trial: Trial) -> Parent:
    folds, sweep = trial.jobs, state.sweep
    status = _ended(folds, sweep.folds, trial.status)
    whole = status == "FINISHED"
    values: dict[str, Summary] = {}
    for name in _means_of(folds, sweep.metrics) if whole else ():
        if found := summarize([job.metrics[name] for job in folds]):
            values[name] = found
    metrics = {f"{name}_mean": found.mean for name, found in values.items()}
    spreads = {f"{name}_std": found.spread for name, found in values.items()}
    shown = sweep.metrics
    ended = [job for job in folds if job.status in _ENDED]
    statuses = [job.status if job in ended else "" for job in folds]
    lines = [f"{progress(statuses, len(sweep.folds) or None, 'folds')}."]
    bad = [f"fold {each.fold} {STATUS_WORDS[each.status]}" for each in ended if each.status in _BAD]
    if status and bad:
        lines.append(f"Mean and spread are left out: {as_markdown(', '.join(bad))}.")
    rows = [
        [_link(state, job.run_id, f"fold {job.fold}"), STATUS_WORDS.get(job.status, "finished"),
         *(number(job.metrics[name]) if name in job.metrics else "" for name in shown)]
        for job in ended
    ]  # fmt: skip
    if values:
        rows.append(["mean ± sd", "", *(summary(values.get(name)) for name in shown)])
    told = [
        [job.run_id, job.fold, job.status, sorted(job.metrics.items())]
        if job in ended
        else [job.run_id, job.fold]
        for job in folds
    ]
    return Parent(
        run_id=trial.run_id,
        digest=_digest([status, *told]),
        metrics=metrics | {name: each for name, each in spreads.items() if each is not None},
        tags={},
        text="\n\n".join([*lines, *_table(["fold", "status", *map(as_markdown, shown)], rows)]),
        status=status,
        ended_ms=max((job.ended_ms or 0 for job in folds), default=0) or None,
        folds=folds if whole else (),
    )


def _ended(folds: Sequence[Job], wanted: Sequence[str], status: str) -> str:
    """Return how a fold set has ended; "" where it has not."""
    words = {job.status for job in folds}
    if words & {*OPEN, LOST, ""}:
        return ""
    if status == "PRUNED":
        return "KILLED"
    if not {job.fold for job in folds}.issuperset(wanted):
        return ""
    # Whether a fold that failed is begun again, the trial's own status knows.
    return "FINISHED" if words == {"FINISHED"} else status if status in _BAD else ""


def _means_of(folds: Sequence[Job], metrics: Sequence[str]) -> list[str]:
    """Return the metrics whose means are worth a look: those asked for, then what is a score."""
    shared = set.intersection(*(set(job.metrics) for job in folds))
    scores = sorted(filter(is_score, shared)) or sorted(shared)
    return list(dict.fromkeys([*(name for name in metrics if name in shared), *scores]))[:200]


# -- a sweep's trials ---------------------------------------------------------------------------


def _search(state: SweepState) -> Parent:
    metrics = state.sweep.metrics
    signs = [1.0 if state.sweep.more_is_better(each) else -1.0 for each in metrics]
    # With these, more is better.
    found = {
        trial.number: [sign * value for sign, value in zip(signs, values, strict=True)]
        for trial in state.trials
        if trial.status == "FINISHED" and (values := means_of(trial.jobs, metrics))
    }
    several = len(metrics) > 1
    shown = front(found) if several else found
    ranked = sorted(
        (trial for trial in state.trials if trial.number in shown),
        key=lambda trial: found[trial.number],
        reverse=True,
    )
    statuses = [trial.status if trial.status in _ENDED else "" for trial in state.trials]
    lines = [f"{state.sweep.progress(statuses)}."]
    if several and ranked:
        lines.append("No other trial is better than one of these in everything:")
    rows = [
        [_link(state, trial.run_id, f"trial {trial.number}"),
         *map(number, means_of(trial.jobs, metrics) or ()), point_text(trial.point)]
        for trial in ranked[:_SHOWN]
    ]  # fmt: skip
    return Parent(
        run_id=state.id,
        digest=_digest([state.sweep.trials, statuses, [list(each) for each in found.items()]]),
        metrics={
            f"best_{name}": sign * max(values[at] for values in found.values())
            for at, (name, sign) in enumerate(zip(metrics, signs, strict=True))
            if found
        },
        tags={BEST: ranked[0].run_id} if ranked and not several else {},
        text="\n\n".join(
            [*lines, *_table(["trial", *map(as_markdown, metrics), "settings"], rows)]
        ),
        step=statuses.count("FINISHED"),
    )


def point_text(point: Mapping[str, str]) -> str:
    """Return what was set for a trial in Markdown, shortened."""
    items = [f"{key}={value}" for key, value in point.items()]
    cut = [each if len(each) <= 80 else f"{each[:79]}…" for each in items[:8]]
    return " ".join(map(as_code, cut)) + (" …" if len(items) > 8 else "")


# -- both ---------------------------------------------------------------------------------------


def _digest(of: Sequence[Any]) -> str:
    text = json.dumps(of, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _link(state: SweepState, run_id: str, text: str) -> str:
    return f"[{as_markdown(text)}]({run_page(state.experiment_id, run_id)})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table in Markdown, with as many of the rows as there is room for; [] without any."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    while sum(map(len, lines)) > _LONGEST_SECTION:
        lines.pop()
    return ["\n".join(lines)] if rows else []


def _write(
    parent: Parent, sweep: Sweep, client: MlflowClient, bucket: Bucket, folder: Path
) -> None:
    metrics, text = dict(parent.metrics), parent.text
    if parent.folds:
        try:
            table, scores = gathered(parent.folds, client, bucket, folder)
        except TableError as error:
            text += f"\n\nNo out-of-fold table: {as_markdown(str(error.problem))}."
            name, scores = OOF_FILE, {}
        else:
            name = table.name
            client.log_artifact(parent.run_id, str(table))
            metrics |= {f"oof_{name}": value for name, value in scores.items()}
            listed = ", ".join(f"{as_markdown(name)} {number(scores[name])}" for name in scores)
            of_all = "Out of fold" if name == OOF_FILE else "Of all shards"
            text += f"\n\n{of_all}: " + (f"{listed} ({name})." if scores else f"{name}.")
        if sweep.gather and not scores and name == OOF_FILE:
            ids = ",".join(job.run_id for job in parent.folds)
            text += f" `kaggleops run -e gather runs={ids}` scores all rows together."
    # As it is now: somebody may be writing on its page.
    run = client.get_run(parent.run_id)
    note = _noted(run, text)
    tags = {**parent.tags, SUMMARY: parent.digest} | ({NOTE: note} if note else {})
    now = parent.ended_ms or now_ms()
    client.log_batch(
        parent.run_id,
        metrics=[
            Metric(name, value, now, parent.step)
            for name, value in metrics.items()
            if run.data.metrics.get(name) != value and len(name) <= _LONGEST_NAME
        ],
        tags=[RunTag(*tag) for tag in tags.items() if run.data.tags.get(tag[0]) != tag[1]],
    )
    if parent.status and run.info.status not in (parent.status, "KILLED"):
        client.set_terminated(parent.run_id, parent.status, parent.ended_ms)


def _noted(run: Run, text: str) -> str:
    """Return a run's description with our section; "" where there is no room for it."""
    before = run.data.tags.get(NOTE, "")
    for each in (text, text.partition("\n\n")[0]):
        if len(note := with_section(before, _SECTION, each)) <= _LONGEST_NOTE:
            return note
    return ""
