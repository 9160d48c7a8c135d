"""Members' tables as arrays of the same rows; what does not belong together is refused by name.

What tables can prove is refused: other rows, rows that are there twice, other truth, other folds.
What they only suggest, rows that a model may have been trained on, is told (`suspicions`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from kaggleops.blend.members import FOLD, PREDICTION, Member, Options
from kaggleops.blend.metrics import Metric, Truth, as_numbers
from kaggleops.blend.weights import Floats, Ints
from kaggleops.errors import UsageError
from kaggleops.printable import counted, quoted
from kaggleops.reports.evidence import some

_TARGETS = ("target", "label", "y", "y_true", "truth", "actual")
_SHARES = ("probability", "proba", "prob", "p")
_ANSWERS = (PREDICTION, "pred", "predicted", "y_pred", "oof", "oof_pred", "answer", "score")
_GROUPS = ("group", "query", "query_id", "qid", "group_id")
_OF_CLASS = re.compile(r"(?:probability|proba|prob|p|prediction|predicted|pred|oof)[_. -]+(.+)")
_MOST_FOLDS = 50
_MOST_CLASSES = 1000  # of whole numbers that are one a row, nearly
_ONCE = "Each row has to be there once."
_TOO_GOOD = 0.4  # of the error that is to be expected of a fold


@dataclass(frozen=True)
class Rows:
    """The rows that all members predicted, in the order of the first member's table."""

    id_column: str
    target_column: str
    ids: pd.Index
    right: tuple[str, ...]  # what is right, as text
    folds: Ints  # (rows,): from 0
    fold_names: tuple[str, ...]
    groups: Ints | None  # (rows,): which query a row belongs to, from 0
    tables: tuple[pd.DataFrame, ...]  # the members', in this order, without what is right

    @property
    def by_fold(self) -> dict[str, Ints]:
        """The rows of each fold, by its name."""
        return {name: np.flatnonzero(self.folds == at) for at, name in enumerate(self.fold_names)}


def rows_of(members: Sequence[Member], options: Options) -> Rows:
    """Return the rows of all members.

    Raises UsageError, with the member and the row, if they do not belong together.
    """
    names = [each.name for each in members]
    tables = [by_id(each.oof, f"reading the oof.csv of {each.name}") for each in members]
    ids = tables[0].index
    for name, table in zip(names, tables, strict=True):
        require_same_rows(ids, table.index, names[0], name, "oof.csv")
    by_name = [(name, each.loc[ids]) for name, each in zip(names, tables, strict=True)]
    right = _truth(members, by_name, options)
    folds, fold_names = _folds(by_name, options.folds)
    target = str(right.name)
    left = [each.drop(columns=[target, FOLD], errors="ignore") for _, each in by_name]
    id_column = str(members[0].oof.columns[0])
    groups = _groups(left, options.group)
    return Rows(id_column, target, ids, tuple(right), folds, fold_names, groups, tuple(left))


def by_id(table: pd.DataFrame, doing: str) -> pd.DataFrame:
    """Return a table by its rows' ids; UsageError if one is there twice."""
    found = table.set_index(table.columns[0])
    if (twice := found.index.duplicated()).any():
        problem = f"{int(twice.sum()):,} rows are there twice, {table.columns[0]} "
        raise UsageError(doing, f"{problem}{_for_one(found.index[twice])}", _ONCE)
    return found


def _for_one(rows: pd.Index) -> str:
    return f"{quoted(str(rows[0]))} for one"


def require_same_rows(first: pd.Index, other: pd.Index, one: str, two: str, what: str) -> None:
    """Raise UsageError if two members' tables are not of the same rows."""
    for there, lacking, has, lacks in ((first, other, one, two), (other, first, two, one)):
        if len(left := there.difference(lacking, sort=False)):
            problem = f"{what} of {has} has {len(left):,} rows that {lacks} has not, "
            hint = "Blend runs of the same rows."
            raise UsageError(f"blending {one} and {two}", problem + _for_one(left), hint)


def _looked_up(table: pd.DataFrame, ids: pd.Index, option: str, column: str) -> "pd.Series[str]":
    doing = f"reading the file of {option}"
    found = by_id(table, doing)
    if len(lacking := ids.difference(found.index, sort=False)):
        problem = f"it lacks {len(lacking):,} rows of the members, {_for_one(lacking)}"
        raise UsageError(doing, problem, "Its first column has to hold the same ids.")
    if column not in found:
        raise UsageError(doing, f"it has no column {column}: {some(list(found.columns))}")
    return found.loc[ids, column]


_Tables = Sequence[tuple[str, pd.DataFrame]]  # with the members' names


