"""A blend of members: its weights, its honest score, and how that is beside the best single one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from kaggleops.blend.members import FOLD, PREDICTION, Member
from kaggleops.blend.metrics import (
    Metric,
    Truth,
    as_numbers,
    by_name,
    canonical,
    score_as,
    wants_numbers,
)
from kaggleops.blend.rows import (
    Columns,
    Rows,
    answers_of,
    by_id,
    numbers_of,
    require_same_rows,
    rows_of,
    suspicions,
    target_of,
    truth_of,
    votes_of,
)
from kaggleops.blend.weights import Floats, Nested, Search, blended, correlations
from kaggleops.errors import UsageError
from kaggleops.reports.comparison_text import difference as in_words
from kaggleops.reports.comparison_text import number, summary
from kaggleops.reports.score import Score
from kaggleops.reports.statistics import Difference, Scores, difference, needed, summarize_scores

_APART = 0.02  # relative: a logged score that far from its table's is another one's


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
        return float(np.mean(list(self.scores.values())))

    @property
    def best(self) -> int:
        """The place of the member with the best mean of the folds' scores."""
        means = [np.mean(list(each.values())) for each in self.alone]
        return int(np.argmin(means) if self.score.lower else np.argmax(means))

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
        if self.verdict in ("better", "worse"):
            said = f"The blend is {self.verdict} than {best}, in {self.score.name}"
        elif found.mean == 0:
            return f"The blend is as good as {best}, in {self.score.name}."
        elif self.verdict:
            said = f"The difference in {self.score.name} to {best}, may be chance"
        else:
            return f"Cannot tell whether the blend is better than {best}: {found.why}."
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
        return {each.candidate.run.id: round(value, 6) for each, value in pairs if value > 5e-7}

    def table(self, correlated: bool = True) -> tuple[list[str], list[list[str]]]:
        """Return the members and the blend as a table's head and rows."""
        names = [each.name for each in self.members] if correlated else []
        rows = []
        for at, member in enumerate(self.members):
            weight = self.nested.weights.values[at]
            rows.append([
                member.name,
                member.candidate.run.id[:10],
                summary(summarize_scores(self.alone[at])),
                f"{weight:.2f}" if weight > 5e-7 else "-",
                *(f"{self.correlation[at, other]:.3f}" for other in range(len(names))),
            ])  # fmt: skip
        rows.append(["blend", "", summary(summarize_scores(self.scores)), "", *("" for _ in names)])
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
                    "run_id": each.candidate.run.id,
                    "name": each.name,
                    "weight": float(self.nested.weights.values[at]),
                    "weights_by_fold": [float(w.values[at]) for w in self.nested.of_folds],
                    "score": float(np.mean(list(self.alone[at].values()))),
                    "folds": {fold: value for (fold, _), value in self.alone[at].items()},
                    "correlation": self.correlation[at].tolist(),
                }
                for at, each in enumerate(self.members)
            ],
            "methods_by_fold": [each.method for each in self.nested.of_folds],
            "best_single_run": self.members[self.best].candidate.run.id,
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
    columns: Columns,
    declared: Score | None,
    metric: str | None = None,
    lower: bool | None = None,
    threshold: float = 0.5,
    sample: pd.DataFrame | None = None,
    notes: Sequence[str] = (),
    done: Callable[[int, int], None] = lambda *_: None,
) -> Blend:
    """Blend members.

    Args:
        members: two or more.
        columns: what their tables' columns hold, as far as that was said.
        declared: the score that they declare, if they do.
        metric: the metric's name, if it is another; else that score.
        lower: whether lower is better, of a user's own function.
        threshold: from which probability on a row is of the second of two classes.
        sample: the rows and the columns of a submission, if they are not the members'.
        notes: what is known already.
        done: hears how far the search is.

    Raises:
        UsageError: the members do not belong together, or the metric does not fit them.
    """
    if not (name := metric or (declared.name if declared else "")):
        problem, hint = "its runs declare no score", "Name a metric with --metric."
        raise UsageError(f"blending {members[0].name}", problem, hint)
    told, rows = list(notes), rows_of(members, columns)
    numeric = as_numbers(rows.right).dtype.kind == "f"
    numbers = numeric and not columns.prediction[1:] if ":" in name else wants_numbers(name)
    truth = truth_of(rows, numbers, threshold)
    if lower is None and declared and not canonical(declared.name):
        lower = declared.lower  # that a function of one's own is
    scored = by_name(name, truth, lower)
    found = [
        numbers_of(table, truth, columns.prediction, f"reading the oof.csv of {each.name}")
        for each, table in zip(members, rows.tables, strict=True)
    ]
    tests = [_test_table(each) for each in members]
    answering = [each.name for each, values in zip(members, found, strict=True) if values is None]
    if answering and scored.kind == "probabilities":
        problem = f"it has answers, and {scored.name} needs probabilities"
        raise UsageError(f"blending {answering[0]}", problem, "Keep a column with them in oof.csv.")
    if not answering and truth.classes and scored.kind != "probabilities":
        answering = [
            each.name
            for each, table in zip(members, tests, strict=True)
            if table is not None and _numbers(each, table, truth, columns) is None
        ]
    if answering:
        told.append(
            f"{answering[0]} has answers and no probabilities of the rows: the members vote, each "
            "with its weight. Keep probabilities in oof.csv and predictions.csv for a mean of them."
        )
        scored = by_name(name, truth, lower, votes=True)
    values = [
        votes_of(table, truth, each, f"reading the oof.csv of {member.name}") if answering else each
        for member, table, each in zip(members, rows.tables, found, strict=True)
    ]
    _require_same_columns(members, values)
    predictions = np.array(values)
    target = target_of(truth, predictions.shape[2])
    told += suspicions([each.name for each in members], predictions, target, rows, scored)
    score = score_as(scored, declared)
    nested = Search(predictions, rows.folds, scored.worth, target).nested(done)

    def by_fold(predicted: Floats) -> Scores:
        return {
            (fold, ""): scored(predicted[these], these)
            for at, fold in enumerate(rows.fold_names)
            for these in [np.flatnonzero(rows.folds == at)]
        }

    alone = tuple(map(by_fold, predictions))
    told += _other_than_logged(members, alone, predictions, scored, score)
    test = _test(members, tests, truth, columns, bool(answering), scored, told)
    oof = pd.DataFrame({rows.id_column: rows.ids})
    oof[FOLD] = [rows.fold_names[at] for at in rows.folds]
    oof[rows.target_column] = rows.right
    oof = oof.join(_predicted(nested.predictions, truth, bool(answering)))
    tested = submitted = None
    if test is not None:
        ids, test_predictions = test
        final = blended(test_predictions, nested.weights.values)
        tested = pd.DataFrame({rows.id_column: ids})
        tested = tested.join(_predicted(final, truth, bool(answering)))
        submitted = _submission(members, ids, final, truth, rows, scored, sample, told)
    return Blend(
        members=tuple(members),
        metric=scored,
        score=score,
        nested=nested,
        alone=alone,
        scores=by_fold(nested.predictions),
        whole=scored(nested.predictions, np.arange(len(rows.ids))),
        correlation=correlations(predictions),
        oof=oof,
        predictions=tested,
        submission=submitted,
        notes=tuple(told),
    )


