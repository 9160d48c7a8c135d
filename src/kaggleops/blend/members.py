"""A blend's members: which runs, and what they predicted.

A member is a run, or the runs of its folds. Its tables are artifacts, of any repository:

- `oof.csv`: a line for each training row, its id first, with what was predicted of it out of fold;
  or `oof.npy`, the predictions alone, in the order of the rows of `--truth`;
- `predictions.csv` (or `test.npy`, in the order of `--sample`): the same columns of the test rows;
- `submission.csv`: what was, or would be, handed in.

Where a run has no `oof.csv`, it is made of those of the runs of its folds. A run that predicted
with the models of another (param `runs`) has the test rows of that one.
"""

import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kaggleops.bucket import Bucket, ObjectNotFoundError
from kaggleops.errors import UsageError
from kaggleops.printable import counted
from kaggleops.reports.evidence import OOF_FILE
from kaggleops.reports.history import History
from kaggleops.reports.leaderboard import read_runs, trials_of
from kaggleops.reports.score import Score, declared, named
from kaggleops.reports.selection import Selector, the_run_called
from kaggleops.reports.statistics import summarize_scores
from kaggleops.reports.trainings import Run, scores_of, trainings, worth
from kaggleops.tags import BLEND, PARENT

MOST = 100
"""Members of a blend."""

FOLD = "fold"
PREDICTION = "prediction"
PREDICTIONS = "predictions.csv"
SUBMISSION = "submission.csv"

_LARGEST = 512 << 20  # bytes of a table
_BEST = re.compile(r"best(?::(\d{1,4}))?")


@dataclass(frozen=True)
class Options:
    """What was said of the tables and of the metric."""

    target: str | None = None  # the column that says what is right
    prediction: tuple[str, ...] = ()  # the column with predictions, or one a class
    group: str | None = None  # the column that says which query a row belongs to
    truth: pd.DataFrame | None = None  # rows with their truth, in place of the tables'
    folds: pd.DataFrame | None = None  # rows with their folds, in place of the tables'
    sample: pd.DataFrame | None = None  # a submission's rows and columns, if not the members'
    metric: str | None = None  # in place of the score that the members declare
    lower: bool | None = None  # whether lower is better, of a user's own function
    threshold: float = 0.5  # from which probability on a row is of the second of two classes


@dataclass(frozen=True)
class Candidate:
    """A run that may be a member, with the runs that have to do with it."""

    run: Run
    parts: Sequence[Run]  # those of its folds, or whose models it used
    predicting: Sequence[Run]  # those that predicted with its models, the newest first


@dataclass(frozen=True)
class Member:
    """A member with its tables, all text, a row's id first."""

    run: Run
    oof: pd.DataFrame
    predictions: pd.DataFrame | None = None  # of the test rows, as the columns of `oof`
    submission: pd.DataFrame | None = None

    @property
    def name(self) -> str:
        """What people call it."""
        return _name(self.run)


@dataclass(frozen=True)
class Wanted:
    """Which runs are to be blended."""

    candidates: Sequence[Candidate]
    most: int  # how many of them, from the first
    score: Score | None  # what they declare, or what ranked them
    named: bool  # whether somebody named each of them: then each has to have its tables


def _name(run: Run) -> str:
    return run.name or run.id[:10]


def wanted(
    history: History,
    words: Sequence[str],
    sweep: str | None,
    experiment: str | None,
    metric: str | None,
    place: str,
) -> Wanted:
    """Return the runs that are named: RUN…, best:N, or those of a sweep.

    Raises UsageError if there is no such run, or too few or too many of them, or one would count
    twice.
    """
    doing, hint = "reading what to blend", "Name RUN…, best:N or --sweep RUN."
    best = next(filter(None, map(_BEST.fullmatch, words)), None)
    score: Score | None
    if not (words or sweep):
        raise UsageError(doing, "nothing is named", hint)
    if (best or sweep) and len(words) > bool(best):
        told = [*words, *(["--sweep"] if sweep else [])]
        raise UsageError(doing, f"{' '.join(told)} names runs in two ways", hint)
    if best or sweep:
        runs, score = _ranked(history, sweep, experiment, metric)
        most = int(best[1] or 1) if best else MOST
    else:
        ids = [the_run_called(history, word, place) for word in words]
        runs, most = [[run] for run in history.runs(ids)], len(ids)
        _refuse_counted_twice(history, [run for [run] in runs])
        score = next(filter(None, (declared(run.tags) for [run] in runs)), None)
        if score is None and metric is None:
            score = history.score(runs[0][0].experiment_id, "choosing the score of the blend")
    if not 2 <= min(most, len(runs)) <= MOST:
        problem = f"that is {counted(min(most, len(runs)), 'run')}"
        hint = f"A blend is of 2 to {MOST} runs."
        if best and len(runs) < min(most, 2):
            hint += " `best` takes finished runs with a commit and the score: name others by RUN."
        raise UsageError("blending", problem, hint)
    return Wanted(list(_candidates(history, runs)), most, score, not (best or sweep))


