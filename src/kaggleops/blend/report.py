"""A blend of members: its weights, its honest score beside the best single run's, and its files.

`scores_by_fold` scores a run's table in the same way, for `compare` to pair as logged ones.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from kaggleops.blend.members import (
    FOLD,
    PREDICTION,
    PREDICTIONS,
    SUBMISSION,
    Member,
    Options,
    as_table,
)
from kaggleops.blend.metrics import (
    Metric,
    as_numbers,
    by_name,
    canonical,
    own,
    score_as,
    wants_numbers,
)
from kaggleops.blend.rows import (
    Rows,
    answers_of,
    by_id,
    predictions_of,
    require_same_rows,
    rows_of,
    suspicions,
    target_of,
    truth_of,
)
from kaggleops.blend.weights import Floats, Ints, Nested, blended, correlations, nested
from kaggleops.errors import UsageError
from kaggleops.reports.comparison_text import difference as in_words
from kaggleops.reports.comparison_text import number, summary
from kaggleops.reports.score import Score
from kaggleops.reports.statistics import (
    Difference,
    Scores,
    difference,
    mean,
    needed,
    summarize_scores,
)
from kaggleops.reports.trainings import Run

_APART = 0.02  # relative: a logged score that far from its table's is another one's


def mean_of(scores: Scores) -> float:
    """Return the mean of the folds' scores."""
    return mean(list(scores.values()))


@dataclass(frozen=True)
class Blend:
    """A blend, and what it is made of."""

    members: tuple[Member, ...]
    metric: Metric
    score: Score  # the name under which it is logged
    nested: Nested
    alone: tuple[Scores, ...]  # each member's score of each fold
    scores: Scores  # the blend's, of each fold, with weights found on the others
    whole: float  # the blend's, of all rows together
    correlation: Floats  # of each two members' predictions
    oof: pd.DataFrame  # what the blend says of each row, with weights found on other folds
    predictions: pd.DataFrame | None  # of the test rows
    submission: pd.DataFrame | None
    notes: tuple[str, ...]

    @property
    def mean(self) -> float:
        """The mean of the folds' scores."""
        return mean_of(self.scores)

    @property
    def best(self) -> int:
        """The place of the member with the best mean of the folds' scores."""
        choose = min if self.score.lower else max
        return choose(range(len(self.alone)), key=lambda at: mean_of(self.alone[at]))

    @property
    def difference(self) -> Difference:
        """How the blend is beside that member, over the folds."""
        found = difference(self.alone[self.best], self.scores)
        assert found is not None  # noqa: S101 - both have all folds
        return found

    @property
    def verdict(self) -> str:
        """As `Difference.verdict`: whether the blend is "better" than that member."""
        return self.difference.verdict(self.score.lower)

    @property
    def answer(self) -> str:
        """The same in a sentence or two."""
        found, best = self.difference, f"{self.members[self.best].name}, the best single run"
        if found.mean == 0:
            return f"The blend is as good as {best}, in {self.score.name}."
        if not self.verdict:
            return f"Cannot tell whether the blend is better than {best}: {found.why}."
        said = f"The difference in {self.score.name} to {best}, may be chance"
        if self.verdict in ("better", "worse"):
            said = f"The blend is {self.verdict} than {best}, in {self.score.name}"
        more = needed(found)
        return f"{said}: {in_words(found)}." + (f" {more[0].upper()}{more[1:]}." if more else "")

    @property
    def how(self) -> str:
        """How the weights were found, in a sentence."""
        return (
            f"Weights by {self.nested.weights.method}, chosen on held-out folds. The blend's score "
            "is nested: each fold is scored with weights found on the others."
        )

    @property
    def weights(self) -> dict[str, float]:
        """The members' weights by their run ids, without those that do not count."""
        pairs = zip(self.members, self.nested.weights.values.tolist(), strict=True)
        return {each.run.id: round(value, 6) for each, value in pairs if value > 5e-7}

    def table(self, correlated: bool = True) -> tuple[list[str], list[list[str]]]:
        """Return the members and the blend as a table's head and rows."""
        names = [each.name for each in self.members] if correlated else []
        rows = []
        for at, member in enumerate(self.members):
            weight = f"{self.weights[member.run.id]:.2f}" if member.run.id in self.weights else "-"
            alone = summary(summarize_scores(self.alone[at]))
            apart = [f"{each:.3f}" for each in self.correlation[at, : len(names)]]
            rows.append([member.name, member.run.id[:10], alone, weight, *apart])
        rows.append(["blend", "", summary(summarize_scores(self.scores)), "", *[""] * len(names)])
        return ["member", "run", self.score.name, "weight", *(f"r {name}" for name in names)], rows

    def to_json(self) -> dict[str, Any]:
        """Return all but the rows as plain values."""
        found = self.difference
        return {
            "metric": self.score.name,
            "lower_is_better": self.score.lower,
            "score": self.mean,
            "folds": {fold: value for (fold, _), value in self.scores.items()},
            "all_rows": self.whole,
            "method": self.nested.weights.method,
            "members": [
                {
                    "run_id": each.run.id,
                    "name": each.name,
                    "weight": float(self.nested.weights.values[at]),
                    "weights_by_fold": [float(w.values[at]) for w in self.nested.of_folds],
                    "score": mean_of(self.alone[at]),
                    "folds": {fold: value for (fold, _), value in self.alone[at].items()},
                    "correlation": self.correlation[at].tolist(),
                }
                for at, each in enumerate(self.members)
            ],
            "methods_by_fold": [each.method for each in self.nested.of_folds],
            "best_single_run": self.members[self.best].run.id,
            "difference": found.mean,
            "interval": None if found.low is None else [found.low, found.high],
            "verdict": self.verdict,
            "answer": self.answer,
            "notes": list(self.notes),
        }


