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
import json
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
from kaggleops.reports.history import History, Run, Scored
from kaggleops.reports.leaderboard import read_runs, trials_of
from kaggleops.reports.score import Score, declared, named
from kaggleops.reports.selection import Selector, the_run_called
from kaggleops.reports.statistics import summarize_scores
from kaggleops.reports.trainings import Training, scores_of, trainings, worth
from kaggleops.tags import BLEND, PARENT

MOST = 100
"""Members of a blend."""

FOLD = "fold"
PREDICTION = "prediction"
OOF_ARRAY, TEST_ARRAY = "oof.npy", "test.npy"
PREDICTIONS = "predictions.csv"
SUBMISSION = "submission.csv"

_LARGEST = 512 << 20  # bytes of a table
_BEST = re.compile(r"best(?::(\d{1,4}))?")


@dataclass(frozen=True)
class Candidate:
    """A run that may be a member, with the runs that have to do with it."""

    run: Run
    parts: tuple[Run, ...] = ()  # those of its folds, or whose models it used
    predicting: tuple[Run, ...] = ()  # those that predicted with its models, the newest first

    @property
    def name(self) -> str:
        """What people call it."""
        return self.run.name or self.run.id[:10]


@dataclass(frozen=True)
class Wanted:
    """Which runs are to be blended."""

    candidates: Sequence[Candidate]
    most: int  # how many of them, from the first
    score: Score | None  # what they declare, or what ranked them
    named: bool  # whether somebody named each of them: then each has to have its tables


def wanted(
    history: History,
    words: Sequence[str],
    sweep: str | None,
    experiment: str | None,
    metric: str | None,
    place: str,
) -> Wanted:
    """Return the runs that are named: RUN…, best:N, or those of a sweep.

    Raises UsageError if there is no such run, or too few or too many of them.
    """
    best = [match for word in words if (match := _BEST.fullmatch(word))]
    if (best or sweep) and len(words) > 1:
        problem = f"{' '.join(words)} names runs in two ways"
        raise UsageError("reading what to blend", problem, "Name RUN…, best:N or --sweep RUN.")
    if not (words or sweep):
        hint = "Name RUN…, best:N or --sweep RUN."
        raise UsageError("reading what to blend", "nothing is named", hint)
    most = int(best[0][1] or 1) if best else MOST
    if best or sweep:
        if words and not best:
            raise UsageError("reading what to blend", "--sweep excludes RUN", "Leave one out.")
        score: Score | None
        runs, score = _ranked(history, sweep, experiment, metric)
    else:
        ids = [the_run_called(history, word, place) for word in words]
        twice = next((word for at, word in enumerate(words) if ids[at] in ids[:at]), None)
        if twice:
            problem = "the same run is named twice, and would count twice"
            raise UsageError(f"blending {twice}", problem, "Name it once.")
        runs = [[run] for run in history.runs(ids)]
        found = (declared(run.tags) for each in runs for run in each)
        score, most = next((each for each in found if each), None), len(runs)
        if score is None and metric is None:
            score = history.score(runs[0][0].experiment_id, "choosing the score of the blend")
    if not 2 <= min(most, len(runs)) <= MOST:
        problem = f"that is {counted(min(most, len(runs)), 'run')}"
        hint = f"A blend is of 2 to {MOST} runs."
        if best and len(runs) < min(most, 2):
            hint += " `best` takes finished runs with a commit and the score: name others by RUN."
        raise UsageError("blending", problem, hint)
    candidates = list(_candidates(history, runs))
    if not (best or sweep):
        _refuse_counted_twice(history, candidates)
    return Wanted(candidates, most, score, not (best or sweep))


def _ranked(
    history: History, sweep: str | None, experiment: str | None, metric: str | None
) -> tuple[list[list[Run]], Score]:
    """Return trainings as runs, the best first, as the leaderboard ranks them; blends are none."""
    doing = "looking for the best runs"
    selector = Selector(history, None, experiment)
    if sweep:
        parent, trials = selector.sweep(sweep)
        home, of_sweep = parent.experiment_id, trials
    else:
        home, of_sweep = selector.experiment_id or history.last_experiment() or "", []
        if not home:
            raise UsageError(doing, "the bucket has no runs")
    known = metric if metric in history.metric_names(home) else None
    score = named(known) if known else history.score(home, doing)
    runs = [run for run in read_runs(history, home, score.name) if BLEND not in run.tags]
    if sweep:
        tried = trials_of(runs, of_sweep, score)
        return [history.runs([*dict.fromkeys([each.run_id, *each.runs])]) for each in tried], score
    # Of several seeds of a training, each is a member.
    by_commit: defaultdict[tuple[str, str], list[Scored]] = defaultdict(list)
    for run in runs:
        by_commit[run.sha, run.repetition[1]].append(run)
    found = [each for mine in by_commit.values() for each in trainings(mine, score.name)]

    def value(training: Training[Scored]) -> float:
        folds = {run.id: run.folds for run in training.runs}
        return worth(summarize_scores(scores_of(training, score.name, folds)), score)

    ranked = sorted(found, key=value, reverse=True)
    return [history.runs(_whole(each.runs)) for each in ranked], score


