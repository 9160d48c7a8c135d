"""What can be logged can be read everywhere: a name is refused at the call, or all know it."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.entities import (
    Dataset,
    DatasetInput,
    ExperimentTag,
    InputTag,
    LoggedModelParameter,
    LoggedModelTag,
    Metric,
    Param,
    RunTag,
    TraceInfo,
    TraceLocation,
    TraceState,
)
from mlflow.entities.model_registry import ModelVersionTag, RegisteredModelTag
from mlflow.exceptions import MlflowException

from kaggleops.bucket import open_bucket
from kaggleops.index.refresh import Index
from kaggleops.mlruns import EntityStore, run
from kaggleops.mlruns.export import export
from kaggleops.tracking import session as session_module
from kaggleops.tracking.push import push
from kaggleops.tracking.registry import BucketRegistryStore
from kaggleops.tracking.store import BucketTrackingStore

Machines = Callable[[], BucketTrackingStore]

TRICKY = [
    *("f1/cat\n", "\n", "a\r", "a\tb", "a\0", "\x1b[2J", "\x85", "\u2028", "\ud800", "\ufeff"),
    *("a/../b", "../a", "..", ".", "", "/a", "a/", "a//b", "./a", "a/.", "a/./b", "~", "-"),
    *("a\\b", "C:\\a", "a:b", "a.", " a ", "a b", ".kaggleops.json", "meta.yaml", "%41", "A", "a"),
    *("é", "e\u0301", "中" * 90, "é" * 126, "x" * 250, "x" * 251, "x" * 256, "x" * 1000),
    *("a/" * 124 + "a", "a/" * 200 + "a", "😀", "a'b", 'a"b', "a*b", "a?b", "con", "0", "yes"),
]
NAMES = st.one_of(
    st.text(max_size=8),
    st.text(alphabet="ab./\\ \n\0:%-_é\u0301中", max_size=8),
    st.builds(lambda part, times: part * times, st.sampled_from("xé中"), st.integers(60, 260)),
)


@pytest.fixture
def tracking_uri(tmp_path: Path) -> str:
    """The tracking URI of an empty folder: names have to be those of files there, too."""
    return f"bucket+file://{tmp_path}/a bucket/mlruns"


def accepted(log: Callable[[str], object], name: str) -> bool:
    """Log under a name and tell whether it was taken; a refusal says what is wrong with it."""
    try:
        log(name)
    except MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":
            raise AssertionError(repr(name)) from error
        return False
    return True


def elsewhere(name: str, names: set[str]) -> bool:
    """Tell whether a name is known, beside those that are called `name/…` by its other one."""
    return name in names or f"{name}.self" in names


def read_everywhere(uri: str, folder: Path, empty_index: Path) -> None:
    """Read all of a bucket in every way that there is; nothing is passed over."""
    folder.mkdir()
    source = EntityStore(open_bucket(uri))
    exported = export(source, folder / "plain", artifacts=True)
    assert exported.problems == []
    assert exported.entities
    index = Index(f"sqlite:///{shutil.copyfile(empty_index, folder / 'index.db')}", source)
    assert index.refresh().problems == {}
    index.close()


def names_in_run(store: BucketTrackingStore, run_id: str) -> dict[str, set[str]]:
    data = store.get_run(run_id).data
    return {"metrics": set(data.metrics), "params": set(data.params), "tags": set(data.tags)}


@pytest.mark.parametrize("examples", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_any_name(empty_index: Path, examples: int) -> None:
    @settings(max_examples=examples)
    @given(st.lists(NAMES, min_size=1, max_size=6))
    def check(names: list[str]) -> None:
        with TemporaryDirectory() as folder:
            _any_name(names, Path(folder), empty_index)

    check()


def _any_name(names: list[str], folder: Path, empty_index: Path) -> None:
    store = BucketTrackingStore(f"bucket+file://{folder}/bucket/mlruns")
    run_id = store.create_run("0", "ada", 0, [], None).info.run_id
    logs: dict[str, Callable[[str], object]] = {
        "metrics": lambda name: store.log_metric(run_id, Metric(name, 1.0, 1, 0)),
        "params": lambda name: store.log_param(run_id, Param(name, "1")),
        "tags": lambda name: store.set_tag(run_id, RunTag(name, "1")),
    }
    taken = {kind: [name for name in names if accepted(logs[kind], name)] for kind in logs}
    store._session.close()
    session_module._sessions.clear()
    found = names_in_run(BucketTrackingStore(f"bucket+file://{folder}/bucket/mlruns"), run_id)
    for kind, of_kind in taken.items():
        assert all(elsewhere(name, found[kind]) for name in of_kind)
    read_everywhere(f"bucket+file://{folder}/bucket", folder / "out", empty_index)


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_tricky_names_of_everything(
    every: int, machines: Machines, tracking_uri: str, tmp_path: Path, empty_index: Path
) -> None:
    """Of what is named by one rule, each is called every eighth of the names, and each name asked
    for is some of them's."""
    store = machines()
    registry = BucketRegistryStore(store._session)
    home = store.create_experiment("e")
    run_id = store.create_run(home, "ada", 0, [], None).info.run_id
    model = store.create_logged_model(home, "m", run_id).model_id
    registry.create_registered_model("r")
    registry.create_model_version("r", "gs://b/m")
    trace = TraceInfo("tr-1", TraceLocation.from_experiment_id(home), 1, TraceState.OK)
    store.start_trace(trace)

    def point_of_model(name: str) -> None:
        store.log_batch(run_id, [Metric(name, 1.0, 1, 0, model_id=model)], [], [])

    def new_trace(name: str) -> None:
        location = TraceLocation.from_experiment_id(home)
        number = len(list((store._working.root / home / "traces").iterdir()))
        made = TraceInfo(f"tr-{number}x", location, 1, TraceState.OK, trace_metadata={name: "1"})
        store.start_trace(made)

    old = ""
    logs: dict[str, Callable[[str], object]] = {
        "metric": lambda name: store.log_metric(run_id, Metric(name, 1.0, 1, 0)),
        "metric of a batch": lambda name: store.log_batch(
            run_id, [Metric(name, 1.0, 1, 0)], [], []
        ),
        "metric of a model": point_of_model,
        "param": lambda name: store.log_param(run_id, Param(name, "1")),
        "param of a batch": lambda name: store.log_batch(run_id, [], [Param(name, "1")], []),
        "value of a param": lambda name: store.log_param(
            run_id, Param(f"value {TRICKY.index(name)}", name)
        ),
        "tag": lambda name: store.set_tag(run_id, RunTag(name, "1")),
        "value of a tag": lambda name: store.set_tag(run_id, RunTag("value", name)),
        "tag of a new run": lambda name: store.create_run(home, "ada", 0, [RunTag(name, "")], None),
        "name of a run": lambda name: store.create_run(home, "ada", 0, [], name),
        "new name of a run": lambda name: store.update_run_info(run_id, None, None, name),
        "experiment": lambda name: store.create_experiment(f"new {name}"),
        "tag of an experiment": lambda name: store.set_experiment_tag(
            home, ExperimentTag(name, "")
        ),
        "value of an experiment's tag": lambda name: store.set_experiment_tag(
            home, ExperimentTag("value", name)
        ),
        "param of a model": lambda name: store.log_logged_model_params(
            model, [LoggedModelParameter(name, "1")]
        ),
        "tag of a model": lambda name: store.set_logged_model_tags(
            model, [LoggedModelTag(name, "1")]
        ),
        "model": lambda name: store.create_logged_model(home, name, run_id),
        "trace": lambda name: store.start_trace(
            TraceInfo(name, TraceLocation.from_experiment_id(home), 1, TraceState.OK)
        ),
        "tag of a trace": lambda name: store.set_trace_tag("tr-1", name, "1"),
        "metadata of a trace": new_trace,
        "registered model": registry.create_registered_model,
        "new name of a registered model": lambda name: registry.rename_registered_model(old, name),
        "tag of a registered model": lambda name: registry.set_registered_model_tag(
            "r", RegisteredModelTag(name, "1")
        ),
        "tag of a version": lambda name: registry.set_model_version_tag(
            "r", 1, ModelVersionTag(name, "1")
        ),
        "alias": lambda name: registry.set_registered_model_alias("r", name, 1),
    }
    for shift, (kind, log) in enumerate(logs.items()):
        for number, name in enumerate(TRICKY):
            if (number + shift) % every:
                continue
            if kind == "new name of a registered model":
                registry.create_registered_model(f"r{number}")
                old = f"r{number}"
            try:
                log(name)
            except MlflowException as error:
                if error.error_code not in ("INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS"):
                    raise AssertionError(f"{kind} {name!r}") from error
    store.flush()
    bucket = tracking_uri.removesuffix("/mlruns")
    read_everywhere(bucket, tmp_path / "out", empty_index)
    fresh = machines()
    assert fresh.get_run(run_id).data.metrics
    assert fresh.get_experiment(home).tags
    assert len(fresh.search_runs([home], "", 1, 1000)) > 1