# Huge numbers overflow, and a score that is none is refused: no warnings of numpy's.
@np.errstate(over="ignore", invalid="ignore")
def blend(
    members: Sequence[Member],
    options: Options,
    declared: Score | None,
    notes: Sequence[str] = (),
    done: Callable[[int, int], None] = lambda *_: None,
) -> Blend:
    """Blend members by a metric, or else by the score that they declare.

    `notes` are told already; `done` hears how far the search is. Raises UsageError if the members
    do not belong together, or the metric does not fit them.
    """
    if not (name := options.metric or (declared.name if declared else "")):
        problem, hint = "its runs declare no score", "Name a metric with --metric."
        raise UsageError(f"blending {members[0].name}", problem, hint)
    told, rows, lower = list(notes), rows_of(members, options), options.lower
    numeric = as_numbers(rows.right).dtype.kind == "f"
    is_own = ":" in (options.metric or "")
    numbers = numeric and not options.prediction[1:] if is_own else wants_numbers(name)
    truth = truth_of(rows, numbers, options.threshold)
    if lower is None and declared and not canonical(declared.name):
        lower = declared.lower  # that a function of one's own is
    scored = own(name, truth, lower) if is_own else by_name(name, truth)
    values = [
        predictions_of(table, truth, options.prediction, f"reading the oof.csv of {each.name}")
        for each, table in zip(members, rows.tables, strict=True)
    ]
    ids, of_test, lacking = _test(members, options, scored)
    sides = [values, of_test] if of_test else [values]
    votes = [
        member.name
        for side in sides
        for member, each in zip(members, side, strict=True)
        if truth.classes and np.isin(each, (0, 1)).all()
    ]
    if votes and scored.kind == "probabilities":
        problem = f"it has answers, and {scored.name} needs probabilities"
        raise UsageError(f"blending {votes[0]}", problem, "Keep a column with them in oof.csv.")
    if votes:
        told.append(
            f"{votes[0]} has answers and no probabilities of the rows: the members vote, each "
            "with its weight. Keep probabilities in oof.csv and predictions.csv for a mean of them."
        )
        sides = [[truth.votes(truth.labels(each)) for each in side] for side in sides]
    predictions, every = _stacked(members, sides[0]), np.arange(len(rows.ids))
    target = target_of(truth, predictions.shape[2])
    told += suspicions([each.name for each in members], predictions, target, rows, scored)
    score = score_as(scored, declared)
    found = nested(predictions, rows.folds, scored.worth, target, done)
    of_fold = rows.by_fold.items()

    def by_fold(predicted: Floats) -> Scores:
        return {(fold, ""): scored(predicted[these], these) for fold, these in of_fold}

    alone = tuple(map(by_fold, predictions))
    for member, scores, predicted in zip(members, alone, predictions, strict=True):
        run, whole = member.run, scored(predicted, every)
        logged = whole if run.repetition[0] else run.metrics.get(score.name, whole)
        if _is_apart(logged, mean_of(scores), whole):
            told.append(
                f"{member.name} logged {score.name} {number(logged)}, and its table scores "
                f"{number(whole)}: it is of other rows or another column, or those were trained on."
            )
    oof = pd.DataFrame({
        rows.id_column: rows.ids,
        FOLD: [rows.fold_names[at] for at in rows.folds],
        rows.target_column: rows.right,
    }).join(_predicted(found.predictions, scored, bool(votes)))  # fmt: skip
    tested = submitted = None
    if of_test:
        final = blended(_stacked(members, sides[1]), found.weights.values)
        tested = pd.DataFrame({rows.id_column: ids}).join(_predicted(final, scored, bool(votes)))
        submitted, lacking = _submission(members, ids, final, rows, scored, options.sample)
    told += [f"There is no submission: {lacking}"] if lacking else []
    return Blend(
        members=tuple(members),
        metric=scored,
        score=score,
        nested=found,
        alone=alone,
        scores=by_fold(found.predictions),
        whole=scored(found.predictions, every),
        correlation=correlations(predictions),
        oof=oof,
        predictions=tested,
        submission=submitted,
        notes=tuple(told),
    )


