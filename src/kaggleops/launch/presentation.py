"""What the UI's pages say of a run that was launched, and of its experiment."""

import os
from contextlib import suppress

import mlflow
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT

from kaggleops.errors import KaggleOpsError
from kaggleops.git.commits import Commit
from kaggleops.mlruns import EntityStore, ui
from kaggleops.mlruns.liveness import last_written
from kaggleops.mlruns.ui import END, Origins
from kaggleops.tags import NOTE

NOTEBOOK = "KAGGLEOPS_NOTEBOOK_URL"
"""The environment variable in which whoever starts a notebook or a machine says where it is."""

_LOOKED_AT = 5  # runs, for one that knows its commit


def present(run: Run, commit: Commit, store: EntityStore, notebook: str = "") -> None:
    """Describe a run by its commit, and let its experiment's run table be grouped by commit.

    A run that has a description already, because it is continued here, keeps it. Costs one listing
    of the experiment's runs, to find the one before.

    Args:
        run: one that has just begun.
        commit: what it runs.
        store: the bucket that it is in.
        notebook: the address of the notebook it is going to run in; this one's by default.
    """
    if END in run.data.tags.get(NOTE, ""):
        return
    client = mlflow.MlflowClient()
    experiment = client.get_experiment(run.info.experiment_id)
    if ui.TAG not in experiment.tags:
        client.set_experiment_tag(experiment.experiment_id, ui.TAG, ui.GROUPED_BY_COMMIT)
    previous, previous_sha = _previous(run, store)
    home = run.info.experiment_id
    both = ui.side_by_side(home, [previous, run.info.run_id]) if previous else ""
    origins = Origins(
        sha=commit.sha,
        branch=commit.branch,
        origin=commit.origin,
        previous_sha=previous_sha,
        side_by_side=both,
        notebook=notebook or os.environ.get(NOTEBOOK, ""),
        artifacts=run.info.artifact_uri,
    )
    client.set_tag(run.info.run_id, NOTE, origins.describe())


def _previous(run: Run, store: EntityStore) -> tuple[str, str]:
    """Return the id and the commit of the experiment's run before; "" each where there is none."""
    with suppress(KaggleOpsError):  # it is only a help to the reader
        listed = last_written(store, run.info.experiment_id)
        others = [each for each in listed if each.name != run.info.run_id]
        for other in others[:_LOOKED_AT]:
            stored = store.read(other)
            sha = stored.entity.files.get(f"tags/{MLFLOW_GIT_COMMIT}") if stored else None
            if sha:
                return other.name, sha.decode(errors="replace")
    return "", ""
