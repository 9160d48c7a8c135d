"""Checkpoints that outlive the machine: in the run's artifacts, the best and the last one.

    checkpoints/checkpoint-300/…   as the Trainer writes them
    checkpoints/index.json         which there are and the size of each file, the last one first

A checkpoint is named in the index once all of it has been handed over, and older ones are removed
only after that. What is incomplete all the same (a machine that died before it had sent the rest)
is told by the sizes, and the next one in the index is used.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import torch
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from safetensors import safe_open
from torch.optim.swa_utils import AveragedModel
from transformers import PreTrainedModel, TrainerCallback

from competitions import ranks
from competitions.console import say, store_explained, warn
from kaggleops.errors import KaggleOpsError
from kaggleops.session_end import time_left

FOLDER = "checkpoints"
INDEX = "index.json"
WEIGHTS = "model.safetensors"
AVERAGE = "average.pt"

Clock = Callable[[], float]  # seconds since whenever

# Seconds in which a process ends and sends what it logged, once its checkpoint is stored.
TO_END = 60.0
# How fast a checkpoint is stored, as long as none was: the weights and two moments, at 10 MB/s.
BYTES_A_PARAMETER, BYTES_A_SECOND = 3 * 4, 10e6

# Name of a checkpoint -> path in it -> bytes; the last one first.
Index = dict[str, dict[str, int]]


def read_index(run_id: str) -> Index:
    """Which checkpoints a run holds; none where it has no index."""
    with store_explained(f"looking for checkpoints of run {run_id}"):
        found = [file.path for file in mlflow.MlflowClient().list_artifacts(run_id, FOLDER)]
        if f"{FOLDER}/{INDEX}" not in found:
            return {}
        return dict(json.loads(mlflow.artifacts.load_text(f"runs:/{run_id}/{FOLDER}/{INDEX}")))


def fetch_last(run_id: str, index: Index, folder: Path) -> Path | None:
    """Download the last whole checkpoint of a run into an existing folder; None without one."""
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
    """Raise `KaggleOpsError` where a checkpoint's weights are of another architecture."""
    wanted = {name: tuple(weights.shape) for name, weights in model.state_dict().items()}
    with safe_open(checkpoint / WEIGHTS, "pt") as saved:
        shapes = {name: tuple(saved.get_slice(name).get_shape()) for name in saved.keys()}  # noqa: SIM118 - no mapping
    for name, shape in shapes.items():
        if wanted.get(name) != shape:
            there = f"has {wanted[name]}" if name in wanted else "has none"
            problem = f"it is of another architecture: its {name} has {shape}, this model {there}"
            hint = "Continue with the model of that run's config.yaml, or start a new run"
            raise KaggleOpsError(f"continuing from {checkpoint.name}", problem, hint)


class CheckpointUpload(TrainerCallback):
    """Sends each checkpoint that the Trainer saves to the active run, which holds `index`.

    `seconds` is how long the last one took from the first byte on the disk to the last one sent;
    before there is one, a guess by the model's `parameters`.
    """

    def __init__(self, index: Index, parameters: int, clock: Clock = time.monotonic) -> None:
        self.index = index
        self.seconds = parameters * BYTES_A_PARAMETER / BYTES_A_SECOND
        self.clock = clock
        self._begun = clock()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the time: what the Trainer does next may be to save."""
        self._begun = self.clock()

    on_epoch_end = on_evaluate = on_step_end

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Send it, then name it, then remove what is neither the best nor the last any more."""
        ranks.wait_for_all()  # each writes a part of it
        if not ranks.is_first():
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        try:
            self._send(folder, f"checkpoint-{state.best_global_step}")
        except Exception as error:  # noqa: BLE001 - each kind of store has exceptions of its own
            # The training is worth more than one checkpoint: the next one may get through.
            warn(f"{folder.name} is not stored: {type(error).__name__}: {error}")
        self.seconds = self.clock() - self._begun

    def _send(self, folder: Path, best: str) -> None:
        files = [path for path in folder.rglob("*") if path.is_file()]
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
        mlflow.log_artifacts(str(folder), f"{FOLDER}/{folder.name}")
        earlier = {name: files for name, files in self.index.items() if name != folder.name}
        kept = {best: earlier.pop(best)} if best in earlier else {}
        self.index = {folder.name: sizes} | kept
        mlflow.log_text(json.dumps(self.index, indent=1), f"{FOLDER}/{INDEX}")
        repository = get_artifact_repository(mlflow.get_artifact_uri())
        for name in earlier:
            repository.delete_artifacts(f"{FOLDER}/{name}")


