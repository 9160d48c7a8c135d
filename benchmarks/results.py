"""The table of docs/results.md: scores of finished runs, each with its time, commit and command.

    python benchmarks/results.py BUCKET RUN [RUN …]

And for each run the scores after each epoch; where weights were averaged, what that changed.
"""

import os
import sys

from common import print_table


def main(bucket: str, *run_ids: str) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = tracking_uri(bucket)
    import mlflow

    client = mlflow.MlflowClient()
    runs = [client.get_run(run_id) for run_id in run_ids]
    score, *parts = score_names(runs[0].data.metrics)
    rows = [
        [
            run.data.params["model.name"],
            *(f"{run.data.metrics[name]:.4f}" for name in (score, *parts)),
            minutes(run.info.end_time - run.info.start_time),
            f"`{run.data.tags['mlflow.source.git.commit'][:7]}`",
            f"`{command(run.data.params)}`",
        ]
        for run in runs
    ]
    print_table("Scores", ["model", score, *parts, "time", "commit", "command"], rows)
    for run in runs:
        points = client.get_metric_history(run.info.run_id, f"eval_{score}")
        curve = [[point.step, f"{point.value:.4f}"] for point in points]
        averaged = run.data.metrics.get(f"averaged_{score}")
        curve += [["averaged weights", f"{averaged:.4f}"]] if averaged else []
        print_table(f"Run {run.info.run_id}", ["step", score], curve)


def tracking_uri(bucket: str) -> str:
    """Return the tracking URI of a bucket as commands take it."""
    from kaggleops.bucket.location import bucket_uri

    return bucket_uri(bucket) + "/mlruns"


def score_names(metrics: dict[str, float]) -> list[str]:
    """Return the score that counts and its parts."""
    score = next(name.removeprefix("baseline_") for name in metrics if name.startswith("baseline_"))
    return [score, *sorted(name for name in metrics if name.startswith(f"{score}_"))]


def minutes(milliseconds: int) -> str:
    seconds = milliseconds // 1000
    return f"{seconds // 60} min {seconds % 60:02d} s"


def command(params: dict[str, str]) -> str:
    overrides = params.get("overrides", "").replace(params["data.dir"], "<folder>")
    given = " ".join(f"{key}={params[key]}" for key in ("task", "model", "fold"))
    return f"kaggleops run {given} {overrides}".strip()


if __name__ == "__main__":
    main(*sys.argv[1:])
