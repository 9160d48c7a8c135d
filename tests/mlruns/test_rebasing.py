"""Which locations follow the bucket, and which are refused."""

import pytest

from kaggleops.mlruns import Entity, EntityId, Kind, experiment, run
from kaggleops.mlruns.entity import dump_yaml, parse_yaml
from kaggleops.mlruns.locations import artifact_location, rebase, refused
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


def location_of(entity_id: EntityId, location: str) -> str:
    """Return the location with which an entity is read that says it is at this one."""
    read = rebase(at(entity_id, location), ROOT)
    if entity_id.kind is Kind.TRACE:
        return read.files["tags/mlflow.artifactLocation"].decode()
    field = "artifact_uri" if entity_id.kind is Kind.RUN else "artifact_location"
    return str(read.meta[field])


OUTSIDE = [
    "file:///etc",
    "FILE:/etc",
    "/etc",
    "etc",
    "",
    ".",
    "file:///proc/self/cwd/etc",
    "gs://ours",
    "gs://ours/prefix/artifacts",
    "gs://ours/prefix/artifacts/",
    "gs://ours/prefix/mlruns/1",
    "gs://ours/prefix/artifacts-of-others/1",
    "gs://elsewhere/x",
    *(root + path for root in CHOSEN for _, path in PATHS),
    "http://127.0.0.1/x",
    "ftp://host/x",
    "runs:/" + NAME,
    "models:/m-1",
    "models:/tweets/1",
    "mlflow-artifacts:/1/x",
    "outside-the-bucket:x",
    "sqlite:////etc/x",
    "\\0",
    "\\\\host\\share",
    *(
        ROOT + below
        for below in [
            "/../mlruns",
            "/1/../../mlruns",
            "/1/%2e%2e/%2E./x",
            "/1/%252e%252e/x",
            "/1/%2e%2e%2f%2e%2e",
            "//etc",
            "/1/./x",
            "/1/..\\..\\x",
            "/1/x?y=/../..",
            "/1/x#y",
            "/1/x%3Fy",
            "/1/a\0b",
            "/1/a%00b",
            "/1/" + "x" * 300,
        ]
    ),
    "x" * 1_000_000,
]


@pytest.mark.parametrize("location", OUTSIDE, ids=lambda location: repr(location[:60]))
def test_a_location_outside_of_the_bucket_is_refused_by_name(location: str) -> None:
    for entity_id, _ in PATHS[1:]:
        read = location_of(entity_id, location)
        whose, leads_to = refused(read) or ("", "?")
        assert (whose, leads_to) == (str(entity_id), location[:2000])
        assert location_of(entity_id, read) == read
    # New runs of an experiment write to the bucket.
    assert location_of(experiment("1"), location) == f"{ROOT}/1"


@pytest.mark.parametrize("location", OUTSIDE, ids=lambda location: repr(location[:60]))
def test_the_archive_of_a_trace_is_asked_about_too(location: str) -> None:
    entity = at(TRACE, f"{ROOT}/1/traces/tr-1/artifacts")
    path = "tags/mlflow.trace.archiveLocation"
    entity = Entity(TRACE, {**entity.files, path: location.encode()})
    assert (refused(rebase(entity, ROOT).files[path].decode()) or "?")[0] == "trace tr-1"


@pytest.mark.parametrize("below", ["/x", "/some where/x", "/x/", f"/{NAME}/artifacts", "/50%/x"])
@pytest.mark.parametrize("entity_id", [each for each, _ in PATHS])
def test_a_place_of_its_own_in_the_bucket_stays(entity_id: EntityId, below: str) -> None:
    entity = at(entity_id, ROOT + below)
    assert rebase(entity, ROOT) is entity


def test_a_refused_location_is_read_again_where_it_is_inside() -> None:
    inside = f"{ROOT}/a/place/of/its/own"
    elsewhere = rebase(at(RUN, inside), "gs://copy/artifacts")
    assert refused(str(elsewhere.meta["artifact_uri"])) == (f"run {NAME}", inside)
    assert artifact_location(rebase(elsewhere, ROOT)) == inside


def test_what_lies_there_already_is_left_byte_for_byte() -> None:
    entity = at(RUN, f"{ROOT}/1/{NAME}/artifacts")
    assert rebase(entity, ROOT) is entity


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (f"file:///content/mlruns/1/{NAME}/artifacts/model", f"{ROOT}/1/{NAME}/artifacts/model"),
        (f"gs://old/artifacts/77/{NAME}/artifacts", f"{ROOT}/77/{NAME}/artifacts"),
        ("/kaggle/working/mlruns/1/models/m-1/artifacts", f"{ROOT}/1/models/m-1/artifacts"),
        (f"runs:/{NAME}/model", f"runs:/{NAME}/model"),
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


@pytest.mark.parametrize(
    "location",
    [
        *(each for each in OUTSIDE if each != f"runs:/{NAME}"),  # a run's own is asked about
        f"runs:/{NAME}/../../../x",
        f"runs:/{NAME}/%2e%2e/x",
        "runs:/x/model",
        f"runs://profile@databricks/{NAME}/model",
        f"file:///content/mlruns/1/{NAME}/artifacts/../../../../../../etc",
    ],
    ids=lambda location: repr(location[:60]),
)
def test_a_model_version_is_read_from_the_bucket_alone(location: str) -> None:
    model = EntityId(Kind.REGISTERED_MODEL, "", "of ada, 100 %")
    version = {"creation_timestamp": 1, "name": model.name, "version": 1, "source": "models:/m-1"}
    for fields in ({**version, "storage_location": location}, {**version, "source": location}):
        files = {**main_file(model), "version-1/meta.yaml": dump_yaml(fields)}
        read = rebase(Entity(model, files), ROOT)
        meta = parse_yaml(read.files["version-1/meta.yaml"], "")
        assert (refused(meta["storage_location"]) or "?")[0] == str(model)
        assert rebase(read, ROOT).files == read.files
