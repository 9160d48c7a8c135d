"""Where what is served can be found."""

from dataclasses import dataclass
from urllib.parse import quote

from kaggleops.project import views

HEALTH_PATH = "/kaggleops/health"


@dataclass(frozen=True)
class Shown:
    """An experiment to show.

    Args:
        experiment_id: which.
        by_commit: whether its run table can be grouped by commit (project/views.py).
    """

    experiment_id: str
    by_commit: bool = False


def experiment_link(server_url: str, shown: Shown | None) -> str:
    """Return the address of an experiment's run table; for None, of the list of experiments."""
    if shown is None:
        return f"{server_url}/#/experiments?{views.link_parameters(by_commit=False)}"
    page = f"{quote(shown.experiment_id)}/runs"
    return f"{server_url}/#/experiments/{page}?{views.link_parameters(by_commit=shown.by_commit)}"
