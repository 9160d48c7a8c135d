"""Checkpoints that outlive the machine: in the run's artifacts, the best and the last one.

    checkpoints/checkpoint-300/…   as the Trainer writes them
    checkpoints/index.json         which there are and the size of each file, the last one first

A checkpoint is named in the index once all of it has been handed over, and older ones are removed
only after that. What is incomplete all the same (a machine that died before it had sent the rest)
is told by the sizes, and the next one in the index is used.
"""

import json
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from safetensors import safe_open
from transformers import (
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from competitions.console import say, warn
from kaggleops.errors import KaggleOpsError

FOLDER = "checkpoints"
INDEX = "index.json"
WEIGHTS = "model.safetensors"

# Name of a checkpoint -> path in it -> bytes; the last one first.
Index = dict[str, dict[str, int]]


class CheckpointUpload(TrainerCallback):
    """Sends each checkpoint that the Trainer saves to the active run.

    Args:
        index: what the run holds already.
    """

    def __init__(self, index: Index) -> None:
        self.index = index

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Send it, then name it, then remove what is neither the best nor the last any more."""
        if not state.is_world_process_zero:
            return
        name = f"checkpoint-{state.global_step}"
        try:
            self._send(Path(str(args.output_dir)) / name, f"checkpoint-{state.best_global_step}")
        except Exception as error:  # noqa: BLE001 - each kind of store has exceptions of its own
            # The training is worth more than one checkpoint: the next one may get through.
            warn(f"{name} is not stored: {type(error).__name__}: {error}")

    def _send(self, folder: Path, best: str) -> None:
        files = [path for path in folder.rglob("*") if path.is_file()]
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
        mlflow.log_artifacts(str(folder), f"{FOLDER}/{folder.name}")
        earlier = {name: files for name, files in self.index.items() if name != folder.name}
        gone = [name for name in earlier if name != best]
        kept = {best: earlier[best]} if best in earlier else {}
        self.index = {folder.name: sizes} | kept
        mlflow.log_text(json.dumps(self.index, indent=1), f"{FOLDER}/{INDEX}")
        repository = get_artifact_repository(mlflow.get_artifact_uri())
        for name in gone:
            repository.delete_artifacts(f"{FOLDER}/{name}")


class EpochEnds(TrainerCallback):
    """What `checkpoints=steps` does at the ends of epochs, where the evaluation is.

    The best epoch so far is saved, at whatever step it ends. A checkpoint that is due at that very
    step waits until the evaluation is over: it draws from torch's random state, so a training that
    went on from before it without it would become another one.

    Args:
        score: what the best one is told by, as `compute_metrics` names it.
    """

    def __init__(self, score: str) -> None:
        self.score = f"eval_{score}"
        self.due = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Put off a checkpoint at an epoch's last step."""
        if control.should_save and not (state.epoch or 0) % 1:
            self.due, control.should_save = True, False

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make up for it: the Trainer saves after it has evaluated."""
        control.should_save = control.should_save or self.due
        self.due = False

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Save what is better than all before."""
        value = (metrics or {}).get(self.score)
        if value is not None and (state.best_metric is None or value > state.best_metric):
            control.should_save = True


def read_index(run_id: str) -> Index:
    """Which checkpoints a run holds; none where it has no index.

    Raises:
        KaggleOpsError: where its artifacts cannot be read.
    """
    doing = f"looking for checkpoints of run {run_id}"
    try:
        found = [file.path for file in mlflow.MlflowClient().list_artifacts(run_id, FOLDER)]
        if f"{FOLDER}/{INDEX}" not in found:
            return {}
        text = mlflow.artifacts.load_text(f"runs:/{run_id}/{FOLDER}/{INDEX}")
        return dict(json.loads(text))
    except Exception as error:  # noqa: BLE001 - each kind of store has exceptions of its own
        raise KaggleOpsError(doing, str(error).splitlines()[0]) from None


def fetch_last(run_id: str, index: Index, folder: Path) -> Path | None:
    """Download the last whole checkpoint of a run into `folder`.

    Args:
        run_id: the run.
        index: what `read_index` says.
        folder: an existing one.

    Returns:
        The checkpoint's own folder, or None where there is none that is whole.
    """
    for name, sizes in index.items():
        try:
            place = mlflow.artifacts.download_artifacts(
                run_id=run_id, artifact_path=f"{FOLDER}/{name}", dst_path=str(folder)
            )
            found = {file: (Path(place) / file).stat().st_size for file in sizes}
        except (MlflowException, OSError):
            found = {}
        if found == sizes:
            say(f"continuing run {run_id} from {name}")
            return Path(place)
        warn(f"{name} of run {run_id} is not complete, and is passed over")
    return None


def check_fits(checkpoint: Path, model: PreTrainedModel) -> None:
    """Make sure that a checkpoint's weights are this model's.

    Raises:
        KaggleOpsError: where they are of another architecture.
    """
    wanted = {name: tuple(weights.shape) for name, weights in model.state_dict().items()}
    with safe_open(checkpoint / WEIGHTS, "pt") as saved:
        shapes = {name: tuple(saved.get_slice(name).get_shape()) for name in saved.keys()}  # noqa: SIM118 - no mapping
    for name, shape in shapes.items():
        if wanted.get(name) != shape:
            there = f"has {wanted[name]}" if name in wanted else "has none"
            problem = f"it is of another architecture: its {name} has {shape}, this model {there}"
            hint = "Continue with the model of that run's config.yaml, or start a new run"
            raise KaggleOpsError(f"continuing from {checkpoint.name}", problem, hint)
