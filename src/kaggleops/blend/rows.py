"""Members' tables as arrays of the same rows; what does not belong together is refused by name.

What tables can prove is refused: other rows, rows that are there twice, other truth, other folds.
What they only suggest, rows that a model may have been trained on, is told (`suspicions`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kaggleops.blend.members import FOLD, PREDICTION, Member
from kaggleops.blend.metrics import Metric, Truth, as_numbers
from kaggleops.blend.weights import Floats, Ints
from kaggleops.errors import UsageError
from kaggleops.printable import quoted
from kaggleops.reports.evidence import some

_TARGETS = ("target", "label", "y", "y_true", "truth", "actual")
_SHARES = ("probability", "proba", "prob", "p")
_ANSWERS = (PREDICTION, "pred", "predicted", "y_pred", "oof", "oof_pred", "answer", "score")
_GROUPS = ("group", "query", "query_id", "qid", "group_id")
_OF_CLASS = re.compile(r"(?:probability|proba|prob|p|prediction|predicted|pred|oof)[_. -]+(.+)")
_MOST_FOLDS = 50
_MOST_CLASSES = 1000  # of whole numbers that are one a row, nearly
_TOO_GOOD = 0.4  # of the error that is to be expected of a fold


@dataclass(frozen=True)
class Columns:
    """Which columns of the tables hold what, as far as that was said."""

    target: str = ""
    prediction: tuple[str, ...] = ()
    group: str = ""
    truth: pd.DataFrame | None = None  # rows with their truth, in place of the tables'
    folds: pd.DataFrame | None = None  # rows with their folds, in place of the tables'


@dataclass(frozen=True)
class Rows:
    """The rows that all members predicted, in the order of the first member's table."""

    id_column: str
    target_column: str
    ids: pd.Index
    right: tuple[str, ...]  # what is right, as text
    folds: Ints  # (rows,): from 0
    fold_names: tuple[str, ...]
    groups: Ints | None
    tables: tuple[pd.DataFrame, ...]  # the members', in this order, without what is right


def rows_of(members: Sequence[Member], columns: Columns) -> Rows:
    """Return the rows of all members.

    Raises UsageError, with the member and the row, if they do not belong together.
    """
    tables = [by_id(each.oof, f"reading the oof.csv of {each.name}") for each in members]
    first = members[0].name
    for member, table in zip(members[1:], tables[1:], strict=True):
        require_same_rows(tables[0].index, table.index, first, member.name, "oof.csv")
    ids = tables[0].index
    tables = [each.loc[ids] for each in tables]
    target, right = _truth(members, tables, columns)
    folds, names = _folds(members, tables, columns.folds)
    groups = _groups(members, tables, columns.group)
    left = [each.drop(columns=[target, FOLD], errors="ignore") for each in tables]
    id_column = str(members[0].oof.columns[0])
    return Rows(id_column, target, ids, tuple(right), folds, names, groups, tuple(left))


def by_id(table: pd.DataFrame, doing: str) -> pd.DataFrame:
    """Return a table by its rows' ids; UsageError if one is there twice."""
    found = table.set_index(table.columns[0])
    if (twice := found.index.duplicated()).any():
        name = quoted(str(found.index[twice][0]))
        problem = f"{int(twice.sum()):,} rows are there twice, {table.columns[0]} {name} for one"
        raise UsageError(doing, problem, "Each row has to be there once.")
    return found


def require_same_rows(first: pd.Index, other: pd.Index, one: str, two: str, what: str) -> None:
    """Raise UsageError if two members' tables are not of the same rows."""
    for there, lacking, has, lacks in ((first, other, one, two), (other, first, two, one)):
        left = there.difference(lacking, sort=False)
        if len(left):
            problem = f"{what} of {has} has {len(left):,} rows that {lacks} has not, "
            problem += f"{quoted(str(left[0]))} for one"
            raise UsageError(f"blending {one} and {two}", problem, "Blend runs of the same rows.")


def _looked_up(
    table: pd.DataFrame, ids: pd.Index, option: str, column: str = ""
) -> "pd.Series[str]":
    doing = f"reading the file of {option}"
    found = by_id(table, doing)
    lacking = ids.difference(found.index, sort=False)
    if len(lacking):
        problem = (
            f"it lacks {len(lacking):,} rows of the members, {quoted(str(lacking[0]))} for one"
        )
        raise UsageError(doing, problem, "Its first column has to hold the same ids.")
    name = column or str(found.columns[-1])
    if name not in found:
        raise UsageError(doing, f"it has no column {name}: {some(list(found.columns))}")
    return found.loc[ids, name]