def _truth(members: Sequence[Member], tables: _Tables, options: Options) -> "pd.Series[str]":
    submitted = next((each.submission for each in members if each.submission is not None), None)
    known = [] if submitted is None or len(submitted.columns) > 2 else [str(submitted.columns[1])]
    known = [name for name in known if name not in (*_SHARES, *_ANSWERS)]
    wanted = [options.target] if options.target else [*known, *_TARGETS]
    first = tables[0][1]
    if (given := options.truth) is not None:
        name = _first_of(wanted, given) or (known or [str(given.columns[-1])])[0]
        return _looked_up(given, first.index, "--truth", name)
    found = [(of, table[name]) for of, table in tables if (name := _first_of(wanted, table))]
    if not found:
        problem = f"no column says what is right: {some(list(first.columns), 8)}"
        hint = "Name it with --target COLUMN, or a table that has it with --truth FILE.csv."
        raise UsageError(f"reading the oof.csv of {members[0].name}", problem, hint)
    one, right = found[0]
    for other, theirs in found[1:]:
        differs = as_numbers(right.tolist()) != as_numbers(theirs.tolist())
        differs &= right.to_numpy() != theirs.to_numpy()  # nan differs from itself
        if differs.any():
            problem = f"they differ in what is right of {int(differs.sum()):,} rows: of "
            cells = (right.index[differs][0], right[differs].iloc[0], theirs[differs].iloc[0])
            problem += "{} {} and {}".format(*map(quoted, map(str, cells)))
            hint = "Blend runs of the same data."
            raise UsageError(f"blending {one} and {other}", problem, hint)
    return right


def _first_of(names: Sequence[str], table: pd.DataFrame) -> str:
    return next((name for name in names if name in table), "")


def _folds(tables: _Tables, named: pd.DataFrame | None) -> tuple[Ints, tuple[str, ...]]:
    first, table = tables[0]
    found = [(of, table[FOLD]) for of, table in tables if FOLD in table]
    if named is not None:
        column = FOLD if FOLD in named else str(named.columns[-1])
        looked_up = _looked_up(named, table.index, "--folds", column)
        found.insert(0, ("the file of --folds", looked_up))
    if not found:
        hint = "Let the training write it, or name a table of ids and folds: --folds FILE.csv."
        raise UsageError(f"reading the oof.csv of {first}", "it has no column fold", hint)
    one, folds = found[0]
    for other, theirs in found[1:]:
        # Numbered as they appear: the names may differ, not what is in one fold.
        differs = pd.factorize(folds)[0] != pd.factorize(theirs)[0]
        if differs.any():
            problem = f"their folds differ: {quoted(str(folds.index[differs][0]))} is in fold "
            problem += f"{folds[differs].iloc[0]} of {one} and in fold {theirs[differs].iloc[0]} "
            problem += f"of {other}, whose fold is another set of rows"
            hint = "Blend runs with the same split into folds: weights would leak otherwise."
            raise UsageError(f"blending {one} and {other}", problem, hint)
    names = sorted(set(folds), key=lambda name: (len(name), name))
    if not 2 <= len(names) <= _MOST_FOLDS:
        problem = f"the rows are of {counted(len(names), 'fold')}"
        hint = f"An honest score needs 2 to {_MOST_FOLDS}: blend the runs of all folds."
        raise UsageError(f"blending {first}", problem, hint)
    return pd.Index(names).get_indexer(pd.Index(folds)), tuple(names)


def _groups(tables: Sequence[pd.DataFrame], named: str | None) -> Ints | None:
    for table in tables:
        if name := _first_of([named] if named else _GROUPS, table):
            return np.asarray(pd.factorize(table[name])[0], dtype=np.intp)
    if named:
        problem = f"no member's oof.csv has the column {named}"
        raise UsageError("reading --group", problem, f"It has {some(list(tables[0].columns), 8)}.")
    return None