def _require_same_columns(members: Sequence[Member], values: Sequence[Floats | None]) -> None:
    shapes = [0 if each is None else each.shape[1] for each in values]
    for member, count in zip(members, shapes, strict=True):
        if count != shapes[0]:
            problem = f"the one has {shapes[0]} columns of predictions, the other {count}"
            hint = "Name the same ones with --prediction COLUMN."
            raise UsageError(f"blending {members[0].name} and {member.name}", problem, hint)


def _other_than_logged(
    members: Sequence[Member],
    alone: Sequence[Scores],
    predictions: Floats,
    metric: Metric,
    score: Score,
) -> list[str]:
    """Return which members logged another score than their tables have."""
    told = []
    for member, scores, predicted in zip(members, alone, predictions, strict=True):
        run = member.candidate.run
        logged = run.metrics.get(score.name)
        if logged is None or run.repetition[0]:
            continue
        mean = float(np.mean(list(scores.values())))
        whole = metric(predicted, np.arange(len(predicted)))
        if min(abs(logged - mean), abs(logged - whole)) > _APART * max(abs(logged), 1e-9):
            told.append(
                f"{member.name} logged {score.name} {number(logged)}, and its table scores "
                f"{number(whole)}: it is of other rows or another column, or those were trained on."
            )
    return told


