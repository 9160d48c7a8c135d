"""Several processes that train one model together, one a GPU: started here, and what they share.

`launch` starts the same command once more for each process; torch's elastic launcher watches them,
and the end of one is the end of all. The first one (rank 0) has the MLflow run and prints; the
others do neither. `torchrun` may have started them as well.
"""

import logging
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn, TypeVar

import click

from kaggleops.errors import KaggleOpsError, first_line
from kaggleops.session_end import TO_BE_CONTINUED

T = TypeVar("T")

FOLDER = "_COMPETITIONS_RANKS"
"""The variable that tells a launched process where to leave what its launcher has to know."""
_RUNS = "runs"

# How long one process may wait for another: rank 0 stores checkpoints and models meanwhile.
PATIENCE = timedelta(hours=2)
# Seconds that the others have to end in, once one has.
_TO_END = "15"
# A process that is found dead may have died so many seconds before another one noticed.
_UNNOTICED = 5.0
# How a process ends that somebody has told to: its launcher, or `kaggleops cancel`.
_ENDED = {code for number in (1, 2, 15) for code in (-number, 128 + number)}


def world() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def rank() -> int:
    """The number of this one among them, from 0."""
    return int(os.environ.get("RANK", "0")) if world() > 1 else 0


def is_first() -> bool:
    """Whether this is the process that logs and prints."""
    return rank() == 0


def from_first(make: Callable[[], T]) -> T:
    """What the first process makes, in each of them; all have to call this, in the same order."""
    if world() == 1:
        return make()
    import torch.distributed

    _join()
    made = [make() if is_first() else None]
    torch.distributed.broadcast_object_list(made, src=0)
    return made[0]  # type: ignore[return-value] # None only before


def wait_for_all() -> None:
    """Return once every process has come here."""
    if world() > 1:
        import torch.distributed

        _join()
        torch.distributed.barrier()


def _join() -> None:
    """Connect the processes: by NCCL with a GPU for each, else by gloo."""
    import torch
    from accelerate import PartialState

    if not torch.distributed.is_initialized():
        on_cpu = not torch.cuda.is_available()
        if on_cpu:  # the Trainer's own `PartialState` has to come to the same
            os.environ["ACCELERATE_USE_CPU"] = "true"
        PartialState(cpu=on_cpu, timeout=PATIENCE)


def leave() -> None:
    """Let go of the others: this process is done."""
    if world() > 1:
        import torch.distributed

        _join()
        torch.distributed.destroy_process_group()


def note_run(run_id: str) -> None:
    """Let the launcher know of a run that this process has opened."""
    if folder := os.environ.get(FOLDER):
        with Path(folder, _RUNS).open("a") as noted:
            noted.write(f"{run_id}\n")


def leave_word(error: str) -> bool:
    """Leave it to the launcher to say why this process ends; False where there is none."""
    if folder := os.environ.get(FOLDER):
        Path(folder, f"error-{rank()}").write_text(error, encoding="utf-8")
    return bool(folder)


def launch(count: int, module: str, arguments: Sequence[str]) -> None:
    """Run `python -m MODULE ARGUMENTS` in `count` processes, and return when all have ended well.

    Else this process exits as the one that failed first, having told why, and the runs that they
    have left open are FAILED. Raises `KaggleOpsError` where one was killed.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # It tells an error in a page of its own.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (cores or 1) // count)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _TO_END)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    with TemporaryDirectory(prefix="ranks-") as scratch:
        folder = Path(scratch)
        os.environ[FOLDER] = scratch
        others = dict.fromkeys(range(1, count), Std.ALL)
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=module,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(f"{scratch}/logs", redirects=others),
        )
        try:
            elastic_launch(config, sys.executable)("-m", module, *arguments)
        except SignalException as error:
            _end_runs(folder, "KILLED")
            sys.exit(128 + error.sigval)
        except ChildFailedError as error:
            codes = {number: failure.exitcode for number, failure in error.failures.items()}
            died = {number: failure.timestamp for number, failure in error.failures.items()}
            _explain(folder, codes, died)
        finally:
            del os.environ[FOLDER]


def _explain(folder: Path, codes: dict[int, int], died: dict[int, int]) -> NoReturn:
    """End as the process did that failed first: the others fail because of it."""
    if codes.get(0) == TO_BE_CONTINUED:
        sys.exit(TO_BE_CONTINUED)
    files = sorted(folder.glob("error-*"), key=lambda file: file.stat().st_mtime)
    words = {int(file.name.removeprefix("error-")): file.read_text("utf-8") for file in files}
    # Neither a word nor a stack trace: it was killed, as the last of all those by the launcher.
    last = files[0].stat().st_mtime + _UNNOTICED if files else math.inf
    dead = [each for each in codes if each not in words and codes[each] not in _ENDED]
    dead = [each for each in dead if died[each] < last]
    line = next((each for each, text in words.items() if text.startswith("error: ")), None)
    if line is None and not dead and not words:
        _end_runs(folder, "KILLED")
        code = next(iter(codes.values()))
        sys.exit(code if code > 0 else 128 - code)
    _end_runs(folder, "FAILED")
    if line is None and dead:
        number, code = dead[0], codes[dead[0]]
        problem, hint = f"process {number} of {len(codes)} ended with exit code {code}", ""
        if code < 0:
            problem = f"process {number} of {len(codes)} was killed ({signal.Signals(-code).name})"
            hint = "The system does that when memory runs out; trainer.devices=1 needs the least"
        raise KaggleOpsError("training", problem, hint)
    first = next(iter(words)) if line is None else line
    click.echo(words[first].rstrip(), err=True)
    sys.exit(2 if codes.get(first) == 2 else 1)


def _end_runs(folder: Path, status: str) -> None:
    """End the runs that rank 0 has left open, or that were taken for killed as it was ended."""
    if not (folder / _RUNS).exists():
        return
    import mlflow

    client = mlflow.MlflowClient()
    for run_id in reversed((folder / _RUNS).read_text().split()):
        try:
            try:
                now = client.get_run(run_id).info.status
            except ValueError:  # MLflow's file store, of a metric that was killed as it was begun
                now = "RUNNING"
            if now == "RUNNING" or (now == "KILLED" and status == "FAILED"):
                client.set_terminated(run_id, status)
        except Exception as error:  # noqa: BLE001 - each kind of store has exceptions of its own
            click.echo(f"warning: ending run {run_id}: {first_line(error)}", err=True)
