"""Which locations follow the bucket, and which stay as the user chose them."""

import pytest

from kaggleops.mlruns import Entity, EntityId, Kind, experiment, run
from kaggleops.mlruns.entity import dump_yaml
from kaggleops.mlruns.rebasing import artifact_location, rebase
from tests.mlruns.entities import main_file

ROOT = "gs://ours/prefix/artifacts"
NAME = "f" * 32
RUN = run("1", NAME)
MODEL = EntityId(Kind.LOGGED_MODEL, "1", "m-1")
TRACE = EntityId(Kind.TRACE, "1", "tr-1")

OLD_ROOTS = [
    "file:///content/mlruns",
    "/kaggle/working/mlruns",
    "./mlruns",
    "mlruns",
    ".",
    "file:///C:/Users/ada/mlruns",
    "C:\\Users\\ada\\mlruns",
    "gs://old/prefix/artifacts",
    "gs://old/mlruns",
    "s3://old/mlruns",
    "mlflow-artifacts:",
    "file:///home/ada/anything",
]
CHOSEN = ["gs://chosen", "s3://bucket/team", "wasbs://box@account/experiments", "dbfs:/team"]
PATHS = [
    (experiment("1"), "/1"),
    (RUN, f"/1/{NAME}/artifacts"),
    (MODEL, "/1/models/m-1/artifacts"),
    (TRACE, "/1/traces/tr-1/artifacts"),
]


def at(entity_id: EntityId, location: str) -> Entity:
    """Return an entity whose artifacts lie at this location."""
    if entity_id.kind is Kind.TRACE:
        files = {**main_file(entity_id), "tags/mlflow.artifactLocation": location.encode()}
        return Entity(entity_id, files)
    field = "artifact_uri" if entity_id.kind is Kind.RUN else "artifact_location"
    return Entity(entity_id, main_file(entity_id, **{field: location}))


@pytest.mark.parametrize("old", OLD_ROOTS)
@pytest.mark.parametrize(("entity_id", "path"), PATHS)
def test_what_the_file_store_laid_out_follows_the_bucket(
    entity_id: EntityId, path: str, old: str
) -> None:
    below = path.replace("/", "\\") if "\\" in old else path
    for location in (old + below, f"{old}{below}/"):
        assert artifact_location(rebase(at(entity_id, location), ROOT)) == ROOT + path


@pytest.mark.parametrize("root", CHOSEN)
@pytest.mark.parametrize(("entity_id", "path"), PATHS)
def test_what_the_user_chose_in_another_bucket_stays(
    entity_id: EntityId, path: str, root: str
) -> None:
    entity = at(entity_id, root + path)
    assert rebase(entity, ROOT) is entity


@pytest.mark.parametrize(
    "location",
    [
        "gs://elsewhere/x",
        f"file:///content/mlruns/2/{NAME}/artifacts",
        f"file:///content/mlruns/1/{'e' * 32}/artifacts",
        f"file:///content/mlruns/1/{NAME}/artifacts/model",
        f"file:///content/mlruns/21/{NAME}/artifacts",
        "",
    ],
)
def test_what_is_another_runs_stays(location: str) -> None:
    entity = at(RUN, location)
    assert rebase(entity, ROOT) is entity


def test_what_lies_there_already_is_left_byte_for_byte() -> None:
    entity = at(RUN, f"{ROOT}/1/{NAME}/artifacts")
    assert rebase(entity, ROOT) is entity


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (f"file:///content/mlruns/1/{NAME}/artifacts/model", f"{ROOT}/1/{NAME}/artifacts/model"),
        (f"gs://old/artifacts/77/{NAME}/artifacts", f"{ROOT}/77/{NAME}/artifacts"),
        ("/kaggle/working/mlruns/1/models/m-1/artifacts", f"{ROOT}/1/models/m-1/artifacts"),
        ("models:/m-1", "models:/m-1"),
        (f"runs:/{NAME}/model", f"runs:/{NAME}/model"),
        ("s3://chosen/by/hand", "s3://chosen/by/hand"),
        (f"s3://chosen/1/{NAME}/artifacts/m", f"s3://chosen/1/{NAME}/artifacts/m"),
    ],
)
def test_model_versions_follow_too(old: str, new: str) -> None:
    model = EntityId(Kind.REGISTERED_MODEL, "", "tweets")
    version = {"creation_timestamp": 1, "name": "tweets", "source": old, "version": 1}
    files = {
        **main_file(model),
        "version-1/meta.yaml": dump_yaml({**version, "storage_location": old}),
    }
    rebased = rebase(Entity(model, files), ROOT)
    expected = dump_yaml({**version, "source": new, "storage_location": new})
    assert rebased.files["version-1/meta.yaml"] == expected