def truth_of(rows: Rows, numbers: bool, threshold: float) -> Truth:
    """Return what is right: as numbers, or as classes.

    Raises UsageError if it cannot be so.
    """
    doing = f"reading the column {rows.target_column}"
    values = as_numbers(rows.right)
    numeric = values.dtype.kind == "f"
    fine = np.isfinite(values if numeric else _numeric(pd.Series(rows.right)))
    if (numeric or numbers) and not fine.all():
        at = int(np.argmin(fine))
        problem = f"{quoted(rows.right[at])} of {quoted(str(rows.ids[at]))} is no number"
        hint = "Leave such rows out." if numeric else "Name a metric of classes with --metric."
        raise UsageError(doing, problem, hint)
    if numbers:
        return Truth(values, groups=rows.groups)
    known, first, places = np.unique(values, return_index=True, return_inverse=True)
    many = len(known) > max(20, len(values) // 10)
    if many and (not numeric or (values % 1).any() or len(known) > _MOST_CLASSES):
        kind = "numbers" if numeric else "texts"
        problem = f"it has {len(known):,} different {kind}, which are no classes"
        hint = "Name a metric of numbers: --metric rmse, say. Text has no mean: keep numbers in "
        raise UsageError(doing, problem, f"{hint}oof.npy and test.npy.")
    classes = tuple(rows.right[at] for at in first)  # as they were written
    if len(known) < 2:
        raise UsageError(doing, f"all rows are {quoted(classes[0])}", "Name another --target.")
    return Truth(places.astype(float), classes, threshold)


def _numeric(cells: Any) -> Floats:
    return np.asarray(pd.to_numeric(cells, errors="coerce"), dtype=float)


# -- predictions ------------------------------------------------------------------------------


def predictions_of(table: pd.DataFrame, truth: Truth, named: Sequence[str], doing: str) -> Floats:
    """Return a table's predictions (rows, columns); answers as votes for their classes.

    Of two classes' probabilities it is one column, the second one's. Raises UsageError if there is
    no column of predictions, or a cell is no finite number.
    """
    names = _columns(table, truth, named)
    hint, problem = "Name them with --prediction COLUMN, once for each class.", ""
    if lacking := [name for name in names if name not in table]:
        problem = f"it has no column {lacking[0]} of predictions: {some(list(table.columns), 8)}"
    elif not names:
        problem = f"no column holds predictions: {some(list(table.columns), 8)}"
    elif len(names) > 1 and len(names) != len(truth.classes):
        classes = f"{len(truth.classes)} classes" if truth.classes else "no classes"
        problem = f"{len(names)} columns of predictions are named, and there are {classes}"
    if problem:
        raise UsageError(doing, problem, hint)
    if len(names) == 1 and (places := answers_of(table[names[0]], truth)) is not None:
        return truth.votes(places)
    values = np.column_stack([_numeric(table[name]) for name in names])
    if not (fine := np.isfinite(values)).all():
        row, column = np.argwhere(~fine)[0]
        problem = f"{quoted(str(table[names[column]].iloc[row]))} in the column {names[column]} "
        problem += f"is no number, in the row {quoted(str(table.index[row]))}"
        raise UsageError(doing, problem, "Leave no row without a prediction.")
    is_share = len(truth.classes) == 2 and np.allclose(values.sum(axis=1), 1, atol=0.01)
    return values[:, 1:] if is_share and len(names) == 2 else values


def _columns(table: pd.DataFrame, truth: Truth, named: Sequence[str]) -> list[str]:
    if named:
        return list(named)
    if truth.classes:
        of = {m[1]: name for name in map(str, table) if (m := _OF_CLASS.fullmatch(name))}
        places = [str(at) for at in range(len(truth.classes))]  # as an array's columns have them
        same = {str(name): str(name) for name in table}
        for by, classes in ((of, truth.classes), (same, truth.classes), (of, places)):
            if all(each in by for each in classes):
                return [by[each] for each in classes]
    single = (*_SHARES, *_ANSWERS) if truth.classes else (*_ANSWERS, *_SHARES)
    return [name] if (name := _first_of(single, table)) else []


def answers_of(cells: "pd.Series[str]", truth: Truth) -> Ints | None:
    """Return the place of the class that each cell names; None if one names none."""
    known = pd.Index(as_numbers(truth.classes))
    places = known.get_indexer(pd.Index(as_numbers(cells.tolist())))
    return None if not truth.classes or (places < 0).any() else places


def target_of(truth: Truth, columns: int) -> Floats | None:
    """Return what predictions (rows, columns) aim at; None if that is no number."""
    if not truth.classes:
        return truth.values[:, None]
    places = truth.values.astype(int)
    if columns > 1 or len(truth.classes) == 2:
        return np.eye(len(truth.classes))[places][:, -columns:]
    known = as_numbers(truth.classes)
    return known[places][:, None] if known.dtype.kind == "f" else None


def suspicions(
    names: Sequence[str], predictions: Floats, target: Floats | None, rows: Rows, metric: Metric
) -> list[str]:
    """Return which folds of which members look as if their models had seen them.

    A fold's mean squared error is held against what the member's other folds, and the other
    members in that fold, let expect.
    """
    if target is None:
        return []
    squares = ((predictions - target) ** 2).sum(axis=2)
    folds = list(rows.by_fold.items())
    errors = np.stack([squares[:, these].mean(axis=1) for _, these in folds], axis=1)
    usual = np.median(errors, axis=1, keepdims=True)
    relative = np.divide(errors, usual, out=np.ones_like(errors), where=usual > 0)
    found = []
    for at, name in enumerate(names):
        others = np.median(np.delete(relative, at, axis=0), axis=0)
        for fold in np.flatnonzero(relative[at] < _TOO_GOOD * others):
            which, these = folds[fold]
            score = metric(predictions[at][these], these)
            found.append(
                f"{name} looks as if it was trained on fold {which}: it scores "
                f"{score:.4g} there, with {errors[at, fold] / usual[at, 0]:.0%} of its usual error."
            )
    return found