class CheckpointSchedule(TrainerCallback):
    """When a checkpoint is due that the Trainer's own schedule does not know of.

    Before the session ends (`kaggleops.time_left`), a checkpoint ends the training: as late as one
    more step, an evaluation and the checkpoint, which may take minutes to send, fit in. With
    `checkpoints=steps`, the best epoch so far is saved, at whatever step it ends, and a checkpoint
    that is due at an epoch's last step waits until the evaluation is over: it draws from torch's
    random state, so a training that went on from before it without it would become another one.

    `evaluation` is how long one may take, in steps, as long as there was none; `score` what the
    best epoch is told by, None where that is not saved.
    """

    def __init__(
        self, upload: CheckpointUpload, evaluation: float, score: str | None = None
    ) -> None:
        self.upload = upload
        self.score = score
        self.due = self.reached = False
        self._in_steps = evaluation
        self._step = self._evaluation = 0.0  # the seconds of the longest one
        self._begun = upload.clock()

    @property
    def reserve(self) -> float:
        """How many seconds before the session's end the training has to end."""
        evaluation = self._evaluation or self._in_steps * self._step
        return TO_END + self._step + evaluation + 1.5 * self.upload.seconds

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._begun = self.upload.clock()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End it, but for an epoch's last step: the evaluation then comes first, as always."""
        now = self.upload.clock()
        self._step, self._begun = max(self._step, now - self._begun), now
        if (state.epoch or 0) % 1:
            self._end_if_late(state, control)
        elif control.should_save:
            self.due, control.should_save = True, False

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End it, or make up for what is due; after an end within an epoch nothing is evaluated."""
        if self.reached:
            control.should_evaluate = control.should_save = False
            return
        control.should_save = control.should_save or self.due
        self.due = False
        self._end_if_late(state, control)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any
    ) -> None:
        """Save what is better than all before."""
        self._evaluation = max(self._evaluation, self.upload.clock() - self._begun)
        value = metrics.get(f"eval_{self.score}")
        if value is not None and (state.best_metric is None or value > state.best_metric):
            control.should_save = True

    def _end_if_late(self, state: Any, control: Any) -> None:
        left = time_left()
        if left is None or state.global_step >= state.max_steps:
            return
        # One decides: what each of them measures differs a little, and none may wait for the rest.
        if ranks.from_first(lambda: left <= self.reserve):
            self.reached = control.should_save = control.should_training_stop = True


class WeightAverage(TrainerCallback):
    """Averages the weights of all steps after a share of the training (torch's own SWA).

    The mean lies in every checkpoint, too, so a resumed training ends with the same one.
    """

    def __init__(self, start: float) -> None:
        self.start = start
        self.average: AveragedModel | None = None

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: PreTrainedModel, **kwargs: Any
    ) -> None:
        if state.global_step > self.start * state.max_steps:
            self.average = self.average or AveragedModel(model)
            self.average.update_parameters(model)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.average is not None and args.should_save:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            torch.save(self.average.state_dict(), folder / AVERAGE)

    def load(self, checkpoint: Path, model: PreTrainedModel) -> None:
        """Go on from the mean that a checkpoint holds, if it holds one."""
        if (checkpoint / AVERAGE).is_file():
            self.average = AveragedModel(model)
            saved = torch.load(checkpoint / AVERAGE, map_location=model.device)
            self.average.load_state_dict(saved)

    def apply(self, model: PreTrainedModel) -> bool:
        """Give the model the mean weights; False where there is none."""
        if self.average is None:
            return False
        model.load_state_dict(self.average.module.state_dict())
        return True
