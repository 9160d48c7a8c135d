"""One life of a tracking server, played on any store, and a picture of what it left.

Played on MLflow's own file store and on ours, the pictures must be equal: the file store is the
oracle for what a store answers.
"""

from pathlib import Path
from typing import Any

from mlflow.entities import (
    Dataset,
    DatasetInput,
    ExperimentTag,
    InputTag,
    LoggedModelInput,
    LoggedModelOutput,
    LoggedModelParameter,
    LoggedModelStatus,
    LoggedModelTag,
    Metric,
    Param,
    RunStatus,
    RunTag,
    ViewType,
)
from mlflow.store.tracking.abstract_store import AbstractStore


def play(store: AbstractStore) -> None:
    """Do everything once that the file store can do with experiments, runs and models."""
    first = store.create_experiment("first", tags=[ExperimentTag("owner", "ada")])
    store.set_experiment_tag(first, ExperimentTag("note", "zwölf Boxkämpfer 🥊"))
    store.set_experiment_tag(first, ExperimentTag("gone", "soon"))
    store.delete_experiment_tag(first, "gone")
    second = store.create_experiment("second")
    store.rename_experiment(second, "second, renamed")
    third = store.create_experiment("third")
    _run(store, third, "in a deleted experiment")
    store.delete_experiment(third)
    fourth = store.create_experiment("fourth")
    store.delete_experiment(fourth)
    store.restore_experiment(fourth)

    full = _run(store, first, "full")
    store.log_param(full, Param("lr", "0.1"))
    store.log_batch(
        full,
        metrics=[Metric("acc/top 1", value, 1000 + step, step) for step, value in enumerate(_ODD)],
        params=[Param("a.b", "x" * 500), Param("empty", ""), Param("ünicode", "değer")],
        tags=[
            RunTag("colour", "red"),
            RunTag("gone", "soon"),
            RunTag("mlflow.note.content", "# Hi"),
        ],
    )
    store.log_metric(full, Metric("loss", 0.5, 5000, 0))
    store.log_metric(full, Metric("loss", 0.25, 4000, 1))
    store.log_metric(full, Metric("loss", 0.25, 4000, 1))
    store.set_tag(full, RunTag("colour", "green"))
    store.set_tag(full, RunTag("mlflow.runName", "full, renamed"))
    store.delete_tag(full, "gone")
    dataset = Dataset("tweets", "d1g3st", "local", '{"uri": "x"}', schema="{}", profile=None)
    store.log_inputs(full, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
    model = store.create_logged_model(
        first,
        name="encoder",
        source_run_id=full,
        tags=[LoggedModelTag("size", "small")],
        params=[LoggedModelParameter("layers", "2")],
        model_type="classifier",
    ).model_id
    store.log_metric(full, Metric("f1", 0.7, 6000, 2, model_id=model, run_id=full))
    store.log_outputs(full, [LoggedModelOutput(model, 2)])
    store.set_logged_model_tags(model, [LoggedModelTag("gone", "soon")])
    store.delete_logged_model_tag(model, "gone")
    store.finalize_logged_model(model, LoggedModelStatus.READY)
    store.update_run_info(full, RunStatus.FINISHED, 9000, None)

    reader = _run(store, first, "reads the model")
    store.log_inputs(reader, models=[LoggedModelInput(model)])
    store.update_run_info(reader, RunStatus.FAILED, 9001, "reads the model, failed")
    deleted = _run(store, first, "deleted")
    store.delete_run(deleted)
    restored = _run(store, first, "restored")
    store.delete_run(restored)
    store.restore_run(restored)
    doomed = store.create_logged_model(first, name="doomed").model_id
    store.delete_logged_model(doomed)


_ODD = (0.1, float("nan"), float("inf"), float("-inf"), -0.0, 1e-300, 3)


def _run(store: AbstractStore, experiment_id: str, name: str) -> str:
    run = store.create_run(experiment_id, "ada", 1000, [RunTag("kind", "test")], name)
    return str(run.info.run_id)


def picture(store: AbstractStore) -> dict[str, Any]:
    """Return what a store answers about all it holds, with ids replaced by names."""
    names: dict[str, str] = {}
    experiments = store.search_experiments(ViewType.ALL, max_results=100)
    names |= {each.experiment_id: f"<{each.name}>" for each in experiments}
    ids = [each.experiment_id for each in experiments]
    runs = store.search_runs(ids, "", ViewType.ALL, 100)
    names |= {run.info.run_id: f"<{run.info.run_name}>" for run in runs}
    models = store.search_logged_models(ids)
    names |= {model.model_id: f"<{model.name}>" for model in models}
    content = {
        "experiments": [_plain(each) for each in experiments],
        "runs": [
            {
                **store.get_run(run.info.run_id).to_dictionary(),
                "found": run.to_dictionary() == store.get_run(run.info.run_id).to_dictionary(),
                "history": {
                    # An equal point is one point in a bucket, as in MLflow's SQL store.
                    key: sorted(set(map(repr, store.get_metric_history(run.info.run_id, key))))
                    for key in run.data.metrics
                },
            }
            for run in runs
        ],
        "models": [store.get_logged_model(model.model_id).to_dictionary() for model in models],
        "datasets": [summary.to_dict() for summary in store._search_datasets(ids)],
    }
    return {
        section: sorted(map(repr, (_anonymous(item, names) for item in items)))
        for section, items in content.items()
    }


def _plain(entity: Any) -> dict[str, Any]:
    return dict(entity)


_UNIMPORTANT = {
    "creation_time",
    "last_update_time",
    "creation_timestamp",
    "last_updated_timestamp",
    "artifact_location",
    "artifact_uri",
}


def _anonymous(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        items = {
            # Whole where it is a short number, which is a part of everything.
            k: names.get(v, v) if k == "experiment_id" else _anonymous(v, names)
            for k, v in value.items()
            if k not in _UNIMPORTANT
        }
        return dict(sorted(items.items()))
    if isinstance(value, list):
        return sorted((_anonymous(item, names) for item in value), key=repr)
    text = value if isinstance(value, str) else repr(value)
    for known, name in names.items():
        text = text.replace(known, name) if len(known) > 1 else text
    return text


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return a folder's files and (as None) its folders, by path."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }
