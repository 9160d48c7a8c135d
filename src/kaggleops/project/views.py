"""Pages of the UI: an experiment's run table grouped by commit, runs side by side, an artifact.

MLflow's UI keeps views to share as tags of the experiment, and a link names one by its key.
"""

import json
from collections.abc import Sequence
from urllib.parse import quote

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


def link_parameters(*, by_commit: bool) -> str:
    """Return the parameters of a link to a run table.

    Args:
        by_commit: whether the experiment has the tag above.
    """
    # The UI opens on its GenAI side; which side is shown is kept in the browser and in this
    # parameter of the link, and nowhere else.
    side = "workflowType=machine_learning"
    return f"{side}&viewStateShareKey={KEY}" if by_commit else side


def side_by_side(experiment_id: str, run_ids: Sequence[str]) -> str:
    """Return the page that compares runs, as a link from another page of the UI."""
    runs, experiments = (
        quote(json.dumps(ids, separators=(",", ":"))) for ids in (list(run_ids), [experiment_id])
    )
    return f"#/compare-runs?runs={runs}&experiments={experiments}"


def artifact_page(experiment_id: str, run_id: str, path: str) -> str:
    """Return the page that shows an artifact of a run, as a link from another page of the UI."""
    return f"#/experiments/{experiment_id}/runs/{run_id}/artifacts/{quote(path)}"
