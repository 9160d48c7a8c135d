"""Plots of a run, drawn without a display and without pyplot's global state."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLOURS = ("#2a6f97", "#c9ced6")


def scores_by_label(
    bars: Mapping[str, tuple[int, float, float]], title: str, baseline: str
) -> Figure:
    """Bars of mean scores (0 to 1): of each label how many rows, the model's, and a baseline's."""
    figure, axes = _new_figure(1.6 + 1.5 * len(bars))
    _, *heights = zip(*bars.values(), strict=True)
    names = ("model", baseline)
    for offset, colour, name, height in zip((-0.2, 0.2), COLOURS, names, heights, strict=True):
        places = [place + offset for place in range(len(bars))]
        drawn = axes.bar(places, height, 0.38, color=colour, label=name)
        axes.bar_label(drawn, fmt="%.3f", padding=2, fontsize=8)
    axes.set_xticks(range(len(bars)), [f"{name}\n{bars[name][0]:,} rows" for name in bars])
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
