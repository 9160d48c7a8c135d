"""Metric curves as a picture, for a notebook or a file."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import mlflow

Points = Sequence[tuple[int, float]]
"""A metric's steps and values, in the order of the steps."""


def history(client: mlflow.MlflowClient, run_id: str, metric: str) -> Points:
    """Return all points of a run's metric."""
    found = client.get_metric_history(run_id, metric)
    return sorted((point.step, point.value) for point in found)


def losses(client: mlflow.MlflowClient, run: mlflow.entities.Run) -> dict[str, Points]:
    """Return a run's losses that were logged more than once, by the metric's name."""
    names = sorted(name for name in run.data.metrics if "loss" in name)
    curves = {name: history(client, run.info.run_id, name) for name in names}
    return {name: points for name, points in curves.items() if len(points) > 1}


def chart(curves: Mapping[str, Points], title: str, ylabel: str = "") -> bytes:
    """Return a PNG of curves over steps.

    Args:
        curves: what to draw, each under its name.
        title: above it.
        ylabel: beside it.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, axes = _axes(title, "step", ylabel)
    for name, points in curves.items():
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, label=name, marker="." if len(points) < 20 else None)
    axes.legend()
    return _png(figure)


def scatter(
    points: Mapping[str, tuple[float, float]], title: str, xlabel: str, ylabel: str
) -> bytes:
    """Return a PNG of points, each with its name beside it.

    Args:
        points: where they are, by name.
        title: above it.
        xlabel: below it.
        ylabel: beside it.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, axes = _axes(title, xlabel, ylabel)
    for name, place in points.items():
        axes.plot(*place, marker="o", color="tab:blue")
        axes.annotate(name, place, xytext=(5, 5), textcoords="offset points", fontsize=8)
    return _png(figure)


def _axes(title: str, xlabel: str, ylabel: str) -> tuple[Any, Any]:
    # The figure alone: pyplot would change how the notebook's own figures are shown.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    return figure, axes


def _png(figure: Any) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    return content.getvalue()
