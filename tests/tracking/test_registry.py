"""The model registry answers as MLflow's own file registry does, and no version comes twice."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities import Metric
from mlflow.entities.model_registry import ModelVersionTag, RegisteredModelTag
from mlflow.exceptions import MlflowException
from mlflow.store.model_registry.abstract_store import AbstractStore
from mlflow.store.model_registry.file_store import FileStore

from kaggleops.bucket import Bucket
from kaggleops.tracking import session as session_module
from kaggleops.tracking.registry import BucketRegistryStore
from kaggleops.tracking.store import BucketTrackingStore
from tests.buckets import ON_EACH_SERVICE, ON_SERVICES
from tests.fakes.object_server import ObjectServer


@pytest.fixture
def machines(tracking_uri: str) -> Any:
    """Call it for a registry on another machine."""
    sessions: list[session_module.Session] = []

    def machine() -> BucketRegistryStore:
        session_module._sessions.clear()
        registry = BucketRegistryStore(tracking_uri)
        sessions.append(registry._session)
        return registry

    yield machine
    for each in sessions:
        each.close()
    session_module._sessions.clear()


Machines = Callable[[], BucketRegistryStore]

RUN = "a" * 32


def play(registry: AbstractStore) -> None:
    """Do everything once that the file registry can do."""
    registry.create_registered_model("tweets", [RegisteredModelTag("task", "span")], "first")
    registry.create_registered_model("gone")
    registry.delete_registered_model("gone")
    registry.create_registered_model("old name 50+")
    registry.create_model_version("old name 50+", f"runs:/{RUN}/model", RUN)
    registry.rename_registered_model("old name 50+", "new name")
    registry.set_registered_model_tag("tweets", RegisteredModelTag("colour", "red"))
    registry.delete_registered_model_tag("tweets", "task")
    for number in range(3):
        registry.create_model_version(
            "tweets", f"runs:/{RUN}/{number}", tags=[ModelVersionTag("n", str(number))]
        )
    registry.update_registered_model("tweets", "described")
    registry.update_model_version("tweets", 1, "the first")
    registry.set_model_version_tag("tweets", 1, ModelVersionTag("cv", "0.71"))
    registry.delete_model_version_tag("tweets", 2, "n")
    registry.transition_model_version_stage("tweets", 2, "Production", False)
    registry.set_registered_model_alias("tweets", "champion", "2")
    registry.set_registered_model_alias("tweets", "fallen", "1")
    registry.delete_registered_model_alias("tweets", "fallen")
    registry.delete_model_version("tweets", 3)


def picture(registry: AbstractStore) -> list[str]:
    """Return what a registry answers about all it holds."""
    seen = []
    for model in registry.search_registered_models(max_results=10):
        seen.append(_without_times(registry.get_registered_model(model.name)))
        seen += [
            _without_times(registry.get_model_version(version.name, version.version))
            for version in registry.search_model_versions(f"name = '{model.name}'", max_results=10)
        ]
    seen.append(_without_times(registry.get_model_version_by_alias("tweets", "champion")))
    return sorted(map(repr, seen))


def _without_times(entity: Any) -> dict[str, Any]:
    plain = {key: value for key, value in dict(entity).items() if "timestamp" not in key}
    plain["tags"] = sorted(plain["tags"].items())  # a database has no order of its own
    if "latest_versions" in plain:
        plain["latest_versions"] = [_without_times(each) for each in plain["latest_versions"]]
    return plain


def test_it_answers_as_the_file_registry_does_on_every_machine(
    machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    stock = FileStore(str(tmp_path / "mlruns"))
    play(stock)
    here = machines()
    play(here)
    assert picture(here) == picture(stock)
    assert picture(machines()) == picture(stock)


@ON_SERVICES
def test_registering_at_the_same_moment_gives_every_version_once(tracking_uri: str) -> None:
    registries = []
    for _ in range(4):
        session_module._sessions.clear()
        registries.append(BucketRegistryStore(tracking_uri))
    registries[0].create_registered_model("tweets")
    with ThreadPoolExecutor(4) as pool:
        made = pool.map(
            lambda registry: [
                registry.create_model_version("tweets", "gs://x").version for _ in range(3)
            ],
            registries,
        )
        versions = sorted(int(version) for several in made for version in several)
    for registry in registries:
        registry._session.close()
    assert versions == list(range(1, 13))


@ON_EACH_SERVICE
def test_if_the_bucket_refuses_nothing_has_changed(service: ObjectServer) -> None:
    service.create_bucket("our-bucket")
    session_module._sessions.clear()
    registry = BucketRegistryStore(f"{service.address('our-bucket')}/mlruns")
    registry.create_registered_model("tweets", description="before")
    service.deny("our-bucket", write=True)
    with pytest.raises(MlflowException, match="our-bucket"):
        registry.update_registered_model("tweets", "after")
    with pytest.raises(MlflowException, match="our-bucket"):
        registry.create_registered_model("another")
    assert registry.get_registered_model("tweets").description == "before"
    assert [m.name for m in registry.search_registered_models(max_results=9)] == ["tweets"]
    service.allow("our-bucket")
    registry.update_registered_model("tweets", "after")
    assert registry.get_registered_model("tweets").description == "after"
    registry._session.close()


def named(registry: BucketRegistryStore, name: str) -> tuple[Any, ...]:
    model, version = registry.get_registered_model(name), registry.get_model_version(name, 1)
    tags, aliases = (model.tags, version.tags), (model.aliases, version.aliases)
    return model.name, version.name, model.description, *tags, *aliases


def test_a_renamed_model_keeps_what_is_said_of_it(machines: Machines) -> None:
    registry = machines()
    registry.create_registered_model("before", [RegisteredModelTag("task", "span")], "described")
    registry.create_model_version("before", f"runs:/{RUN}/a", tags=[ModelVersionTag("n", "1")])
    registry.set_registered_model_alias("before", "champion", "1")
    registry.create_registered_model("taken")
    with pytest.raises(MlflowException, match="already exists"):
        registry.rename_registered_model("before", "taken")
    with pytest.raises(MlflowException, match="name=nothing not found"):
        registry.rename_registered_model("nothing", "after")
    _, _, *said = named(registry, "before")
    assert said == ["described", {"task": "span"}, {"n": "1"}, {"champion": "1"}, ["champion"]]
    registry.rename_registered_model("before", "after")
    for each in registry, machines():
        assert named(each, "after") == ("after", "after", *said)
        with pytest.raises(MlflowException, match="not found"):
            each.get_registered_model("before")


@pytest.mark.parametrize(("op", "name"), [("write", "after"), ("delete", "before")])
@ON_EACH_SERVICE
def test_a_renaming_that_breaks_off_loses_nothing(
    service: ObjectServer, op: str, name: str
) -> None:
    service.create_bucket("our-bucket")
    session_module._sessions.clear()
    registry = BucketRegistryStore(f"{service.address('our-bucket')}/mlruns")
    registry.create_registered_model("before", description="described")
    there = set(service.objects("our-bucket"))
    service.fail(403, op=op, times=None, key=f"mlruns/models/{name}.tar.gz")
    with pytest.raises(MlflowException, match="our-bucket"):
        registry.rename_registered_model("before", "after")
    service.heal()
    assert set(service.objects("our-bucket")) == there
    assert registry.get_registered_model("before").description == "described"
    registry.rename_registered_model("before", "after")
    assert registry.get_registered_model("after").description == "described"
    registry._session.close()


def test_registering_a_logged_model_through_mlflows_own_interface(
    fluent: str, bucket: Bucket
) -> None:
    class Echo(mlflow.pyfunc.PythonModel):
        def predict(self, context: Any, model_input: list[str]) -> list[str]:
            return model_input

    with mlflow.start_run():
        info = mlflow.pyfunc.log_model(
            name="echo", python_model=Echo(), registered_model_name="echo", pip_requirements=[]
        )
    version = mlflow.MlflowClient().get_model_version("echo", "1")
    assert version.status == "READY"
    loaded = mlflow.pyfunc.load_model("models:/echo/1")
    assert list(loaded.predict(["hello"])) == ["hello"]
    assert bucket.stat("mlruns/models/echo.tar.gz") is not None
    assert mlflow.get_logged_model(info.model_id).status == "READY"


def test_a_version_has_its_models_metrics_wherever_this_process_tracks(tracking_uri: str) -> None:
    mlflow.set_tracking_uri(tracking_uri)
    client = mlflow.MlflowClient()
    run = client.create_run(client.create_experiment("tweets"))
    model = client.create_logged_model(run.info.experiment_id, "echo", params={"lr": "0.1"})
    client.log_metric(run.info.run_id, "jaccard", 0.71, model_id=model.model_id)
    client.create_registered_model("echo")
    client.create_model_version("echo", f"models:/{model.model_id}", model_id=model.model_id)
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # where MLflow tracks if nobody says
    version = mlflow.MlflowClient(tracking_uri).get_model_version("echo", "1")
    assert [(each.key, each.value) for each in version.metrics] == [("jaccard", 0.71)]
    assert version.params == {"lr": "0.1"}
    assert not Path("mlflow.db").exists()


def test_a_versions_metrics_are_those_of_now_wherever_they_were_logged(
    machines: Machines, tracking_uri: str
) -> None:
    here, elsewhere = machines(), machines()
    mlflow.set_tracking_uri(tracking_uri)  # MLflow asks there for a version's model
    logging = BucketTrackingStore(elsewhere._session)
    home = logging.create_experiment("tweets")
    run = logging.create_run(home, "ada", 1, [], "")
    model = logging.create_logged_model(home, "echo", run.info.run_id)
    here.create_registered_model("echo")
    here.create_model_version("echo", "gs://x", model_id=model.model_id)
    here.set_registered_model_alias("echo", "champion", "1")
    for value in (0.5, 0.75):
        logged = Metric("jaccard", value, 1, int(value * 100), model_id=model.model_id)
        logging.log_batch(run.info.run_id, [logged], [], [])
        logging.flush()
        for version in (
            here.get_model_version("echo", "1"),
            here.get_model_version_by_alias("echo", "champion"),
            *here.get_latest_versions("echo"),
            *here.get_registered_model("echo").latest_versions,
            *here.search_model_versions("name = 'echo'", max_results=9),
        ):
            assert version.metrics[0].value == value
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # as before
