"""Which page of the UI to open."""

import mlflow
from mlflow.entities import ViewType

from kaggleops.errors import UsageError


def experiment_to_show(tracking_uri: str, name: str | None) -> str | None:
    """Return the id of the experiment of that name, or of the last used; None if there is none.

    Raises:
        UsageError: there is no experiment of that name; with those that there are.
    """
    client = mlflow.MlflowClient(tracking_uri)
    experiments = client.search_experiments(ViewType.ACTIVE_ONLY)
    if name is not None:
        found = next((each for each in experiments if each.name == name), None)
        if found is None:
            names = ", ".join(each.name for each in experiments)
            raise UsageError(
                f"opening the experiment {name!r}",
                "there is none of that name",
                f"There are: {names}.",
            )
        return str(found.experiment_id)
    ids = [each.experiment_id for each in experiments]
    runs = client.search_runs(ids, max_results=1, order_by=["attributes.start_time DESC"])
    return str(runs[0].info.experiment_id) if runs else None
