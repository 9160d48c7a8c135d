"""Plots of a run, drawn without a display and without pyplot's global state."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

MODEL_COLOUR = "#2a6f97"
BASELINE_COLOUR = "#c9ced6"


def scores_by_label(
    scores: Mapping[str, pd.Series], baselines: Mapping[str, float], title: str, baseline: str
) -> Figure:
    """Bars of mean scores (0 to 1), all rows first and then each label, beside a baseline's."""
    counts = {label: len(values) for label, values in scores.items()}
    everything = pd.concat(scores.values())
    total = sum(baselines[label] * count for label, count in counts.items()) / len(everything)
    bars = [("all", float(everything.mean()), total, len(everything))]
    bars += [(name, float(scores[name].mean()), baselines[name], counts[name]) for name in scores]

    figure, axes = _new_figure(1.6 + 1.5 * len(bars))
    for place, offset, colour, name in (
        (1, 0.2, MODEL_COLOUR, "model"),
        (2, -0.2, BASELINE_COLOUR, baseline),
    ):
        heights = [bar[place] for bar in bars]
        drawn = axes.bar(
            [i - offset for i in range(len(bars))], heights, 0.38, color=colour, label=name
        )
        axes.bar_label(drawn, fmt="%.3f", padding=2, fontsize=8)
    axes.set_xticks(range(len(bars)), [f"{name}\n{count:,} rows" for name, _, _, count in bars])
    axes.set_ylim(0, 1.12)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_ylabel("mean of the validation rows")
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(axis="y", color="#e6e8eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", length=0)
    axes.legend(loc="upper right", ncols=2, frameon=False, fontsize=8)
    return figure


def confusion_matrix(right: pd.Series, answered: pd.Series, names: Sequence[str]) -> Figure:
    """How often each label was answered with which."""
    from sklearn.metrics import ConfusionMatrixDisplay

    figure, axes = _new_figure()
    ConfusionMatrixDisplay.from_predictions(
        right, answered, labels=list(names), ax=axes, cmap="Blues", colorbar=False
    )
    return figure


def _new_figure(width: float = 6.0) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, 3.8), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()
