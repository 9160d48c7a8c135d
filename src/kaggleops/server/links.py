"""Where what is served can be found."""

from urllib.parse import quote

HEALTH_PATH = "/kaggleops/health"

_TRAINING_SIDE = "workflowType=machine_learning"


def experiment_link(server_url: str, experiment_id: str | None) -> str:
    """Return the address of an experiment's run table; for None, of the list of experiments.

    The UI opens on its GenAI side; which side is shown is kept in the browser and in this
    parameter of the link, and nowhere else.
    """
    page = f"/{quote(experiment_id)}/runs" if experiment_id else ""
    return f"{server_url}/#/experiments{page}?{_TRAINING_SIDE}"
