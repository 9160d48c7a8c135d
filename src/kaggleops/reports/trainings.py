"""Which runs of some sides are compared: those of one experiment, of its newest training."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from kaggleops.errors import UsageError
from kaggleops.reports.history import HOUSEKEEPING, REPEATED, Run
from kaggleops.reports.selection import Side


def newest_trainings(
    sides: Sequence[Side], metrics: Sequence[str], notes: list[str]
) -> list[list[Run]]:
    """Return each side's runs that are compared: one for each fold and seed of a training.

    Args:
        sides: where they are from.
        metrics: which they ought to have; empty for any.
        notes: to which it is added what was left out.

    Raises:
        UsageError: the sides are of different tasks, or of several experiments and share none.
    """
    _require_one_task(sides)
    newest = [_newest(side, notes) for side in _of_one_experiment(sides, metrics, notes)]
    seen: dict[frozenset[str], Side] = {}
    for side, runs in zip(sides, newest, strict=True):
        other = seen.setdefault(frozenset(run.id for run in runs), side)
        if other is not side:
            notes.append(f"{other.title} and {side.title} are the same runs.")
    return newest


def settings(run: Run) -> dict[str, str]:
    """Return the params that say what a training was set to."""
    return {key: value for key, value in run.params.items() if key not in HOUSEKEEPING}


def repetition(run: Run) -> tuple[str, ...]:
    """Return what tells a run from the others of its training: its fold and seed."""
    return tuple(run.params.get(name, "") for name in REPEATED)


def some(names: Sequence[str]) -> str:
    """Return the first of some names, for a message."""
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "") if names else "none"


def _require_one_task(sides: Sequence[Side]) -> None:
    tasks = [{run.params.get("task") or run.experiment for run in side.runs} for side in sides]
    if not set.intersection(*tasks):
        said = "; ".join(
            f"{side.title} is {', '.join(sorted(found))}"
            for side, found in zip(sides, tasks, strict=True)
        )
        hint = "Name runs of one task, or one with --experiment."
        raise UsageError("comparing", f"they are of different tasks: {said}", hint)


def _of_one_experiment(
    sides: Sequence[Side], metrics: Sequence[str], notes: list[str]
) -> Sequence[Side]:
    """Return the sides with their runs of the experiment that all of them share.

    Where they share several, it is the one with the metrics, and of those the one with most runs.
    """
    by_name = [_by_experiment(side.runs) for side in sides]
    shared = set.intersection(*map(set, by_name))
    if not shared:
        if all(len(each) == 1 for each in by_name):
            return sides
        said = "; ".join(
            f"{side.title} has {some(sorted(each))}"
            for side, each in zip(sides, by_name, strict=True)
        )
        raise UsageError("comparing", f"they share no experiment: {said}", "Name runs instead.")

    def weight(name: str) -> tuple[bool, int, int]:
        runs = [each[name] for each in by_name]
        has_metrics = all(any(run.metrics.keys() & metrics for run in each) for each in runs)
        latest = max(run.started_ms for each in runs for run in each)
        return has_metrics, sum(map(len, runs)), latest

    chosen = max(shared, key=weight)
    left = sorted({name for each in by_name for name in each} - {chosen})
    if left:
        hint = " --experiment NAME compares others." if len(shared) > 1 else ""
        notes.append(f"Only runs of {chosen} are compared, not those of {some(left)}.{hint}")
    return [
        Side(side.word, side.sha, tuple(each[chosen]))
        for side, each in zip(sides, by_name, strict=True)
    ]


def _by_experiment(runs: Iterable[Run]) -> dict[str, list[Run]]:
    found: defaultdict[str, list[Run]] = defaultdict(list)
    for run in runs:
        found[run.experiment].append(run)
    return dict(found)


def _newest(side: Side, notes: list[str]) -> list[Run]:
    """Return the runs of the side's newest training: one for each fold and seed."""
    groups: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in side.runs:
        groups.setdefault(tuple(sorted(settings(run).items())), []).append(run)
    newest = max(groups.values(), key=lambda runs: max(run.started_ms for run in runs))
    if len(groups) > 1:
        notes.append(
            f"{side.title} has runs of {len(groups)} settings; the newest is compared. "
            "Name a run to choose another."
        )
    kept: dict[tuple[str, ...], Run] = {}
    for run in sorted(newest, key=lambda run: -run.started_ms):
        kept.setdefault(repetition(run), run)
    return list(kept.values())