def test_a_file_here_and_a_folder_there(
    machines: Machines,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    empty_index: Path,
    tracking_uri: str,
) -> None:
    a, b, c = machines(), machines(), machines()
    home = a.create_experiment("e")
    run_id = a.create_run(home, "ada", 0, [], None).info.run_id
    for store, name in [(a, "acc"), (b, "acc/val"), (c, "acc/val/top5")]:
        store.log_metric(run_id, Metric(name, 0.5, 1, 0))
        store.log_metric(run_id, Metric(f"other {name.count('/')}", 0.5, 1, 0))
        store.log_param(run_id, Param(name, name))
        store.set_tag(run_id, RunTag(name, name))
        store.set_experiment_tag(home, ExperimentTag(name, name))
    caplog.set_level(logging.WARNING, "kaggleops")
    for store in (a, b, c, a, b):
        store.flush()
    said = [each for each in caplog.messages if "The metric 'acc'" in each]
    assert len(said) == 1
    for store in (a, b, c):  # and it goes on
        store.log_metric(run_id, Metric("acc", 0.6, 2, 1))
        store.flush()
    data = machines().get_run(run_id).data
    expected = {"acc.self", "acc/val.self", "acc/val/top5"}
    assert set(data.metrics) == expected | {"other 0", "other 1", "other 2"}
    assert set(data.params) == expected == {each for each in data.tags if "mlflow" not in each}
    assert data.params["acc.self"] == "acc"
    assert len(machines().get_metric_history(run_id, "acc.self")) == 2
    assert len(machines().get_metric_history(run_id, "acc")) == 2
    read_everywhere(tracking_uri.removesuffix("/mlruns"), tmp_path / "out", empty_index)


