"""`kaggleops forget`: one person's runs, or some runs, are gone for good, and nothing else is."""

import json
import subprocess
from dataclasses import dataclass
from typing import Any

import boto3
import mlflow
import pytest
from click.testing import CliRunner, Result
from mlflow.entities import TraceInfo, TraceLocation, TraceState

from kaggleops.bucket import ABSENT, Bucket
from kaggleops.cli import main
from kaggleops.layout import INDEX_KEY, LEFT_BY_JOBS
from kaggleops.mlruns import EntityStore
from kaggleops.mlruns.deletion import Belongings, forget
from kaggleops.tracking import session
from tests.buckets import EACH_KIND, FOLDER_SELDOM, S3_SELDOM
from tests.fakes.gcs_server import GcsServer
from tests.fakes.s3_server import S3Server

SELDOM = [FOLDER_SELDOM, pytest.param("gcs", marks=pytest.mark.slow), S3_SELDOM]


@dataclass
class World:
    """A bucket with a run of Ann's and one of Bob's, each with all that a run can have."""

    bucket: Bucket
    runs: dict[str, str]

    def forget(self, *arguments: str, answer: str = "") -> Result:
        command = ["forget", *arguments, "--bucket", self.bucket.uri]
        return CliRunner().invoke(main, command, input=answer)

    def forgotten(self, *arguments: str) -> Any:
        """Forget without being asked, and return what became of it."""
        done = self.forget(*arguments, "--yes", "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def objects_of(self, user: str) -> list[str]:
        """Return the objects that name a user's run, or hold its name."""
        mark = self.runs[user]
        found = [(entry.key, self.bucket.read(entry.key)) for entry in self.bucket.list()]
        return [key for key, each in found if each and (mark in key or user in key)]


@pytest.fixture
def world(bucket: Bucket) -> World:
    bucket.prepare()
    uri = f"{bucket.uri}/mlruns"
    client = mlflow.MlflowClient(uri, registry_uri=uri)
    home = client.create_experiment("shared")
    runs = {}
    for user in ("ann", "bob"):
        made = client.create_run(home, tags={"mlflow.user": user})
        run_id = runs[user] = made.info.run_id
        client.log_text(run_id, f"weights of {user}", f"{user}.txt")
        for key in (LEFT_BY_JOBS[0].format(run_id), f"colab/{run_id}/run.ipynb"):
            bucket.write(key, f"printed by {user}".encode(), expected=ABSENT)
        client.create_logged_model(home, name=f"model-of-{user}", source_run_id=run_id)
        client._tracking_client.store.start_trace(
            TraceInfo(
                trace_id=f"tr-{user}",
                trace_location=TraceLocation.from_experiment_id(home),
                request_time=1_700_000_000_000,
                state=TraceState.OK,
                trace_metadata={"mlflow.sourceRun": run_id},
            )
        )
        client.create_registered_model(f"registered-by-{user}")
        client.create_model_version(f"registered-by-{user}", made.info.artifact_uri, run_id)
        client.set_terminated(run_id)
    session.close_all()
    return World(bucket, runs)


# Where what is deleted is kept as a version; without versions there is less to do.
@pytest.mark.parametrize("bucket", ["testbench", "s3-versioned", *SELDOM], indirect=True)
def test_one_persons_runs_with_all_that_belongs_to_them(
    world: World, request: pytest.FixtureRequest
) -> None:
    everything = world.objects_of("ann") + world.objects_of("bob")
    running = mlflow.MlflowClient(f"{world.bucket.uri}/mlruns").create_run("0").info.run_id
    for arguments, code, problem in (
        (["--yes"], 2, "name either runs or a user"),
        (["0" * 32, "--yes"], 2, "has no such run"),
        ([running, "--yes"], 2, f"kaggleops cancel {running}"),
        (["--user", "ann"], 1, f"run {world.runs['ann']} of experiment"),
    ):
        refused = world.forget(*arguments, answer="n\n")
        assert refused.exit_code == code
        assert problem in refused.stderr
    assert world.objects_of("ann") + world.objects_of("bob") == everything

    on_cloud_storage = world.bucket.uri.startswith("gs:")
    keeps_versions = "s3-versioned" in request.node.name
    if on_cloud_storage:
        server: GcsServer = request.getfixturevalue("gcs_server")
        # What belongs to a run goes first; else nobody would know of it any more.
        server.fail(403, times=None, where=lambda each: _deletes_no_entity(each.op, each.key))
        assert world.forget("--user", "ann", "--yes").exit_code == 1
        server.heal()

    bobs = world.objects_of("bob")
    done = world.forgotten("--user", "ann")
    assert done["runs"] == [world.runs["ann"]]
    assert len(done["models_and_traces"]) == 2
    assert done["artifacts"] == 1
    left = [f"logs/{world.runs['ann']}.txt", f"colab/{world.runs['ann']}/run.ipynb"]
    assert done["left_by_jobs"] == left
    assert done["registered"] == ["registered-by-ann"]
    command = " ".join(done["old_versions"])
    assert command.startswith("gcloud storage rm --all-versions gs://") == on_cloud_storage
    assert bool(command) == (keeps_versions or on_cloud_storage)
    places = left[0], left[1].replace("run.ipynb", ""), "mlruns/index.jsonl.gz"
    assert all((place in command) == bool(command) for place in places)
    if keeps_versions:
        bobs_versions = _versions(request, world.runs["bob"])
        assert _versions(request, world.runs["ann"])
        subprocess.run(command, shell=True, check=True)
        assert _versions(request, world.runs["ann"]) == 0
        assert _versions(request, world.runs["bob"]) == bobs_versions
    assert world.objects_of("ann") == ["mlruns/models/registered-by-ann.tar.gz"]
    assert world.objects_of("bob") == bobs
    assert world.forgotten("--user", "ann")["runs"] == []
    none = world.forget("--user", "ann")
    assert (none.exit_code, none.stdout.count("\n")) == (0, 1)
    assert "has no run of the user ann" in none.stdout

    by_id = world.forget(world.runs["bob"], answer="y\n")
    assert "Deleted 1 run with 2 models and traces, 1 artifact (" in by_id.stdout
    assert "and 2 logs and executed notebooks from " in by_id.stdout
    assert "Model registered-by-bob is still registered" in by_id.stdout
    assert world.objects_of("bob") == ["mlruns/models/registered-by-bob.tar.gz"]


def _deletes_no_entity(op: str, key: str | None) -> bool:
    return op == "objects.delete" and "/mlruns/" not in (key or "")


def _versions(request: pytest.FixtureRequest, run_id: str) -> int:
    """Return how many versions there are of objects that are called after a run."""
    server: S3Server = request.getfixturevalue("s3_server")
    client = boto3.client("s3", endpoint_url=server.url)
    answer = client.list_object_versions(Bucket="our-bucket")
    found = [*answer.get("Versions", ()), *answer.get("DeleteMarkers", ())]
    return sum(run_id in each["Key"] for each in found)


@EACH_KIND
def test_a_snapshot_that_is_emptied_once_more_is_another(bucket: Bucket) -> None:
    """Whoever read it between the two deletions is about to write what it has read."""
    bucket.prepare()
    versions = set()
    for _ in range(2):
        forget(EntityStore(bucket), Belongings(()))
        emptied = bucket.stat(INDEX_KEY)
        assert emptied is not None
        versions.add(emptied.version)
    assert len(versions) == 2
