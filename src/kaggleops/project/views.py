"""How the UI shows an experiment: its run table grouped by commit.

MLflow's UI keeps views to share as tags of the experiment, and a link names one by its key.
"""

import json
from collections.abc import Mapping

KEY = "by-commit"
"""What the parameter `viewStateShareKey` of a link has to be."""

TAG = f"mlflow.sharedViewState.{KEY}"
"""The experiment's tag that holds the view."""

GROUPED_BY_COMMIT = json.dumps(
    {
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "tag", "groupByData": "git_commit"}],
        }
    }
)
"""The tag's value."""


def link_parameters(tags: Mapping[str, str]) -> str:
    """Return the parameters of a link to an experiment's run table.

    Args:
        tags: the experiment's.
    """
    # The UI opens on its GenAI side; which side is shown is kept in the browser and in this
    # parameter of the link, and nowhere else.
    side = "workflowType=machine_learning"
    return f"{side}&viewStateShareKey={KEY}" if TAG in tags else side
