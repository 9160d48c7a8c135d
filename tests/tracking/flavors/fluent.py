"""A user's script, first `log`, then on another machine `read`: runs without models."""

import os
import sys
import threading

import matplotlib as mpl
import matplotlib.pyplot as plt
import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient

THREADS, POINTS = 8, int(os.environ.get("POINTS", "50"))


def log() -> None:
    mlflow.set_experiment("flavors")
    with mlflow.start_run(run_name="sweep"):
        for fold in range(5):
            with mlflow.start_run(run_name=f"fold {fold}", nested=True, tags={"fold": str(fold)}):
                mlflow.log_param("lr", fold / 10)
                mlflow.log_metric("loss", 1 / (fold + 1))
                mlflow.log_metric("late", fold, synchronous=False)
    with mlflow.start_run(run_name="everything") as run:
        log_files()
        log_points(run.info.run_id)
        tweets = pd.DataFrame({"text": ["a", "b"], "label": [0.0, 1.0]})
        data = mlflow.data.from_pandas(
            tweets, source="gs://x/y.csv", targets="label", name="tweets"
        )
        mlflow.log_input(data, context="training", tags={"split": "1"})
    log_traces()
    log_system_metrics()


def log_files() -> None:
    mpl.use("Agg")
    figure, axes = plt.subplots()
    axes.plot([1, 2])
    mlflow.log_figure(figure, "plots/loss.png")
    mlflow.log_table({"step": [1, 2]}, "table.json")
    mlflow.log_table({"step": [3]}, "table.json")
    mlflow.log_dict({"lr": 0.1}, "config.json")
    mlflow.log_text("zwölf Boxkämpfer", "note.txt")
    mlflow.log_image(np.zeros((4, 4, 3), dtype=np.uint8), key="sample", step=1)


def log_points(run_id: str) -> None:
    def work(first: int) -> None:
        for step in range(first, first + POINTS):
            MlflowClient().log_metric(run_id, "shared", step, step=step)

    threads = [threading.Thread(target=work, args=(n * POINTS,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def log_traces() -> None:
    @mlflow.trace
    def answer(question: str) -> str:
        with mlflow.start_span("look up") as span:
            span.set_inputs({"question": question})
            span.set_outputs({"answer": "42"})
        return "42"

    answer("what is six times seven?")
    mlflow.flush_trace_async_logging()
    trace_id = mlflow.get_last_active_trace_id()
    mlflow.set_trace_tag(trace_id, "topic", "maths")
    mlflow.log_feedback(trace_id=trace_id, name="correct", value=True)


def log_system_metrics() -> None:
    mlflow.set_system_metrics_sampling_interval(0.05)
    mlflow.set_system_metrics_samples_before_logging(1)
    with mlflow.start_run(run_name="system", log_system_metrics=True) as run:
        client = MlflowClient()
        while (
            "system/cpu_utilization_percentage" not in client.get_run(run.info.run_id).data.metrics
        ):
            pass


def read() -> None:
    client = MlflowClient()
    experiment = mlflow.get_experiment_by_name("flavors")
    mlflow.set_experiment("flavors")
    (sweep,) = mlflow.search_runs(filter_string="run_name = 'sweep'", output_format="list")
    folds = mlflow.search_runs(
        filter_string=f"tags.mlflow.parentRunId = '{sweep.info.run_id}'",
        order_by=["metrics.loss ASC"],
    )
    assert list(folds["tags.fold"]) == ["4", "3", "2", "1", "0"]
    assert sorted(folds["metrics.late"]) == [0, 1, 2, 3, 4]
    search = ([experiment.experiment_id], "metrics.loss < 0.6 and tags.fold != '4'")
    first = client.search_runs(*search, order_by=["params.lr DESC"], max_results=2)
    then = client.search_runs(
        *search, order_by=["params.lr DESC"], max_results=2, page_token=first.token
    )
    assert [[run.data.params["lr"] for run in page] for page in (first, then)] == [
        ["0.3", "0.2"],
        ["0.1"],
    ]
    assert then.token is None

    (everything,) = mlflow.search_runs(
        filter_string="dataset.name = 'tweets' and dataset.context = 'training'",
        output_format="list",
    )
    run_id = everything.info.run_id
    (data,) = everything.inputs.dataset_inputs
    assert mlflow.data.get_source(data.dataset).uri == "gs://x/y.csv"
    assert {tag.key: tag.value for tag in data.tags}["split"] == "1"
    read_files(run_id)
    points = client.get_metric_history(run_id, "shared")
    assert sorted(point.step for point in points) == list(range(THREADS * POINTS))

    (trace,) = mlflow.search_traces(filter_string="tag.topic = 'maths'", return_type="list")
    assert [span.name for span in trace.data.spans] == ["answer", "look up"]
    assert [(each.name, each.value) for each in trace.info.assessments] == [("correct", True)]

    (system,) = mlflow.search_runs(filter_string="run_name = 'system'", output_format="list")
    assert system.data.metrics["system/cpu_utilization_percentage"] >= 0


def read_files(run_id: str) -> None:
    assert mlflow.load_table("table.json", run_ids=[run_id])["step"].tolist() == [1, 2, 3]
    root = f"runs:/{run_id}"
    assert mlflow.artifacts.load_dict(f"{root}/config.json") == {"lr": 0.1}
    assert mlflow.artifacts.load_text(f"{root}/note.txt") == "zwölf Boxkämpfer"
    assert mlflow.artifacts.load_image(f"{root}/plots/loss.png").size == (640, 480)
    listed = [each.path for each in MlflowClient().list_artifacts(run_id)]
    assert listed == ["config.json", "images", "note.txt", "plots", "table.json"]
    assert len(MlflowClient().list_artifacts(run_id, "images")) == 2  # and a small one for the UI


if __name__ == "__main__":
    {"log": log, "read": read}[sys.argv[1]]()
