"""Which page of the UI to open."""

import mlflow
from mlflow.entities import ViewType

from kaggleops.errors import UsageError
from kaggleops.project import views
from kaggleops.server.links import Shown


def experiment_to_show(tracking_uri: str, name: str | None) -> Shown | None:
    """Return the experiment of that name, or the last used; None if there is none.

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
        return Shown(str(found.experiment_id), views.TAG in found.tags)
    by_id = {each.experiment_id: each for each in experiments}
    runs = client.search_runs(list(by_id), max_results=1, order_by=["attributes.start_time DESC"])
    if not runs:
        return None
    last = by_id[runs[0].info.experiment_id]
    return Shown(str(last.experiment_id), views.TAG in last.tags)