def _is_apart(logged: float, *scores: float) -> bool:
    return min(abs(logged - each) for each in scores) > _APART * max(abs(logged), 1e-9)


def _test(
    members: Sequence[Member], options: Options, metric: Metric
) -> tuple[pd.Index, list[Floats], str]:
    """Return the test rows' ids and each member's predictions of them; or none, and why."""
    found: list[Floats] = []
    first = pd.Index([])
    for member in members:
        name, named, table = PREDICTIONS, options.prediction, member.predictions
        if table is None:
            name, named, table = SUBMISSION, (), member.submission
        if table is None:
            why = "has no predictions.csv, submission.csv or (with --sample) test.npy, and no run"
            return first, [], f"{member.name} {why} that predicted with its models."
        doing = f"reading the {name} of {member.name}"
        table = by_id(table, doing)
        if name == SUBMISSION and len(table.columns) == 1:
            table = table.set_axis([PREDICTION], axis=1)  # its own name is the competition's
        first = first if found else table.index
        require_same_rows(first, table.index, members[0].name, member.name, "the test table")
        found.append(predictions_of(table.loc[first], metric.truth, named, doing))
        if metric.kind == "probabilities" and np.isin(found[-1], (0, 1)).all():
            why = f"that of {member.name} holds answers, and {metric.name} needs probabilities."
            return first, [], f"{why} Keep them in predictions.csv."
    return first, found, ""


def _stacked(members: Sequence[Member], values: Sequence[Floats]) -> Floats:
    """Return members' predictions as one array; UsageError if their columns are not the same."""
    for member, each in zip(members, values, strict=True):
        if each.shape[1] != (count := values[0].shape[1]):
            problem = f"the one has {count} columns of predictions, the other {each.shape[1]}"
            hint = "Name the same ones with --prediction COLUMN."
            raise UsageError(f"blending {members[0].name} and {member.name}", problem, hint)
    return np.array(values)


def _predicted(values: Floats, metric: Metric, votes: bool) -> pd.DataFrame:
    """Return a blend's predictions as columns of a table, as a member's are read."""
    truth = metric.truth
    if not truth.classes:
        return pd.DataFrame({PREDICTION: values[:, 0]})
    table = pd.DataFrame({PREDICTION: [truth.classes[at] for at in truth.labels(values)]})
    if votes:  # these are no probabilities: whoever blends this blend gets its answers
        return table
    names = ["probability"]
    if values.shape[1] > 1:
        names = [f"probability_{each}" for each in truth.classes]
    return pd.DataFrame(values, columns=names).join(table)