def _predicted(values: Floats, truth: Truth, votes: bool) -> pd.DataFrame:
    """Return a blend's predictions as columns of a table, as this module reads them."""
    table = pd.DataFrame()
    if values.shape[1] > 1:
        for at, name in enumerate(truth.classes):
            table[f"probability_{name}"] = values[:, at]
    elif truth.classes:
        table["probability"] = values[:, 0]
    else:
        return pd.DataFrame({PREDICTION: values[:, 0]})
    table[PREDICTION] = [truth.classes[at] for at in truth.labels(values)]
    # Votes are no probabilities: whoever blends this blend gets its answers.
    return table[[PREDICTION]] if votes else table


# -- the test rows ----------------------------------------------------------------------------


def _test_table(member: Member) -> pd.DataFrame | None:
    found = member.predictions if member.predictions is not None else member.submission
    if found is None:
        return None
    name = "predictions.csv" if member.predictions is not None else "submission.csv"
    return by_id(found, f"reading the {name} of {member.name}")


def _numbers(member: Member, table: pd.DataFrame, truth: Truth, columns: Columns) -> Floats | None:
    if member.predictions is not None:
        doing = f"reading the predictions.csv of {member.name}"
        return numbers_of(table, truth, columns.prediction, doing)
    return numbers_of(_single(table), truth, (), f"reading the submission.csv of {member.name}")


def _single(table: pd.DataFrame) -> pd.DataFrame:
    """Return a submission's only column under our name: what it is called is the competition's."""
    return table.set_axis([PREDICTION], axis=1) if len(table.columns) == 1 else table


def _test(
    members: Sequence[Member],
    tables: Sequence[pd.DataFrame | None],
    truth: Truth,
    columns: Columns,
    votes: bool,
    metric: Metric,
    told: list[str],
) -> tuple[pd.Index, Floats] | None:
    """Return the test rows' ids and the members' predictions (members, rows, columns) of them."""
    found: list[Floats] = []
    first: pd.DataFrame | None = None
    for member, table in zip(members, tables, strict=True):
        if table is None:
            told.append(
                f"There is no submission: {member.name} has no predictions.csv, test.npy or "
                "submission.csv, and no run that predicted with its models."
            )
            return None
        first = table if first is None else first
        require_same_rows(first.index, table.index, members[0].name, member.name, "the test table")
        table = table.loc[first.index]
        values = _numbers(member, table, truth, columns)
        if votes:
            doing = f"reading what {member.name} answers of the test rows"
            values = votes_of(_single(table), truth, values, doing)
        elif values is None:
            told.append(
                f"There is no submission: that of {member.name} holds answers, and {metric.name} "
                "needs probabilities. Keep them in predictions.csv."
            )
            return None
        found.append(values)
    _require_same_columns(members, found)
    assert first is not None  # noqa: S101 - there are members
    return first.index, np.array(found)


def _submission(
    members: Sequence[Member],
    ids: pd.Index,
    values: Floats,
    truth: Truth,
    rows: Rows,
    metric: Metric,
    sample: pd.DataFrame | None,
    told: list[str],
) -> pd.DataFrame | None:
    """Return what is handed in: in the form and the order of the members', or of the sample.

    None, and told, where that has other columns than the blend.
    """
    theirs = next((each.submission for each in members if each.submission is not None), None)
    like = theirs if theirs is not None else sample
    head = [rows.id_column, rows.target_column] if like is None else list(like.columns)
    table = pd.DataFrame(index=ids)
    if len(head) == 2:
        as_labels = bool(truth.classes) and metric.kind != "probabilities"
        if theirs is not None and truth.classes:
            as_labels = answers_of(_single(by_id(theirs, "")), truth) is not None
        if as_labels:
            table[head[1]] = [truth.classes[at] for at in truth.labels(values)]
        else:
            table[head[1]] = values[:, -1]
    elif len(head) - 1 == values.shape[1]:
        by_class: Mapping[str, int] = {name: at for at, name in enumerate(truth.classes)}
        for at, name in enumerate(head[1:]):
            ends = [
                place
                for each, place in by_class.items()
                if name == each or name.endswith(f"_{each}")
            ]
            table[name] = values[:, ends[0] if len(ends) == 1 else at]
    else:
        told.append(
            f"There is no submission: it would have {len(head) - 1} columns of predictions, and "
            f"the blend has {values.shape[1]}. predictions.csv holds them."
        )
        return None
    order = by_id(sample, "reading the file of --sample").index if sample is not None else ids
    if len(lacking := order.difference(ids, sort=False)):
        problem = f"the members lack {len(lacking):,} of its rows, {lacking[0]!r} for one"
        raise UsageError("reading the file of --sample", problem, "Predict the whole test file.")
    return table.loc[order].rename_axis(head[0]).reset_index()
