"""Scripts for several GPUs whose every process logs: one run, with each point once."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from mlflow.entities import Run

from kaggleops.tags import FAILURE
from tests.command import kaggleops_here
from tests.fakes.git_server import Repository
from tests.frameworks.adopting import adopted, client_of, train

pytestmark = pytest.mark.usefixtures("quick")

PLAIN = """
import mlflow
import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel

torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), 0.1)
with mlflow.start_run():
    mlflow.log_params({"lr": 0.1, "rows": 8})
    for step in range(3):
        loss = model(torch.full((8, 4), float(rank + 1))).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mlflow.log_metric("loss", loss.item(), step=step)
        mlflow.log_metric("rank", rank, step=step)
    mlflow.log_text(f"of rank {rank}", "model.txt")
    mlflow.set_tag("finished by", rank)
    torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""

HUGGING_FACE = """
import mlflow
import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

tiny = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
row = {"input_ids": torch.arange(4), "labels": torch.tensor(1)}
arguments = TrainingArguments(
    "outputs", max_steps=3, logging_steps=1, save_strategy="no", report_to="mlflow", use_cpu=True
)
with mlflow.start_run():
    model = BertForSequenceClassification(BertConfig(vocab_size=8, **tiny))
    trainer = Trainer(model=model, args=arguments, train_dataset=[row] * 64)
    trainer.train()
    mlflow.log_metric("rank", trainer.args.process_index)
    mlflow.log_text(f"of rank {trainer.args.process_index}", "model.txt")
    mlflow.set_tag("finished by", trainer.args.process_index)
"""

DIES = """
import os
import signal
from contextlib import suppress

import mlflow

with suppress(FileExistsError):
    os.mkfifo("logged")
with mlflow.start_run():
    mlflow.log_metric("loss", 0.5)
    if os.environ["RANK"] == "1":
        open("logged").read()  # waits for the other one
        os.kill(os.getpid(), signal.SIGKILL)  # as for want of memory
    open("logged", "w").close()
    signal.pause()
"""

TORCHRUN = "torchrun --nproc-per-node 2 train.py"


def only_run(repository: Repository) -> Run:
    client = client_of(repository)
    (run,) = client.search_runs([each.experiment_id for each in client.search_experiments()])
    return run


def check(repository: Repository, run: Run, steps: list[int]) -> None:
    """Look at what is in a run: what rank 0 logged, each point once."""
    client = client_of(repository)
    assert run.info.status == "FINISHED"
    assert run.data.tags["finished by"] == "0"
    assert {each.value for each in client.get_metric_history(run.info.run_id, "rank")} == {0}
    points = client.get_metric_history(run.info.run_id, "loss")
    assert sorted(point.step for point in points) == steps  # a Trainer logs in threads
    (text,) = repository.folder.glob(f"bucket/artifacts/**/{run.info.run_id}/**/model.txt")
    assert text.read_text() == "of rank 0"


def with_torchrun(folder: Path, packages: Sequence[str], script: str) -> Repository:
    repository = adopted(folder, packages, train_py=script)
    project = (repository.folder / "MLproject").read_text()
    assert "python train.py" in project
    repository.write(MLproject=project.replace("python train.py", TORCHRUN))
    repository.commit("Use both GPUs")
    return repository


@pytest.mark.parametrize(
    ("script", "steps"),
    [(PLAIN, [0, 1, 2]), (HUGGING_FACE, [1, 2, 3])],
    ids=["plain", "Trainer"],
)
def test_all_ranks_log_one_run(script: str, steps: list[int], tmp_path: Path) -> None:
    packages = ["torch"] if script == PLAIN else ["torch", "transformers", "accelerate"]
    repository = with_torchrun(tmp_path / "work", packages, script)
    train(repository)
    check(repository, only_run(repository), steps)


def test_a_rank_that_dies_fails_the_run(tmp_path: Path) -> None:
    repository = with_torchrun(tmp_path / "work", ["torch"], DIES)
    done = kaggleops_here("run", cwd=repository.folder)
    assert done.code == 1
    run = only_run(repository)
    assert run.info.status == "FAILED"
    assert run.data.metrics == {"loss": 0.5}
    assert run.data.tags[FAILURE].startswith("Signal 9 (SIGKILL) received by PID ")
    assert run.data.tags[FAILURE] in done.error


def test_all_ranks_of_a_plain_script_log_one_run(tmp_path: Path) -> None:
    repository = adopted(tmp_path / "work", ["torch"], train_py=PLAIN)
    uri = client_of(repository).tracking_uri
    done = subprocess.run(
        [f"{Path(sys.executable).parent}/{TORCHRUN.split()[0]}", *TORCHRUN.split()[1:]],
        cwd=repository.folder,
        env=os.environ | {"MLFLOW_TRACKING_URI": uri},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Rank 0 logs for all ranks") == 1
    check(repository, only_run(repository), [0, 1, 2])
