"""Where what is served can be found, and how much of it is there.

Apart from the health page, which imports MLflow: the process that only starts the others needs it.
"""

from dataclasses import dataclass
from urllib.parse import quote

from kaggleops.mlruns import ui


@dataclass(frozen=True)
class Shown:
    """An experiment to show, and whether its runs can be grouped by commit (mlruns/ui.py)."""

    experiment_id: str
    by_commit: bool = False


def experiment_link(server_url: str, shown: Shown | None) -> str:
    """Return the address of an experiment's run table; without one, of the list of experiments."""
    if shown is None:
        return f"{server_url}/#/experiments?{ui.link_parameters(by_commit=False)}"
    page = f"{quote(shown.experiment_id)}/runs"
    return f"{server_url}/#/experiments/{page}?{ui.link_parameters(by_commit=shown.by_commit)}"


def progress_line(done: int, total: int) -> str:
    """Return how much of a bucket is in the index, as a sentence."""
    what = "runs, experiments and models"
    if done >= total:
        return f"All {total:,} {what} are in."
    return f"{done:,} of {total:,} {what} are in; the rest follows."
