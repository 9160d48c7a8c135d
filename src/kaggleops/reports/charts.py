"""Metric curves as PNGs, and the last runs of an experiment as a plain-text table."""

import datetime
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from rich.console import Console
from rich.table import Table

from kaggleops.mlruns import EntityStore
from kaggleops.mlruns.liveness import last_written
from kaggleops.printable import printable
from kaggleops.tags import BACKEND, COMMIT

Points = Sequence[tuple[int, float]]
"""A metric's steps and values, in the order of the steps."""


def history(client: mlflow.MlflowClient, run_id: str, metric: str) -> Points:
    """Return all points of a run's metric."""
    found = client.get_metric_history(run_id, metric)
    return sorted((point.step, point.value) for point in found)


def losses(client: mlflow.MlflowClient, run: Run) -> dict[str, Points]:
    """Return a run's losses that were logged more than once, by the metric's name."""
    names = sorted(name for name in run.data.metrics if "loss" in name)
    curves = {name: history(client, run.info.run_id, name) for name in names}
    return {name: points for name, points in curves.items() if len(points) > 1}


def chart(curves: Mapping[str, Points], title: str, ylabel: str = "") -> bytes:
    """Return a PNG of curves over steps; ImportError without matplotlib."""
    # The figure alone: pyplot would change how the notebook's own figures are shown.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes: Any = figure.add_subplot(title=title, xlabel="step", ylabel=ylabel)
    axes.grid(alpha=0.3)
    for name, points in curves.items():
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, label=name, marker="." if len(points) < 20 else None)
    axes.legend()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    return content.getvalue()


# What trainers log of themselves, step by step; it belongs in the UI.
_BOOKKEEPING = ("train_", "eval_", "system", "loss", "grad_norm", "learning_rate", "total_flos")
_METRICS = 3


def headline(metrics: dict[str, float]) -> list[tuple[str, float]]:
    """Return the metrics that are results, by name; losses if there are no others."""
    final = [name for name in metrics if "/" not in name and name != "epoch"]
    results = [name for name in final if not name.startswith(_BOOKKEEPING)]
    return [(name, metrics[name]) for name in sorted(results or final)]


def last_runs(
    client: mlflow.MlflowClient, store: EntityStore, experiment_id: str, count: int = 10
) -> list[Run]:
    """Return the runs of an experiment that were written last, the latest first.

    Costs a listing and a few requests for each; a search would bring every run of the experiment.
    """
    runs = []
    for each in last_written(store, experiment_id)[:count]:
        with suppress(MlflowException):  # it cannot be read
            runs.append(client.get_run(each.name))
    shown = [run for run in runs if run.info.lifecycle_stage == "active"]
    return sorted(shown, key=lambda run: -run.info.start_time)


def table(runs: Sequence[Run], mark: str = "") -> str:
    """Return a table of runs with their commits and results, the one with the id `mark` marked."""
    found = Counter(name for run in runs for name, _ in headline(run.data.metrics))
    names = sorted(found, key=lambda name: (-found[name], name))[:_METRICS]
    heads = ["", "started (UTC)", "run", "commit", "status", "where", *map(printable, names)]
    shown = Table(*heads, box=None)
    for run in runs:
        started = datetime.datetime.fromtimestamp(run.info.start_time / 1000, datetime.UTC)
        tags, metrics = run.data.tags, run.data.metrics
        shown.add_row(
            ">" if run.info.run_id == mark else "",
            f"{started:%Y-%m-%d %H:%M}",
            printable(run.info.run_name),
            printable(tags.get(COMMIT, "")[:10]),
            run.info.status,
            printable(tags.get(BACKEND, "")),
            *(f"{metrics[name]:.4f}" if name in metrics else "" for name in names),
        )
    # Not rich's HTML: a log on Kaggle shows plain text alone.
    console = Console(
        width=140, force_jupyter=False, force_terminal=False, markup=False, emoji=False
    )
    with console.capture() as captured:
        console.print(shown)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