def _whole(runs: Sequence[Scored]) -> list[str]:
    """Return the ids of the parent that the runs of folds have in common, and theirs."""
    above = {run.tags.get(PARENT, "") for run in runs}
    folds = [run for run in runs if run.id not in above] or list(runs)
    parents = {run.tags.get(PARENT, "") for run in folds}
    ids = [run.id for run in folds]
    return [*parents, *ids] if len(ids) > 1 and len(parents) == 1 and "" not in parents else ids


def _candidates(history: History, runs: Sequence[Sequence[Run]]) -> Iterator[Candidate]:
    children, users = history.ids_by_tag(PARENT), history.ids_by_param("runs")
    by_used = {frozenset(_ids(value)): ids for value, ids in users.items()}
    for run, *others in runs:
        if others and run.status != "FINISHED":  # what puts its folds together is not through
            run, *others = others
        if run.status != "FINISHED":
            hint = "Wait for it, or leave it out."
            raise UsageError(f"blending {run.name or run.id}", f"it is {run.status}", hint)
        below = others or [
            each
            for each in history.runs(children.get(run.id, []))
            if each.status == "FINISHED" and each.repetition[0]
        ]
        used = history.runs(_ids(run.params.get("runs", "")))
        parts = [run, *below] if others and run.repetition[0] else [*below, *used]
        keys = {frozenset({run.id}), frozenset(each.id for each in parts)}
        predicting = [run_id for key in keys for run_id in by_used.get(key, [])]
        finished = [each for each in history.runs(predicting) if each.status == "FINISHED"]
        yield Candidate(run, tuple(parts), tuple(finished))


def _ids(listed: str) -> list[str]:
    return re.findall(r"\b[0-9a-f]{32}\b", listed)


def _refuse_counted_twice(history: History, members: Sequence[Candidate]) -> None:
    ids = {each.run.id: each.name for each in members}
    for member in members:
        inside, waiting = set[str](), [member.run]
        while waiting:
            below = weights_of(waiting.pop()).keys() - inside
            inside |= below
            waiting += history.runs(sorted(below))
        if both := sorted(inside & ids.keys()):
            problem = f"it is a blend of {ids[both[0]]}, which would count twice"
            raise UsageError(f"blending {member.name}", problem, "Leave one of the two out.")


