"""A bucket copied to another project or region, or brought back from a folder: verified."""

import json
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner

from kaggleops.bucket import ABSENT, Bucket, open_bucket
from kaggleops.cli import main
from kaggleops.errors import UsageError
from kaggleops.mlruns import Entity, EntityStore, experiment, run
from kaggleops.mlruns.changes import LOG_KEY
from kaggleops.mlruns.copying import copy_bucket
from tests.fakes.gcs_server import GcsServer
from tests.mlruns.entities import main_file

ARTIFACT = f"artifacts/1/{'a' * 32}/artifacts/weights.bin"
A_RUN = run("1", "a" * 32)


def fill(bucket: Bucket) -> None:
    """Let a bucket hold an experiment, a run and its artifact."""
    store = EntityStore(bucket)
    for entity_id in (experiment("1"), A_RUN):
        store.merge_in(Entity(entity_id, main_file(entity_id)))
    bucket.write(ARTIFACT, b"weights", expected=ABSENT)
    bucket.write(LOG_KEY, b"the source's own", expected=ABSENT)


def tag(bucket: Bucket, name: str) -> None:
    """Tag the run, as somebody who logs to it."""
    files = {**main_file(A_RUN), f"tags/{name}": b"here"}
    EntityStore(bucket).merge_in(Entity(A_RUN, files))


def contents(bucket: Bucket) -> dict[str, bytes]:
    """Return what a bucket holds, but for the change log."""
    found = {entry.key: bucket.read(entry.key) for entry in bucket.list()}
    return {key: each.data for key, each in found.items() if each and key != LOG_KEY}


def tags(bucket: Bucket) -> set[str]:
    stored = EntityStore(bucket).read(A_RUN)
    assert stored is not None
    return {path for path in stored.entity.files if path.startswith("tags/")}


@pytest.fixture(params=["gcs to gcs", "gcs to directory", "directory to gcs"])
def pair(
    request: pytest.FixtureRequest,
    gcs_server: GcsServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> list[Bucket]:
    """A bucket that holds a run, and an empty one."""
    monkeypatch.setenv("NO_GCE_CHECK", "true")  # gcsfs looks for a metadata server, for seconds
    made = []
    for number, kind in enumerate(request.param.split(" to ")):
        gcs_server.create_bucket(f"bucket-{number}")
        place = f"gs://bucket-{number}/x" if kind == "gcs" else tmp_path / f"bucket-{number}"
        made.append(open_bucket(str(place), patience=5))
    made[0].prepare()
    fill(made[0])
    return made


def test_a_copy_holds_everything_and_is_brought_up_to_date(pair: list[Bucket]) -> None:
    source, target = pair
    seen: list[tuple[int, int]] = []
    first = copy_bucket(source, target, lambda done, total: seen.append((done, total)))
    assert (first.objects, first.copied, first.merged, first.problems) == (3, 3, 0, [])
    assert first.copied_bytes == sum(map(len, contents(source).values()))
    assert seen[-1] == (3, 3)
    assert contents(target) == contents(source)
    log = target.read(LOG_KEY)
    assert log is not None
    assert log.data != b"the source's own"

    again = copy_bucket(source, target)
    assert (again.copied, again.merged, again.problems) == (0, 0, [])

    tag(source, "meanwhile")
    tag(target, "already-at-the-new-place")
    third = copy_bucket(source, target)
    assert (third.copied, third.merged, third.problems) == (0, 1, [])
    assert tags(target) == {"tags/meanwhile", "tags/already-at-the-new-place"}
    assert tags(source) == {"tags/meanwhile"}


def test_of_two_artifacts_the_newer_one_stays(pair: list[Bucket]) -> None:
    source, target = pair
    copy_bucket(source, target)
    there = target.stat(ARTIFACT)
    here = source.stat(ARTIFACT)
    assert there is not None
    assert here is not None
    target.write(ARTIFACT, b"trained there", expected=there.version)
    (problem,) = copy_bucket(source, target).problems
    assert "a newer one is there" in problem
    assert contents(target)[ARTIFACT] == b"trained there"

    source.write(ARTIFACT, b"trained here, later", expected=here.version)
    assert copy_bucket(source, target).copied == 1
    assert contents(target)[ARTIFACT] == b"trained here, later"


def test_what_is_written_while_it_is_copied_is_not_called_copied(pair: list[Bucket]) -> None:
    source, target = pair
    overwrite: list[Callable[[], object]] = [
        lambda: source.write(ARTIFACT, b"of another time", expected=_version(source))
    ]

    def once(*_: int) -> None:
        if overwrite:
            overwrite.pop()()

    copied = copy_bucket(source, target, once)
    assert copied.copied == 2
    assert any(ARTIFACT in problem for problem in copied.problems), copied.problems
    assert copy_bucket(source, target).problems == []
    assert contents(target) == contents(source)


def _version(bucket: Bucket) -> str:
    entry = bucket.stat(ARTIFACT)
    assert entry is not None
    return entry.version


@pytest.fixture
def cloud(gcs_server: GcsServer) -> list[Bucket]:
    """Two buckets of different names on Cloud Storage, one of them filled."""
    for name in ("old-home", "new-home"):
        gcs_server.create_bucket(name)
    made = [open_bucket(f"gs://{name}", patience=5) for name in ("old-home", "new-home")]
    fill(made[0])
    return made


def test_between_clouds_no_byte_passes_here(cloud: list[Bucket], gcs_server: GcsServer) -> None:
    gcs_server.rewrite_slowly()
    gcs_server.fail("lost-response", op="objects.rewrite", times=2)
    gcs_server.reset_counts()
    assert copy_bucket(*cloud).copied == 3
    operations = [logged.op for logged in gcs_server.requests if logged.bucket == "old-home"]
    assert set(operations) == {"objects.list", "objects.rewrite"}
    inserted = [each.key for each in gcs_server.requests if each.op == "objects.insert"]
    assert set(inserted) <= {LOG_KEY}


@pytest.mark.usefixtures("cloud")
def test_the_command_and_the_runs_at_their_new_home(gcs_server: GcsServer) -> None:
    command = ["copy", "gs://new-home", "--bucket", "gs://old-home", "--json"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["objects"], said["copied"], said["problems"]) == (3, 3, [])
    weights = f"gs://new-home/{ARTIFACT}"
    client = mlflow.MlflowClient("gs://new-home/mlruns")
    assert client.get_run("a" * 32).info.artifact_uri == weights.removesuffix("/weights.bin")
    assert mlflow.artifacts.load_text(weights) == "weights"

    gcs_server.delete_bucket("new-home")
    missing = CliRunner().invoke(main, command)
    assert missing.exit_code == 1
    assert "gcloud storage buckets create gs://new-home" in missing.stderr


@pytest.mark.parametrize("places", [("a", "a"), ("a", "a/b"), ("a/b", "a")])
def test_no_bucket_is_copied_into_itself(tmp_path: Path, places: tuple[str, str]) -> None:
    source, target = (open_bucket(str(tmp_path / place)) for place in places)
    with pytest.raises(UsageError, match="one lies in the other"):
        copy_bucket(source, target)