def _truth(
    members: Sequence[Member], tables: Sequence[pd.DataFrame], columns: Columns
) -> tuple[str, "pd.Series[str]"]:
    submitted = next((each.submission for each in members if each.submission is not None), None)
    known = [] if submitted is None or len(submitted.columns) > 2 else [str(submitted.columns[1])]
    known = [name for name in known if name not in (*_SHARES, *_ANSWERS)]
    wanted = [columns.target] if columns.target else [*known, *_TARGETS]
    if columns.truth is not None:
        name = _first_of(wanted, columns.truth) or (known or [str(columns.truth.columns[-1])])[0]
        return name, _looked_up(columns.truth, tables[0].index, "--truth", name)
    found: tuple[str, str, pd.Series[str]] | None = None
    for member, table in zip(members, tables, strict=True):
        name = _first_of(wanted, table)
        if not name:
            continue
        if found is None:
            found = member.name, name, table[name]
            continue
        one, other = as_numbers(found[2].tolist()), as_numbers(table[name].tolist())
        as_text = found[2].to_numpy() != table[name].to_numpy()
        if (differs := (one != other) & as_text).any():  # nan differs from itself
            at = int(np.argmax(differs))
            problem = f"they differ in what is right of {int(differs.sum()):,} rows: of "
            problem += f"{quoted(str(table.index[at]))} {quoted(str(one[at]))} and "
            problem += quoted(str(other[at]))
            doing = f"blending {found[0]} and {member.name}"
            raise UsageError(doing, problem, "Blend runs of the same data.")
    if found is None:
        have = some(list(tables[0].columns), 8)
        problem = f"no column says what is right: {have}"
        hint = "Name it with --target COLUMN, or a table that has it with --truth FILE.csv."
        raise UsageError(f"reading the oof.csv of {members[0].name}", problem, hint)
    return found[1], found[2]


def _first_of(names: Sequence[str], table: pd.DataFrame) -> str:
    return next((name for name in names if name in table), "")


def _folds(
    members: Sequence[Member], tables: Sequence[pd.DataFrame], named: pd.DataFrame | None
) -> tuple[Ints, tuple[str, ...]]:
    found: list[tuple[str, pd.Series[str]]] = []
    if named is not None:
        column = FOLD if FOLD in named else ""
        found.append(("the file of --folds", _looked_up(named, tables[0].index, "--folds", column)))
    for member, table in zip(members, tables, strict=True):
        if FOLD in table:
            found.append((member.name, table[FOLD]))
    if not found:
        hint = "Let the training write it, or name a table of ids and folds: --folds FILE.csv."
        doing = f"reading the oof.csv of {members[0].name}"
        raise UsageError(doing, "it has no column fold", hint)
    one, folds = found[0]
    for other, theirs in found[1:]:
        pairs = pd.DataFrame({"one": folds, "other": theirs})
        counted = pairs.value_counts()
        # The names may differ, not what is in one fold.
        for side in ("one", "other"):
            if (twice := counted.index.get_level_values(side).duplicated()).any():
                which = counted.index[twice][0]
                row = pairs.index[(pairs["one"] == which[0]) & (pairs["other"] == which[1])][0]
                problem = f"their folds differ: {quoted(str(row))} is in fold {which[0]} of {one} "
                problem += f"and in fold {which[1]} of {other}, whose fold is another set of rows"
                hint = "Blend runs with the same split into folds: weights would leak otherwise."
                raise UsageError(f"blending {one} and {other}", problem, hint)
    names = sorted(set(folds), key=lambda name: (len(name), name))
    if not 2 <= len(names) <= _MOST_FOLDS:
        problem = f"the rows are of {len(names)} fold{'s' * (len(names) > 1)}"
        hint = f"An honest score needs 2 to {_MOST_FOLDS}: blend the runs of all folds."
        raise UsageError(f"blending {members[0].name}", problem, hint)
    return np.asarray(folds.map({name: at for at, name in enumerate(names)}), dtype=np.intp), tuple(
        names
    )


