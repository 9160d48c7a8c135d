"""Where what is served can be found, and how much of it is there.

Apart from the health page, which imports MLflow: the process that only starts the others needs it.
"""

from kaggleops.mlruns import ui


def experiment_link(server_url: str, experiment_id: str | None) -> str:
    """Return the address of an experiment's run table; without one, of the list of experiments."""
    return f"{server_url}/{ui.run_table(experiment_id)}"


def progress_line(done: int, total: int) -> str:
    """Return how much of a bucket is in the index, as a sentence."""
    what = "runs, experiments and models"
    if done >= total:
        return f"All {total:,} {what} are in."
    return f"{done:,} of {total:,} {what} are in; the rest follows."
