"""The run of a blend: its score, its members' weights, and its files."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from mlflow import MlflowClient

from kaggleops.blend.members import PREDICTIONS, SUBMISSION
from kaggleops.blend.report import Blend
from kaggleops.mlruns.ui import run_page, with_section
from kaggleops.printable import as_markdown, counted, printable
from kaggleops.reports.comparison_text import number
from kaggleops.reports.evidence import OOF_FILE
from kaggleops.reports.statistics import words
from kaggleops.tags import BLEND, NOTE, RUN_NAME, SCORE

WEIGHTS_FILE = "weights.json"
_PICTURE = "correlation.png"
_TABLE = "members.json"  # which MLflow's UI shows as a table
_DRAWN = 30  # members in the picture
_LINKED = 20  # members on the run's page


def record(found: Blend, tracking_uri: str) -> str:
    """Make the run of a blend, beside its first member's, and return its id.

    Raises KaggleOpsError if the bucket cannot be reached.
    """
    client = MlflowClient(tracking_uri, tracking_uri)
    home = found.members[0].candidate.run.experiment_id
    score = found.score
    tags = {
        RUN_NAME: f"blend of {len(found.weights)}",
        BLEND: json.dumps(found.weights),
        SCORE: f"{score.name} {'lower' if score.lower else 'higher'}",
        NOTE: with_section("", "blend", _text(found)),
    }
    run_id = str(client.create_run(home, tags=tags).info.run_id)
    with _ended(client, run_id), TemporaryDirectory(prefix="kaggleops-") as scratch:
        folder = Path(scratch)
        tasks = {each.candidate.run.params.get("task", "") for each in found.members}
        ids = ",".join(each.candidate.run.id[:10] for each in found.members)
        client.log_param(run_id, "members", ids)
        client.log_param(run_id, "metric", found.metric.known_as)
        client.log_param(run_id, "method", found.nested.weights.method)
        if len(tasks) == 1 and (task := tasks.pop()):
            client.log_param(run_id, "task", task)
        # The folds by numbers, as `compare` and the leaderboard pair them with the members'.
        numbers = [fold for fold, _ in found.scores]
        are_numbers = all(each.isdecimal() and len(each) < 4 for each in numbers)
        for at, (fold, value) in enumerate(zip(numbers, found.scores.values(), strict=True)):
            client.log_metric(run_id, f"fold_{fold if are_numbers else at}_{score.name}", value)
        of_all = "oof" in words(score.name)
        client.log_metric(run_id, score.name, found.whole if of_all else found.mean)
        if not of_all:
            client.log_metric(run_id, f"oof_{score.name}", found.whole)
        found.oof.to_csv(folder / OOF_FILE, index=False)
        for name, table in ((PREDICTIONS, found.predictions), (SUBMISSION, found.submission)):
            if table is not None:
                table.to_csv(folder / name, index=False)
        told = json.dumps(found.to_json(), indent=2)
        (folder / WEIGHTS_FILE).write_text(told, encoding="utf-8")
        _draw(found, folder / _PICTURE)
        client.log_artifacts(run_id, str(folder))
        head, rows = found.table()
        client.log_table(run_id, pd.DataFrame(rows, columns=head), _TABLE)
    return run_id


@contextmanager
def _ended(client: MlflowClient, run_id: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id)


def _text(found: Blend) -> str:
    """Return what the run's page says, in Markdown."""
    lines = [
        f"A blend of {counted(len(found.weights), 'run')}: **{as_markdown(found.score.name)} "
        f"{number(found.mean)}**. {as_markdown(found.answer)}",
        "",
        "| member | score | weight |",
        "|---|---|---|",
    ]
    weighed = sorted(range(len(found.members)), key=lambda at: -found.nested.weights.values[at])
    for at in weighed[:_LINKED]:
        run = found.members[at].candidate.run
        values = list(found.alone[at].values())
        link = f"[{as_markdown(found.members[at].name)}]({run_page(run.experiment_id, run.id)})"
        score = number(sum(values) / len(values))
        lines.append(f"| {link} | {score} | {found.nested.weights.values[at]:.2f} |")
    if len(weighed) > _LINKED:
        lines.append(f"| {len(weighed) - _LINKED} more in {WEIGHTS_FILE} | | |")
    return "\n".join([*lines, "", found.how])


def _draw(found: Blend, path: Path) -> None:
    """Draw how the members' predictions correlate."""
    from matplotlib.figure import Figure

    count = min(len(found.members), _DRAWN)
    names = [printable(each.name)[:24] for each in found.members[:count]]
    shown = found.correlation[:count, :count]
    figure = Figure(figsize=(2.5 + 0.6 * count, 2 + 0.6 * count), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shown, vmin=min(0.0, float(shown.min())), vmax=1, cmap="viridis_r")
    axes.set_xticks(range(count), names, rotation=45, ha="right", parse_math=False)
    axes.set_yticks(range(count), names, parse_math=False)
    for row in range(count):
        for column in range(count):
            value = shown[row, column]
            colour = "white" if value > 0.6 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour)
    axes.set_title("Correlation of the members' predictions")
    figure.colorbar(image, shrink=0.8)
    figure.savefig(path, dpi=120)
