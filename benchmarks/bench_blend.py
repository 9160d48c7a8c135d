"""Is the score of a blend the one that it gets on new rows?

    python benchmarks/bench_blend.py [FIGURE.png]

Members whose truth is known: each says how probable the second class is, and errs in its own way.
Their blend is found on 500 rows, and scored three ways: on those rows themselves, nested as
`kaggleops blend` does, and on 20,000 new ones. The score is the share of right answers.
"""

import sys

import numpy as np
from common import print_caption, print_table

from kaggleops.blend.weights import Floats, Ints, blended, nested
from kaggleops.reports.statistics import difference

ROWS, NEW, FOLDS, REPETITIONS = 500, 20_000, 5, 8
COUNTS = (2, 5, 10, 20)
KINDS = {"that know something": 2.5, "that know nothing": None}


def main(figure: str = "") -> None:
    found = {kind: [tried(count, spread) for count in COUNTS] for kind, spread in KINDS.items()}
    columns = ["members", "best single run", "same rows", "nested", "new rows", '"better"']
    for kind, lines in found.items():
        rows = [
            [count, *(f"{each:.3f}" for each in line[:4]), f"{line[4]:.0%}"]
            for count, line in zip(COUNTS, lines, strict=True)
        ]
        print_table(f"Members {kind}", columns, rows)
    print_caption(
        f"{ROWS} rows in {FOLDS} folds, {REPETITIONS} repetitions. The best single run is chosen "
        'and scored on the same rows, as a leaderboard has it. "Better": how often the blend is '
        "said to be better than that one."
    )
    if figure:
        draw(found, figure)


def tried(count: int, spread: float | None) -> list[float]:
    """Return the means of the scores, and how often the blend is said to be better."""
    lines = []
    for seed in range(REPETITIONS):
        draw = np.random.default_rng(seed)
        truth = draw.integers(0, 2, ROWS + NEW).astype(float)
        signal = 0 * truth if spread is None else (2 * truth - 1) / spread
        members = 1 / (1 + np.exp(-(signal + draw.normal(size=(count, ROWS + NEW)))))[..., None]
        lines.append(scored(members, truth))
    return [float(each) for each in np.mean(lines, axis=0)]


def scored(members: Floats, truth: Floats) -> list[float]:
    def metric(predicted: Floats, rows: Ints) -> float:
        return float(np.mean((predicted[:, 0] >= 0.5) == truth[rows]))

    known, new = np.arange(ROWS), np.arange(ROWS, ROWS + NEW)
    folds = known % FOLDS
    given = members[:, :ROWS]
    made = nested(given, folds, metric, truth[:ROWS, None])
    these = [np.flatnonzero(folds == fold) for fold in range(FOLDS)]
    blend = {(str(at), ""): metric(made.predictions[i], i) for at, i in enumerate(these)}
    alone = [{(str(at), ""): metric(m[i], i) for at, i in enumerate(these)} for m in given]
    best = max(alone, key=lambda scores: np.mean(list(scores.values())))
    beside = difference(best, blend)
    final = made.weights.values
    return [
        float(np.mean(list(best.values()))),
        metric(blended(given, final), known),
        float(np.mean(list(blend.values()))),
        metric(blended(members[:, ROWS:], final), new),
        float(beside is not None and beside.verdict(lower=False) == "better"),
    ]


def draw(found: dict[str, list[list[float]]], path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for at, (kind, lines) in enumerate(found.items(), 1):
        axes = figure.add_subplot(1, 2, at)
        names = ("best single run", "on the same rows", "nested (what is logged)", "on new rows")
        styles = (":", "--", "o-", "s-")
        for place, (name, style) in enumerate(zip(names, styles, strict=True)):
            axes.plot(COUNTS, [line[place] for line in lines], style, label=name)
        axes.set_title(f"Members {kind}")
        axes.set_xlabel("members")
        axes.set_ylabel("accuracy")
        axes.grid(alpha=0.3)
        if at == 1:
            axes.legend(loc="center right")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