def _submission(
    members: Sequence[Member],
    ids: pd.Index,
    values: Floats,
    rows: Rows,
    metric: Metric,
    sample: pd.DataFrame | None,
) -> tuple[pd.DataFrame | None, str]:
    """Return what is handed in: in the form and the order of the members', or of the sample.

    None, and why, where that has other columns than the blend.
    """
    truth = metric.truth
    theirs = next((each.submission for each in members if each.submission is not None), None)
    like = theirs if theirs is not None else sample
    head = [rows.id_column, rows.target_column] if like is None else list(like.columns)
    table = pd.DataFrame(index=ids)
    if len(head) == 2:
        as_labels = bool(truth.classes) and metric.kind != "probabilities"
        if theirs is not None:
            as_labels = answers_of(theirs.iloc[:, 1], truth) is not None
        labels = [truth.classes[at] for at in truth.labels(values)] if as_labels else None
        table[head[1]] = labels or values[:, -1]
    elif len(head) - 1 == len(truth.classes) == truth.shares(values).shape[1]:
        for at, name in enumerate(head[1:]):
            ends = [p for p, each in enumerate(truth.classes) if f"_{name}".endswith(f"_{each}")]
            table[name] = truth.shares(values)[:, ends[0] if len(ends) == 1 else at]
    else:
        many = f"{len(head) - 1} columns of predictions, and the blend has {values.shape[1]}"
        return None, f"it would have {many}. predictions.csv holds them."
    order = by_id(sample, "reading the file of --sample").index if sample is not None else ids
    if len(lacking := order.difference(ids, sort=False)):
        problem = f"the members lack {len(lacking):,} of its rows, {lacking[0]!r} for one"
        raise UsageError("reading the file of --sample", problem, "Predict the whole test file.")
    return table.loc[order].rename_axis(head[0]).reset_index(), ""


# -- the folds of a single run ------------------------------------------------------------------


def numbered(folds: Sequence[str]) -> list[str]:
    """Return folds' names as they are if all are numbers, else their places, from 0."""
    are_numbers = all(fold.isdecimal() and len(fold) < 4 for fold in folds)
    return [fold if are_numbers else str(at) for at, fold in enumerate(folds)]


def scores_by_fold(run: Run, oof: str, score: Score) -> dict[str, float]:
    """Return a run's score in each fold of its `oof.csv`, by the fold's name.

    A column with the score of each row is averaged; else the score is computed of what was
    predicted, as a blend's is. Nothing where the table cannot tell, or tells another score than the
    run logged.
    """
    if FOLD not in oof.partition("\n")[0] or score.name not in run.metrics:
        return {}
    try:
        with np.errstate(all="ignore"):
            scored, rows = _scorer(run, oof, score)
            whole = scored(np.arange(len(rows.ids)))
            found = {fold: scored(these) for fold, these in rows.by_fold.items()}
    except UsageError:
        return {}
    logged, values = run.metrics[score.name], list(found.values())
    if not np.isfinite(values).all() or _is_apart(logged, whole, float(np.mean(values))):
        return {}
    return dict(zip(numbered(list(found)), values, strict=True))


def _scorer(run: Run, oof: str, score: Score) -> tuple[Callable[[Ints], float], Rows]:
    """Return what scores rows of a run's table, and all its rows; UsageError if nothing can."""
    doing = f"reading the oof.csv of {run.name}"
    member = Member(run, as_table(io.BytesIO(oof.encode()), doing))
    by_row = score.name if score.name in member.oof else None
    rows = rows_of([member], Options(target=by_row))
    if by_row:
        of_row = pd.to_numeric(pd.Series(rows.right), errors="coerce").to_numpy(float)
        return lambda these: float(of_row[these].mean()), rows
    truth = truth_of(rows, wants_numbers(score.name), 0.5)
    metric = by_name(score.name, truth)
    predicted = predictions_of(rows.tables[0], truth, (), doing)
    return lambda these: metric(predicted[these], these), rows