def test_a_file_and_a_folder_in_one_process(machines: Machines) -> None:
    store = machines()
    home = store.create_experiment("e")
    run_id = store.create_run(home, "ada", 0, [], None).info.run_id
    for name in ("a", "a/b", "b/c", "b"):
        store.log_metric(run_id, Metric(name, 0.5, 1, 0))
        store.log_metric(run_id, Metric(name, 0.5, 2, 0))
        store.log_param(run_id, Param(name, name))
        store.set_tag(run_id, RunTag(name, name))
    store.delete_tag(run_id, "a")
    store.flush()
    data = machines().get_run(run_id).data
    assert set(data.metrics) == set(data.params) == {"a.self", "a/b", "b.self", "b/c"}
    assert {each for each in data.tags if "mlflow" not in each} == {"a/b", "b.self", "b/c"}
    for name in ("a", "b", "a/b"):
        assert len(machines().get_metric_history(run_id, name)) == 2


HALF = "a\ud800"  # of a pair that stands for one character


def test_half_a_character_in_a_dataset_or_model_leaves_nothing_that_no_machine_can_read(
    machines: Machines,
) -> None:
    store = machines()
    home = store.create_experiment("e")
    run_id = store.create_run(home, "ada", 0, [], None).info.run_id
    sound = {"name": "n", "digest": "d", "source_type": "local", "source": "s"}
    wrong = [
        *(DatasetInput(Dataset(**{**sound, field: HALF})) for field in (*sound, "schema")),
        DatasetInput(Dataset(**sound, profile=HALF)),
        DatasetInput(Dataset(**sound), [InputTag("mlflow.data.context", HALF)]),
    ]
    for dataset in wrong:
        with pytest.raises(MlflowException, match="not Unicode"):
            store.log_inputs(run_id, [dataset])
    models = [
        {"name": HALF},
        {"model_type": HALF},
        {"tags": [LoggedModelTag("a", HALF)]},
        {"params": [LoggedModelParameter("a", HALF)]},
    ]
    for model in models:
        with pytest.raises(MlflowException, match="not Unicode"):
            store.create_logged_model(home, **model)
    store._session.close()
    assert store._session._open is None  # all was sent
    there = machines()
    assert there.get_run(run_id).inputs.dataset_inputs == []
    assert there.search_logged_models([home]) == []


