"""The MLflow run of a training: started or resumed, and what it keeps.

`mlflow run` has made the run before this process starts and logged the entry point's parameters to
it; started by hand, a new run is made in whatever tracking URI is configured. Step metrics are
written by the Trainer's own MLflow callback into the run that is active.
"""

import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.models import Model, infer_signature
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from mlflow.utils.validation import (
    MAX_ENTITY_KEY_LENGTH,
    MAX_PARAM_VAL_LENGTH,
    MAX_PARAMS_TAGS_PER_BATCH,
)

from competitions import ranks
from competitions.config import CONFIG_FILE
from competitions.console import Stopped, store_explained, warn
from competitions.schema import RESOURCE
from competitions.tasks import Task
from kaggleops.errors import KaggleOpsError, UsageError, first_line
from kaggleops.launch.legs import last_step

# What another machine may have other values for when it continues a run.
MAY_CHANGE = ("data.dir", "trainer.eval_batch_size")
OOF_FILE = "oof.csv"
LIBRARIES = ("torch", "transformers", "accelerate", "tokenizers", "numpy", "pandas")
WORST_ROWS = 50
_CHECK = "Check MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_ID and MLFLOW_RUN_ID"


@contextmanager
def active_run(flat: Mapping[str, str] | None = None) -> Iterator[str]:
    """The run to log to, by its id; FINISHED at the end, FAILED by an error.

    KILLED by Ctrl-C, and SCHEDULED by `Stopped`: it is to be continued. A run that was started with
    another configuration than `flat`, which `log_config` is going to log, is a UsageError, and
    stays as it is. Of several processes, the first has the run, and the others its id.
    """
    if not ranks.is_first():
        yield ranks.from_first(str)
        return
    # The configuration is logged as a whole: no hundreds of TrainingArguments as params beside it.
    os.environ["MLFLOW_MAX_LOG_PARAMS"] = "0"
    wanted = os.environ.get("MLFLOW_RUN_ID")
    try:
        if wanted and flat:
            _check_same(mlflow.get_run(wanted), flat)
        run_id = str(mlflow.start_run(log_system_metrics=_has_psutil()).info.run_id)
    except (MlflowException, ImportError) as error:
        doing = f"resuming run {wanted}" if wanted else "starting a run"
        raise KaggleOpsError(doing, first_line(error), _CHECK) from None
    # The Trainer's callback would start a second run beside the active one.
    os.environ.pop("MLFLOW_RUN_ID", None)
    with _ended(stopped="SCHEDULED"):
        ranks.note_run(run_id)
        yield ranks.from_first(lambda: run_id)


@contextmanager
def fold_run(parent: str, fold: int) -> Iterator[str]:
    """The run of one fold below the run of all folds: the one there is already, or a new one."""
    if not ranks.is_first():
        yield ranks.from_first(str)
        return
    earlier = fold_runs(parent).get(fold)
    known = {"run_id": earlier.info.run_id} if earlier else {"run_name": f"fold {fold}"}
    run = mlflow.start_run(nested=True, log_system_metrics=_has_psutil(), **known)
    run_id = str(run.info.run_id)
    with _ended():
        ranks.note_run(run_id)
        yield ranks.from_first(lambda: run_id)


@contextmanager
def _ended(stopped: str = "KILLED") -> Iterator[None]:
    """End the active run with the status that fits; `stopped` is that of one to be continued."""
    try:
        yield
    except Stopped:
        mlflow.end_run(stopped)
        raise
    except KeyboardInterrupt:
        mlflow.end_run("KILLED")
        raise
    except BaseException:
        mlflow.end_run("FAILED")
        raise
    mlflow.end_run()


def devices_before() -> str | None:
    """The `trainer.devices` of the run that MLFLOW_RUN_ID names, if it was trained before."""
    run_id = os.environ["MLFLOW_RUN_ID"]
    with store_explained(f"resuming run {run_id}", _CHECK):
        found: str | None = mlflow.get_run(run_id).data.params.get("trainer.devices")
    return found


def _has_psutil() -> bool:
    """Whether MLflow can measure this machine; it says at every start that it does, unless told."""
    logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
    return find_spec("psutil") is not None


def finished_folds(parent: str) -> dict[int, str]:
    """The ids of the finished runs of single folds below the run of all folds, by fold."""
    found = sorted(fold_runs(parent).items())
    return {fold: run.info.run_id for fold, run in found if run.info.status == "FINISHED"}


def fold_runs(parent: str) -> dict[int, Run]:
    """The runs of single folds below a run, by fold."""
    client = mlflow.MlflowClient()
    experiment = client.get_run(parent).info.experiment_id
    wanted = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent}'"
    found = client.search_runs([experiment], wanted, order_by=["attributes.start_time ASC"])
    of_folds = [(run.data.params.get("fold", ""), run) for run in found]
    return {int(fold): run for fold, run in of_folds if fold.isdecimal()}


def log_steps(parent: str) -> None:
    """Log how many steps the folds below the active run have made: it comes further with them."""
    below = fold_runs(parent).values()
    steps = sum(last_step(run) or 0 for run in below)
    mlflow.log_metric("steps", steps, step=steps)