def _refuse_counted_twice(history: History, runs: Sequence[Run]) -> None:
    """Refuse a run that stands behind two members: itself, or in a blend, or in a blend's blend."""
    seen: dict[str, Run] = {}
    for run in runs:
        behind, left = {run.id: run}, [run]
        while left:
            among = history.runs(_ids(left.pop().tags.get(BLEND, "")))
            left += [each for each in among if each.id not in behind]
            behind |= {each.id: each for each in among}
        if twice := next((each for each in behind.values() if each.id in seen), None):
            of = run if twice.id != run.id else seen[twice.id]
            how = f"it is a blend of {_name(twice)}" if of.id != twice.id else "it is named twice"
            problem = f"{how}, which would count twice"
            raise UsageError(f"blending {_name(of)}", problem, "Leave one of the two out.")
        seen |= dict.fromkeys(behind, run)


def _ranked(
    history: History, sweep: str | None, experiment: str | None, metric: str | None
) -> tuple[list[list[Run]], Score]:
    """Return trainings as runs, the best first, as the leaderboard ranks them; blends are none."""
    doing = "looking for the best runs"
    selector = Selector(history, None, experiment)
    if sweep:
        parent, of_sweep = selector.sweep(sweep)
        home = parent.experiment_id
    elif not (home := selector.experiment_id or history.last_experiment() or ""):
        raise UsageError(doing, "the bucket has no runs")
    is_logged = metric is not None and metric in history.metric_names(home)
    score = named(metric) if metric and is_logged else history.score(home, doing)
    runs = [run for run in read_runs(history, home, score.name) if BLEND not in run.tags]
    if sweep:
        tried = trials_of(runs, of_sweep, score)
        return [history.runs([*dict.fromkeys([each.run_id, *each.runs])]) for each in tried], score
    # Of several seeds of a training, each is a member.
    by_seed: defaultdict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        by_seed[run.sha, run.repetition[1]].append(run)
    ranked = sorted(
        (each for mine in by_seed.values() for each in trainings(mine, score.name)),
        key=lambda each: worth(summarize_scores(scores_of(each.runs, score.name)), score),
        reverse=True,
    )
    return [history.runs(_whole(each.runs)) for each in ranked], score


def _whole(runs: Sequence[Run]) -> list[str]:
    """Return the ids of the parent that the runs of folds have in common, and theirs."""
    above = {run.tags.get(PARENT, "") for run in runs}
    folds = [run for run in runs if run.id not in above] or list(runs)
    parents = {run.tags.get(PARENT, "") for run in folds}
    ids = [run.id for run in folds]
    return [*parents, *ids] if len(ids) > 1 and len(parents) == 1 and "" not in parents else ids


def _candidates(history: History, runs: Sequence[Sequence[Run]]) -> Iterator[Candidate]:
    children, users = history.ids_by_tag(PARENT), history.ids_by_param("runs")
    by_used = {frozenset(_ids(value)): ids for value, ids in users.items()}

    def finished(ids: Sequence[str]) -> list[Run]:
        return [each for each in history.runs(ids) if each.status == "FINISHED"]

    for run, *others in runs:
        if others and run.status != "FINISHED":  # what puts its folds together is not through
            run, *others = others
        if run.status != "FINISHED":
            hint = "Wait for it, or leave it out."
            raise UsageError(f"blending {_name(run)}", f"it is {run.status}", hint)
        below = finished(children.get(run.id, []))
        below = others or [each for each in below if each.repetition[0]]
        used = history.runs(_ids(run.params.get("runs", "")))
        parts = [run, *below] if others and run.repetition[0] else [*below, *used]
        keys = {frozenset({run.id}), frozenset(each.id for each in parts)}
        predicting = [run_id for key in keys for run_id in by_used.get(key, [])]
        yield Candidate(run, tuple(parts), tuple(finished(predicting)))


def _ids(listed: str) -> list[str]:
    return re.findall(r"\b[0-9a-f]{32}\b", listed)


# -- their tables -----------------------------------------------------------------------------