def test_half_a_character_in_the_registry_changes_nothing(machines: Machines) -> None:
    registry = BucketRegistryStore(machines()._session)
    registry.create_registered_model("m")
    version = registry.create_model_version("m", "gs://our-bucket/x").version
    before = registry.get_registered_model("m"), registry.get_model_version("m", version)
    changes: list[Callable[[], object]] = [
        lambda: registry.create_registered_model("n", description=HALF),
        lambda: registry.update_registered_model("m", HALF),
        lambda: registry.set_registered_model_tag("m", RegisteredModelTag("a", HALF)),
        lambda: registry.set_registered_model_alias("m", HALF, version),
        lambda: registry.create_model_version("m", "gs://our-bucket/x", description=HALF),
        lambda: registry.update_model_version("m", version, HALF),
        lambda: registry.set_model_version_tag("m", version, ModelVersionTag("a", HALF)),
    ]
    for change in changes:
        with pytest.raises(MlflowException) as refused:
            change()
        assert refused.value.error_code == "INVALID_PARAMETER_VALUE"
    there = BucketRegistryStore(machines()._session)
    assert [each.name for each in there.search_registered_models(max_results=9)] == ["m"]
    after = there.get_registered_model("m"), there.get_model_version("m", version)
    assert [dict(each) for each in after] == [dict(each) for each in before]


def test_push_sends_what_lies_there_under_a_name_that_is_a_folder_by_now(
    machines: Machines, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAGGLEOPS_FLUSH_SECONDS", "3600")
    here, there = machines(), machines()
    home = here.create_experiment("e")
    run_id = here.create_run(home, "ada", 0, [], None).info.run_id
    there.log_metric(run_id, Metric("acc", 0.5, 1, 0))
    here.log_metric(run_id, Metric("acc/val", 0.5, 1, 0))
    here.flush()
    for owner in there._session._open.owned.values():  # type: ignore[union-attr]
        owner.close()  # as if it had been killed
    there._session._open = None
    bucket = open_bucket(tracking_uri.removesuffix("/mlruns"))
    sent = push(EntityStore(bucket))
    assert (sent.problems, len(sent.renamed)) == ([], 1), sent
    assert run(home, run_id) in sent.entities
    assert not push(EntityStore(bucket)).renamed
    assert set(machines().get_run(run_id).data.metrics) == {"acc.self", "acc/val"}