def single_runs(run_id: str) -> list[str]:
    """The run itself, or the finished runs of its folds where it is the run of all folds."""
    run = mlflow.get_run(run_id)
    if run.data.params.get("fold") != "all":
        return [run_id]
    finished = finished_folds(run_id)
    doing, folds = f"reading the folds of run {run_id}", run.data.params.get("folds")
    if not finished:
        raise UsageError(doing, "none of them is finished", "Finish its training first")
    if str(len(finished)) != folds:
        listed = ", ".join(map(str, finished))
        warn(f"only fold {listed} of the {folds} of run {run_id} are finished")
    return list(finished.values())


def log_config(flat: Mapping[str, str], yaml: str) -> None:
    """Log the configuration to the active run: as params, and whole as the artifact config.yaml.

    Keys and values longer than MLflow takes are cut at their ends; characters that it does not take
    in a key become `_`. What the run holds already, the entry point's own parameters that
    `mlflow run` logged before this process began among it, is left as it is; another configuration
    than that is a UsageError (params never change).
    """
    active = mlflow.active_run()
    assert active is not None  # noqa: S101 - `active_run` and `fold_run` have opened it
    run = mlflow.get_run(active.info.run_id)  # what the active one holds is as old as its start
    _check_same(run, flat)
    items = [item for item in _as_params(flat).items() if item[0] not in run.data.params]
    for start in range(0, len(items), MAX_PARAMS_TAGS_PER_BATCH):
        mlflow.log_params(dict(items[start : start + MAX_PARAMS_TAGS_PER_BATCH]))
    mlflow.log_text(yaml, CONFIG_FILE)


def _check_same(run: Run, flat: Mapping[str, str]) -> None:
    """Raise `UsageError` where a run cannot be continued with this configuration."""
    run_id, existing = run.info.run_id, run.data.params
    parent = run.data.tags.get(MLFLOW_PARENT_RUN_ID)
    if parent and flat.get("fold") == "all":
        problem = f"it is one fold of run {parent}, not the run of all"
        raise UsageError(f"resuming run {run_id}", problem, f"Set MLFLOW_RUN_ID={parent}")
    for name, value in _as_params(flat).items():
        before = existing.get(name, value)
        if name not in MAY_CHANGE and _number(before) != _number(value):
            problem = f"it was started with {name}={before}, not {value}"
            raise UsageError(f"resuming run {run_id}", problem, "Start a new run for that")


def _as_params(flat: Mapping[str, str]) -> dict[str, str]:
    params = {}
    for key, value in flat.items():
        name = re.sub(r"[^\w\-. :/]", "_", key)[:MAX_ENTITY_KEY_LENGTH]
        cut = len(value) > MAX_PARAM_VAL_LENGTH
        params[name] = f"{value[: MAX_PARAM_VAL_LENGTH - 1]}…" if cut else value
    return params


def _number(value: str) -> str:
    """A fold as the entry point may have been given it: "01" is 1."""
    return str(int(value)) if value.isdecimal() else value


def digest(rows: pd.DataFrame) -> str:
    """Eight hexadecimal digits that change with any row, any value and the order."""
    values = pd.util.hash_pandas_object(rows.reset_index(drop=True))
    return f"{pd.util.hash_array(values.to_numpy()).sum():016x}"[:8]


def log_dataset(task: Task, rows: pd.DataFrame, folder: str | None, context: str) -> None:
    """Log rows, read in `folder`, as an input of the active run for "training" or "validation"."""
    if folder and folder.startswith(RESOURCE):
        folder = None  # it is an input of its own, with its source
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a path is a local file in two ways
        dataset = mlflow.data.from_pandas(
            rows,
            source=folder and f"{folder.rstrip('/')}/train.csv",
            targets=task.target_column,
            name=task.competition,
            digest=digest(rows),
        )
    mlflow.log_input(dataset, context=context)


def log_versions() -> None:
    """Tag the active run with the versions of the libraries that a score may depend on."""
    mlflow.set_tags({f"version.{name}": version(name) for name in LIBRARIES})


def log_worst(task: Task, predicted: pd.DataFrame) -> None:
    """Log the rows that were answered worst as a table that the UI shows."""
    worst = predicted.sort_values(task.row_score, kind="stable").head(WORST_ROWS)
    mlflow.log_table(worst.astype(object).where(worst.notna(), None), "worst_answers.json")


def add_mlmodel(folder: Path, task: Task, validation: pd.DataFrame, answers: pd.DataFrame) -> None:
    """Make a saved model one that `mlflow.pyfunc.load_model` opens, with a signature.

    It opens where this project can be imported: its commit is the run's own. The labelled rows of
    `validation` without their label are an example of the input, and `answers` of the output.
    """
    asked = validation.drop(columns=task.target_column)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that whole numbers have no way to be missing
        model = Model(signature=infer_signature(asked, answers))
    mlflow.pyfunc.add_to_model(model, loader_module="competitions.inference")
    model.save(folder / "MLmodel")


def log_outputs(folder: Path) -> None:
    """Copy all of `folder` to the active run's artifacts; where that fails, it keeps everything."""
    run = mlflow.active_run()
    run_id = run.info.run_id if run else ""
    try:
        mlflow.log_artifacts(str(folder))
    except Exception as error:  # noqa: BLE001 - each kind of store has exceptions of its own
        problem = f"{type(error).__name__}: {error}"
        command = f"mlflow artifacts log-artifacts --run-id {run_id} --local-dir {folder}"
        hint = f"The training is done and kept in {folder}. Send it: {command}"
        raise KaggleOpsError(f"storing the artifacts of run {run_id}", problem, hint) from None


def listed(scores: Mapping[str, float]) -> str:
    """Scores in one line."""
    return ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