def read_members(
    these: Wanted,
    bucket: Bucket,
    options: Options,
    done: Callable[[int, int], None] = lambda *_: None,
) -> tuple[list[Member], list[str]]:
    """Return the members with their tables, and what a reader should know.

    Raises UsageError if one that was named has no out-of-fold table, or fewer than two have one.
    """
    found: list[Member] = []
    notes: list[str] = []
    for candidate in these.candidates:
        if len(found) == these.most:
            break
        done(len(found), these.most)
        if member := _member(candidate, bucket, options):
            found.append(member)
            continue
        run, problem = candidate.run, f"it has neither {OOF_FILE} nor oof.npy"
        if run.params.get(FOLD) == "all":
            problem += ": with fold=all and no out-of-fold rows, every row was trained on"
        if these.named:
            hint = "Let the training keep what it predicts out of fold: docs/blend.md."
            raise UsageError(f"blending {_name(run)}", problem, hint)
        notes.append(f"{_name(run)} ({run.id[:10]}) is left out: {problem}.")
    if len(found) < 2:
        problem = f"{len(found) or 'none'} of the {len(these.candidates)} best has an {OOF_FILE}"
        raise UsageError("blending", problem, "Let trainings keep it: docs/blend.md.")
    return found, notes


def _member(of: Candidate, bucket: Bucket, options: Options) -> Member | None:
    """Return a member; None for a run without an out-of-fold table."""

    def tables(
        runs: Sequence[Run], name: str, array: str = "", rows: pd.DataFrame | None = None
    ) -> Iterator[pd.DataFrame]:
        """Yield the runs' tables of this name, or of the arrays that stand in for them."""
        for run in runs:
            of_run = f"of run {_name(run)}"
            if (data := _read(bucket, run, name)) is not None:
                yield as_table(io.BytesIO(data), f"reading {name} {of_run}")
            elif array and (data := _read(bucket, run, array)) is not None:
                yield _of_array(data, rows, f"reading {array} {of_run}")

    def of_fold(run: Run) -> Iterator[pd.DataFrame]:
        for table in tables([run], OOF_FILE, "oof.npy", options.truth):
            fold = run.repetition[0]
            yield table.assign(**{FOLD: fold}) if fold and FOLD not in table else table

    # A run of one fold stands for all of them, if they were found together.
    whole = [] if of.run.repetition[0] and of.parts else [of.run]
    found = [table for run in whole for table in of_fold(run)]
    found = found or [table for run in of.parts for table in of_fold(run)]
    if not found:
        return None
    if other := [each for each in found if list(each) != list(found[0])]:
        one, two = (", ".join(map(str, each)) for each in (other[0], found[0]))
        problem = f"one has the columns {one}, another {two}"
        raise UsageError(f"reading {OOF_FILE} of the folds of {_name(of.run)}", problem)
    sources = [*whole, *of.predicting]
    array = "" if options.sample is None else "test.npy"
    predictions = next(tables(sources, PREDICTIONS, array, options.sample), None)
    submission = next(tables(sources, SUBMISSION), None)
    return Member(of.run, pd.concat(found, ignore_index=True), predictions, submission)


def _read(bucket: Bucket, run: Run, name: str) -> bytes | None:
    root = f"{bucket.artifact_uri}/"
    if not run.artifacts.startswith(root) or not name:
        return None
    try:
        key = f"{run.artifacts.removeprefix(root)}/{name}"
        found = bucket.read(key, at_most=_LARGEST)
    except ObjectNotFoundError:
        return None
    return found.data if found else None


def as_table(file: object, doing: str) -> pd.DataFrame:
    """Return a CSV file's table, all of it text; UsageError if it is none, or has no rows."""
    try:
        found = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")  # type: ignore[call-overload]
    except (ValueError, OSError) as error:  # pandas' own are ValueErrors
        raise UsageError(doing, f"it is not CSV ({str(error).strip().splitlines()[0]})") from error
    if not len(found) or len(found.columns) < 2:
        raise UsageError(doing, "it has no rows, or an id and nothing else")
    return pd.DataFrame(found)


def _of_array(data: bytes, rows: pd.DataFrame | None, doing: str) -> pd.DataFrame:
    """Return an array of (rows,) or (rows, classes) as a table."""
    if rows is None:
        hint = "Name a table of these rows, in the same order: --truth FILE.csv."
        raise UsageError(doing, "nothing says which rows it is of", hint)
    try:
        values = np.load(io.BytesIO(data), allow_pickle=False)
        if values.dtype.kind not in "biuf" or values.ndim not in (1, 2) or not values.size:
            raise ValueError(f"but {values.dtype} of shape {values.shape}")
    except (ValueError, TypeError, EOFError, AttributeError) as error:
        hint = "Keep an array of (rows,) or (rows, classes)."
        raise UsageError(doing, f"it is no array of numbers, {error}", hint) from error
    if len(values) != len(rows):
        problem = f"it has {len(values):,} rows, and the file that names its rows {len(rows):,}"
        raise UsageError(doing, problem, "Name the rows that were predicted.")
    table = pd.DataFrame(values.astype(float).reshape(len(values), -1))
    several = [f"{PREDICTION}_{at}" for at in table]
    table.columns = pd.Index(several if len(several) > 1 else [PREDICTION])
    return rows.iloc[:, :1].reset_index(drop=True).join(table.map(repr))
