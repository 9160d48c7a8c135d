"""The run of a blend: its score, its members' weights, and its files."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from mlflow import MlflowClient

from kaggleops.blend.members import PREDICTIONS, SUBMISSION
from kaggleops.blend.report import Blend, mean_of, numbered
from kaggleops.mlruns.ui import run_page, with_section
from kaggleops.printable import as_markdown, counted
from kaggleops.reports.comparison_text import number
from kaggleops.reports.evidence import OOF_FILE
from kaggleops.reports.statistics import words
from kaggleops.tags import BLEND, NOTE, RUN_NAME, SCORE

_LINKED = 20  # members on the run's page


def record(found: Blend, tracking_uri: str) -> str:
    """Make the run of a blend, beside its first member's, and return its id.

    Raises KaggleOpsError if the bucket cannot be reached.
    """
    client = MlflowClient(tracking_uri, tracking_uri)
    tags = {
        RUN_NAME: f"blend of {len(found.weights)}",
        BLEND: json.dumps(found.weights),
        SCORE: f"{found.score.name} {'lower' if found.score.lower else 'higher'}",
        NOTE: with_section("", "blend", _text(found)),
    }
    home = found.members[0].run.experiment_id
    run_id = str(client.create_run(home, tags=tags).info.run_id)
    try:
        _log(found, client, run_id)
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id)
    return run_id


def _log(found: Blend, client: MlflowClient, run_id: str) -> None:
    runs, name = [each.run for each in found.members], found.score.name
    tasks = {run.params.get("task", "") for run in runs}
    params = {
        "members": ",".join(run.id[:10] for run in runs),
        "metric": found.metric.known_as,
        "method": found.nested.weights.method,
        "task": tasks.pop() if len(tasks) == 1 else "",
    }
    for key, text in params.items():
        if text:
            client.log_param(run_id, key, text)
    # The folds by numbers, as `compare` and the leaderboard pair them with the members'.
    folds = numbered([fold for fold, _ in found.scores])
    values = found.scores.values()
    metrics = {f"fold_{at}_{name}": value for at, value in zip(folds, values, strict=True)}
    of_all = "oof" in words(name)
    metrics |= {name: found.whole} if of_all else {name: found.mean, f"oof_{name}": found.whole}
    for key, value in metrics.items():
        client.log_metric(run_id, key, value)
    with TemporaryDirectory(prefix="kaggleops-") as scratch:
        tables = {OOF_FILE: found.oof, PREDICTIONS: found.predictions, SUBMISSION: found.submission}
        for file, table in tables.items():
            if table is not None:
                table.to_csv(Path(scratch, file), index=False)
        client.log_artifacts(run_id, scratch)
    client.log_dict(run_id, found.to_json(), "weights.json")
    head, rows = found.table()
    client.log_table(run_id, pd.DataFrame(rows, columns=head), "members.json")


def _text(found: Blend) -> str:
    """Return what the run's page says, in Markdown."""
    lines = [
        f"A blend of {counted(len(found.weights), 'run')}: **{as_markdown(found.score.name)} "
        f"{number(found.mean)}**. {as_markdown(found.answer)}\n",
        "| member | score | weight |",
        "|---|---|---|",
    ]
    weights = found.nested.weights.values
    for at in np.argsort(-weights, kind="stable")[:_LINKED]:
        member = found.members[at]
        link = run_page(member.run.experiment_id, member.run.id)
        score, weight = number(mean_of(found.alone[at])), f"{weights[at]:.2f}"
        lines.append(f"| [{as_markdown(member.name)}]({link}) | {score} | {weight} |")
    if len(weights) > _LINKED:
        lines.append(f"| {len(weights) - _LINKED} more in weights.json | | |")
    return "\n".join([*lines, "", found.how])