def _groups(members: Sequence[Member], tables: Sequence[pd.DataFrame], named: str) -> Ints | None:
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
    if (numeric and not np.isfinite(values).all()) or (numbers and not numeric):
        at = next(at for at, each in enumerate(rows.right) if not _is_finite(each))
        problem = f"{quoted(rows.right[at])} of {quoted(str(rows.ids[at]))} is no number"
        hint = "Leave such rows out." if numeric else "Name a metric of classes with --metric."
        raise UsageError(doing, problem, hint)
    if numbers:
        return Truth(values, groups=rows.groups)
    known, places = np.unique(values, return_inverse=True)
    texts = dict(zip(places.tolist(), rows.right, strict=True))  # as they were written
    many = len(known) > max(20, len(values) // 10)
    if many and not numeric:
        problem = f"the answers are text, {len(known):,} different ones in {len(values):,} rows"
        hint = "Text has no mean: keep numbers in oof.npy and test.npy, and name a --metric."
        raise UsageError(doing, problem, hint)
    whole = numeric and not (values % 1).any()
    if numeric and many and not (whole and len(known) <= _MOST_CLASSES):
        problem = f"it has {len(known):,} different numbers, which are no classes"
        raise UsageError(doing, problem, "Name a metric of numbers: --metric rmse, say.")
    if len(known) < 2:
        raise UsageError(doing, f"all rows are {quoted(texts[0])}", "Name another --target.")
    classes = tuple(texts[at] for at in range(len(known)))
    return Truth(places.astype(float), classes, rows.groups, threshold)


def _is_finite(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


# -- predictions ------------------------------------------------------------------------------


def numbers_of(
    table: pd.DataFrame, truth: Truth, named: Sequence[str], doing: str
) -> Floats | None:
    """Return a table's predictions that have a mean (rows, columns); None if it has answers alone.

    Raises UsageError if there is no column of predictions, or a cell is no finite number.
    """
    names = _columns(table, truth, named)
    hint = "Name them with --prediction COLUMN, once for each class."
    if lacking := [name for name in named if name not in table]:
        problem = f"it has no column {lacking[0]} of predictions: {some(list(table.columns), 8)}"
        raise UsageError(doing, problem, hint)
    if not names:
        problem = f"no column holds predictions: {some(list(table.columns), 8)}"
        raise UsageError(doing, problem, hint)
    if len(names) > 1 and len(names) != len(truth.classes):
        classes = f"{len(truth.classes)} classes" if truth.classes else "no classes"
        problem = f"{len(names)} columns of predictions are named, and there are {classes}"
        raise UsageError(doing, problem, hint)
    if len(names) == 1 and truth.classes and answers_of(table, truth, names) is not None:
        return None
    values = np.column_stack([pd.to_numeric(table[name], errors="coerce") for name in names])
    values = values.astype(float)
    if not (fine := np.isfinite(values)).all():
        if truth.classes and len(names) == 1 and not fine.any():
            return None
        at, column = map(int, np.argwhere(~fine)[0])
        name = names[column]
        problem = f"{quoted(str(table[name].iloc[at]))} in the column {name} is no number, "
        problem += f"in the row {quoted(str(table.index[at]))}"
        raise UsageError(doing, problem, "Leave no row without a prediction.")
    return values


def _columns(table: pd.DataFrame, truth: Truth, named: Sequence[str]) -> list[str]:
    if named:
        return list(named)
    if truth.classes:
        of = {m[1]: name for name in map(str, table) if (m := _OF_CLASS.fullmatch(name))}
        for by in (of, {str(name): str(name) for name in table}):
            if all(each in by for each in truth.classes):
                return [by[each] for each in truth.classes]
        # Places instead of names, as an array's columns have them.
        if all(str(at) in of for at in range(len(truth.classes))):
            return [of[str(at)] for at in range(len(truth.classes))]
    single = (*_SHARES, *_ANSWERS) if truth.classes else (*_ANSWERS, *_SHARES)
    return [name] if (name := _first_of(single, table)) else []


def answers_of(table: pd.DataFrame, truth: Truth, names: Sequence[str] = ()) -> Ints | None:
    """Return the place of the class that a column says of each row; None if it is no classes."""
    name = _first_of(names or _ANSWERS, table)
    if not name:
        return None
    known = {each: at for at, each in enumerate(as_numbers(truth.classes).tolist())}
    values = as_numbers(table[name].tolist()).tolist()
    if not all(each in known for each in values):
        return None
    return np.array([known[each] for each in values], dtype=np.intp)


def votes_of(table: pd.DataFrame, truth: Truth, numbers: Floats | None, doing: str) -> Floats:
    """Return a vote (rows, classes) for the class that a member answers of each row."""
    places = answers_of(table, truth)
    if places is None and numbers is not None:
        places = truth.labels(numbers)
    if places is None:
        problem = f"its answers are none of {some(list(truth.classes), 8)}"
        raise UsageError(doing, problem, "Name their column with --prediction COLUMN.")
    return np.eye(len(truth.classes))[places]


def target_of(truth: Truth, columns: int) -> Floats | None:
    """Return what predictions (rows, columns) aim at; None if that is no number."""
    if not truth.classes:
        return truth.values[:, None]
    if columns > 1:
        return np.eye(len(truth.classes))[truth.values.astype(int)]
    if truth.is_binary:
        return truth.values[:, None]
    known = as_numbers(truth.classes)
    return known[truth.values.astype(int)][:, None] if known.dtype.kind == "f" else None


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
    count = len(rows.fold_names)
    errors = np.array(
        [[each[rows.folds == fold].mean() for fold in range(count)] for each in squares]
    )
    usual = np.median(errors, axis=1, keepdims=True)
    relative = np.divide(errors, usual, out=np.ones_like(errors), where=usual > 0)
    found = []
    for at, name in enumerate(names):
        others = np.median(np.delete(relative, at, axis=0), axis=0)
        for fold in np.flatnonzero(relative[at] < _TOO_GOOD * others):
            these = np.flatnonzero(rows.folds == fold)
            score = metric(predictions[at][these], these)
            found.append(
                f"{name} looks as if it was trained on fold {rows.fold_names[fold]}: it scores "
                f"{score:.4g} there, with {errors[at, fold] / usual[at, 0]:.0%} of its usual error."
            )
    return found
