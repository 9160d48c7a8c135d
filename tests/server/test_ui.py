"""The stock MLflow UI over a bucket, in a real browser."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import mlflow
import psutil
import pytest
import requests
from mlflow.entities import Metric, Param, RunTag
from playwright.sync_api import Page, expect

from kaggleops.bucket import Bucket
from kaggleops.errors import UsageError
from kaggleops.project import views
from kaggleops.server.links import experiment_link
from kaggleops.server.mlflow_server import mlflow_server
from kaggleops.server.opening import experiment_to_show
from tests.buckets import ON_GCS
from tests.command import kaggleops


@pytest.fixture
def uri(bucket: Bucket) -> str:
    """The tracking URI of a bucket with two runs of two commits in one experiment."""
    uri = f"{bucket.uri}/mlruns"
    client = mlflow.MlflowClient(uri)
    home = client.create_experiment("tweet_sentiment", tags={views.TAG: views.GROUPED_BY_COMMIT})
    for commit, jaccard in (("1111111111", 0.68), ("2222222222", 0.71)):
        run = client.create_run(home, run_name=f"run of {commit[:4]}", tags={"git_commit": commit})
        points = [Metric("jaccard", jaccard * step / 3, 1000 + step, step) for step in range(4)]
        client.log_batch(run.info.run_id, points, [Param("model", "tiny")], [RunTag("a", "b")])
        client.log_text(run.info.run_id, "what the model says", "report.txt")
        client.set_terminated(run.info.run_id)
    return uri


def runs(server_url: str, experiment_id: str) -> list[dict[str, object]]:
    """Ask the server for an experiment's runs, as its UI does."""
    answer = requests.post(
        f"{server_url}/api/2.0/mlflow/runs/search",
        json={"experiment_ids": [experiment_id]},
        timeout=60,
    )
    answer.raise_for_status()
    found: list[dict[str, object]] = answer.json().get("runs", [])
    return found


@ON_GCS
def test_the_server_shows_what_comes_and_sends_what_is_changed(uri: str, bucket: Bucket) -> None:
    shown = experiment_to_show(uri, "tweet_sentiment")
    assert shown is not None
    home = shown.experiment_id
    with mlflow_server(uri, f"{bucket.artifact_uri}/artifacts", port=0) as server:
        assert len(runs(server.url, home)) == 2
        client = mlflow.MlflowClient(uri)
        client.create_run(home, run_name="late")
        assert len(runs(server.url, home)) == 3
        found = client.search_runs([home], "attributes.run_name = 'run of 1111'")[0].info.run_id
        artifact = requests.get(
            f"{server.url}/get-artifact", {"path": "report.txt", "run_uuid": found}, timeout=60
        )
        assert artifact.text == "what the model says"
        remote = mlflow.MlflowClient(server.url)
        remote.set_tag(found, "mlflow.note.content", "the best so far")
    tags = mlflow.MlflowClient(uri).get_run(found).data.tags
    assert tags["mlflow.note.content"] == "the best so far"


@pytest.mark.parametrize("bucket", ["directory"], indirect=True)
def test_the_link_opens_the_run_table_on_the_training_side_grouped_by_commit(
    uri: str, bucket: Bucket, page: Page
) -> None:
    home = experiment_to_show(uri, "tweet_sentiment")
    with mlflow_server(uri, f"{bucket.artifact_uri}/artifacts", port=0) as server:
        page.goto(experiment_link(server.url, home))
        expect(page.get_by_text("Group: 1111111111").first).to_be_visible()
        expect(page.get_by_text("run of 1111").first).to_be_visible()
        expect(page.get_by_text("run of 2222").first).to_be_visible()
        assert "workflowType=machine_learning" in page.url
        expect(page.get_by_text("tweet_sentiment").first).to_be_visible()


@pytest.fixture
def folder_uri(tmp_path: Path) -> str:
    """A bucket in a folder with one run."""
    uri = f"bucket+file://{tmp_path}/bucket/mlruns"
    client = mlflow.MlflowClient(uri)
    client.create_run(client.create_experiment("tweets"))
    return uri


def test_the_command_prints_the_link_and_ends_everything_it_started(
    folder_uri: str, tmp_path: Path
) -> None:
    shown = experiment_to_show(folder_uri, "tweets")
    assert shown is not None
    command = [sys.executable, "-m", "kaggleops", "ui", "--bucket", folder_uri, "--no-open"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # Tests may run in the background, where shells let Ctrl-C be ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert "served from here" in process.stdout.readline()
    link = next(line for line in process.stdout if "http://" in line).strip()
    pattern = rf"http://127\.0\.0\.1:\d+/#/experiments/{shown.experiment_id}/runs\?workflowType=machine_learning"
    assert re.fullmatch(pattern, link)
    started = psutil.Process(process.pid).children(recursive=True)
    assert started
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert not psutil.wait_procs(started, timeout=30)[1]


def test_bad_input_is_one_clear_line(folder_uri: str, tmp_path: Path) -> None:
    unknown = kaggleops("ui", "--bucket", folder_uri, "--experiment", "nope", cwd=tmp_path)
    assert "There are: Default, tweets" in unknown.error
    assert unknown.code == 2
    missing = kaggleops("ui", "--bucket", tmp_path / "mistyped", cwd=tmp_path)
    assert "mistyped" in missing.error
    assert not (tmp_path / "mistyped").exists()


def test_a_port_that_is_taken(folder_uri: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=str(port)), mlflow_server("x", "y", port=port):
            pass
