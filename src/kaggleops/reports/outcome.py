"""What a run came to, said on its page once it is over: its score, beside the run before.

Two runs tell nothing of chance, and runs of other settings nothing of the commit.
"""

import math
from contextlib import suppress

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from kaggleops.errors import KaggleOpsError
from kaggleops.mlruns import ui
from kaggleops.printable import as_markdown
from kaggleops.reports.comparison_text import number
from kaggleops.reports.score import Score, score_of
from kaggleops.tags import COMMIT, NOTE, PREVIOUS, SETTINGS


def tell_outcome(tracking_uri: str, run: Run) -> None:
    """Say on the page of a run that has finished what it came to.

    It reads the run before, and writes this one. A run without a page of ours has none of it, nor
    has one whose bucket is away: it is only a help to the reader.
    """
    with suppress(KaggleOpsError, MlflowException):
        _tell(tracking_uri, run)


def _tell(tracking_uri: str, run: Run) -> None:
    tags = run.data.tags
    found = score_of(tags, run.data.metrics)
    if ui.END not in tags.get(NOTE, "") or run.info.status != "FINISHED" or not found:
        return
    client = MlflowClient(tracking_uri, tracking_uri)
    before = None
    with suppress(KaggleOpsError, MlflowException):  # it may have been deleted
        if PREVIOUS in tags:
            before = client.get_run(tags[PREVIOUS])
    if before and not before.data.tags.get(COMMIT):
        before = None
    score, value = found
    said = f"**{as_markdown(score.name)} {number(value)}**"
    if score.lower:
        said += " (lower is better)"
    since = ui.since(
        tags,
        run.info.experiment_id,
        run.info.run_id,
        ui.Before(before.info.run_id, before.data.tags) if before else None,
        said,
        _beside(score, value, before, tags.get(SETTINGS)) if before else "",
    )
    note = ui.with_sentences(tags[NOTE], tags, since)
    client.set_tag(run.info.run_id, NOTE, note)


def _beside(score: Score, value: float, before: Run, settings: str | None) -> str:
    """Return how a score is beside the run before; "" where that had none, or other settings."""
    there = score_of(before.data.tags, before.data.metrics)
    if not there or there[0].name != score.name or before.data.tags.get(SETTINGS) != settings:
        return ""
    gained = there[1] - value if score.lower else value - there[1]
    if not math.isfinite(gained):
        return ""
    if not gained:
        return "the same as"
    return f"{number(abs(gained))} {'better' if gained > 0 else 'worse'} than"