def weights_of(run: Run) -> dict[str, float]:
    """Return the weights of a blend's members by their run ids; of another run nothing."""
    try:
        found = json.loads(run.tags.get(BLEND, "{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


# -- their tables -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Member:
    """A member with its tables, all text, a row's id first."""

    candidate: Candidate
    oof: pd.DataFrame
    predictions: pd.DataFrame | None = None  # of the test rows, as the columns of `oof`
    submission: pd.DataFrame | None = None

    @property
    def name(self) -> str:
        """What people call it."""
        return self.candidate.name


class Reader:
    """Reads members' tables from a bucket.

    Args:
        bucket: the bucket.
        truth: the training rows, their ids first, for arrays.
        sample: the test rows, their ids first, for arrays.
    """

    def __init__(
        self, bucket: Bucket, truth: pd.DataFrame | None, sample: pd.DataFrame | None
    ) -> None:
        self._bucket = bucket
        self._truth = truth
        self._sample = sample

    def member(self, candidate: Candidate) -> Member | None:
        """Return a member; None for a run without an out-of-fold table."""
        run, parts = candidate.run, candidate.parts
        # A run of one fold stands for all of them, if they were found together.
        whole = [] if run.repetition[0] and parts else [run]
        oof = next(self._tables(whole, OOF_FILE, OOF_ARRAY), None)
        if oof is None:
            tables = list(self._tables(parts, OOF_FILE, OOF_ARRAY))
            if not tables:
                return None
            oof = _together(tables, f"reading {OOF_FILE} of the folds of {candidate.name}")
        sources = [*whole, *candidate.predicting]

        def of_test(name: str, array: str = "") -> pd.DataFrame | None:
            found = next(self._tables(sources, name, array), None)
            if found is None and parts:
                each = list(self._tables(parts, name, array))
                found = _mean(each) if len(each) == len(parts) else None
            return found

        return Member(candidate, oof, of_test(PREDICTIONS, TEST_ARRAY), of_test(SUBMISSION))

    def _tables(self, runs: Sequence[Run], name: str, array: str) -> Iterator[pd.DataFrame]:
        of_oof = name == OOF_FILE
        rows, option = (self._truth, "--truth") if of_oof else (self._sample, "--sample")
        for run in runs:
            table = self._table(run, name, array, rows, option)
            if table is not None:
                yield _with_fold(run, table) if of_oof else table

    def _table(
        self, run: Run, name: str, array: str, rows: pd.DataFrame | None, option: str
    ) -> pd.DataFrame | None:
        if (data := self._read(run, name)) is not None:
            return as_table(io.BytesIO(data), f"reading {name} of run {run.name or run.id}")
        data = self._read(run, array) if array else None
        if data is None:
            return None
        doing = f"reading {array} of run {run.name or run.id}"
        if rows is None:
            hint = f"Name a table of these rows, in the same order: {option} FILE.csv."
            raise UsageError(doing, "nothing says which rows it is of", hint)
        try:
            values = np.load(io.BytesIO(data), allow_pickle=False)
        except (ValueError, TypeError, EOFError) as error:
            raise UsageError(doing, f"it is no array of numbers ({error})") from error
        if values.dtype.kind not in "biuf" or values.ndim not in (1, 2) or not values.size:
            problem = f"it is no array of numbers, but {values.dtype} of shape {values.shape}"
            raise UsageError(doing, problem, "Keep an array of (rows,) or (rows, classes).")
        values = values.astype(float).reshape(len(values), -1)
        if len(values) != len(rows):
            problem = f"it has {len(values):,} rows, and the file of {option} {len(rows):,}"
            raise UsageError(doing, problem, "Name the rows that were predicted.")
        count = values.shape[1]
        names = [PREDICTION] if count == 1 else [f"{PREDICTION}_{at}" for at in range(count)]
        ids = rows.iloc[:, :1].reset_index(drop=True)
        return ids.join(pd.DataFrame(values, columns=names).map(repr))

    def _read(self, run: Run, name: str) -> bytes | None:
        root = f"{self._bucket.artifact_uri}/"
        if not run.artifacts.startswith(root):
            return None
        try:
            key = f"{run.artifacts.removeprefix(root)}/{name}"
            found = self._bucket.read(key, at_most=_LARGEST)
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


def _with_fold(run: Run, table: pd.DataFrame) -> pd.DataFrame:
    """Return the table of one fold with its number, if it does not say that itself."""
    fold = run.repetition[0]
    return table if FOLD in table or not fold else table.assign(**{FOLD: fold})


def _mean(tables: Sequence[pd.DataFrame]) -> pd.DataFrame | None:
    """Return the mean of what the models of several folds say of the same rows.

    None where that is no mean: of other rows, or of answers instead of numbers.
    """
    first = tables[0]
    if not all(each.columns.equals(first.columns) for each in tables):
        return None
    if not all(each.iloc[:, 0].equals(first.iloc[:, 0]) for each in tables):
        return None
    values = np.array([each.iloc[:, 1:].apply(pd.to_numeric, errors="coerce") for each in tables])
    if np.isnan(values).any() or (values == np.round(values)).all():
        return None
    return first.iloc[:, :1].join(
        pd.DataFrame(values.mean(axis=0), columns=first.columns[1:]).map(repr)
    )


def _together(tables: Sequence[pd.DataFrame], doing: str) -> pd.DataFrame:
    first = list(tables[0].columns)
    for table in tables[1:]:
        if list(table.columns) != first:
            problem = f"one has the columns {', '.join(table.columns)}, another {', '.join(first)}"
            raise UsageError(doing, problem)
    return pd.concat(tables, ignore_index=True)


def read_members(
    these: Wanted, reader: Reader, done: Callable[[int, int], None] = lambda *_: None
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
        member = reader.member(candidate)
        if member is not None:
            found.append(member)
            continue
        run = candidate.run
        problem = f"it has neither {OOF_FILE} nor {OOF_ARRAY}"
        if run.params.get(FOLD) == "all":
            problem += ": with fold=all and no out-of-fold rows, every row was trained on"
        if these.named:
            hint = "Let the training keep what it predicts out of fold: docs/blend.md."
            raise UsageError(f"blending {candidate.name}", problem, hint)
        notes.append(f"{candidate.name} ({run.id[:10]}) is left out: {problem}.")
    if len(found) < 2:
        problem = f"{len(found) or 'none'} of the {len(these.candidates)} best has an {OOF_FILE}"
        raise UsageError("blending", problem, "Let trainings keep it: docs/blend.md.")
    return found, notes
