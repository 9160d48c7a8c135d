"""A plain PyTorch loop that may take longer than a session (docs/long.md)."""

import sys
from pathlib import Path

import mlflow
import torch

import kaggleops

STEPS = int(float(sys.argv[1]))
RESERVE = 300  # seconds: for the slowest step, the checkpoint on its way, and the process's end
CHECKPOINT = "checkpoint.pt"

torch.manual_seed(7)
rows = torch.randn(512, 8)
labels = (rows.sum(1) > 0).float()
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Dropout(0.1), torch.nn.Linear(16, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
stateful = {"model": model, "optimizer": optimizer, "schedule": schedule}


def save(step: int) -> None:
    """Keep all that a training goes on from; `step` is the next one."""
    state = {name: each.state_dict() for name, each in stateful.items()}
    # The random state draws the rows and the dropout. (On a GPU also torch.cuda's.)
    torch.save({**state, "step": step, "random": torch.get_rng_state()}, CHECKPOINT)
    mlflow.log_artifact(CHECKPOINT)


def load(run_id: str) -> int:
    """Go on from the run's checkpoint, if it has one; return the next step."""
    if CHECKPOINT not in [file.path for file in mlflow.MlflowClient().list_artifacts(run_id)]:
        return 0
    state = torch.load(mlflow.artifacts.download_artifacts(f"runs:/{run_id}/{CHECKPOINT}"))
    for name, each in stateful.items():
        each.load_state_dict(state[name])
    torch.set_rng_state(state["random"])
    return int(state["step"])


with mlflow.start_run() as run:
    for step in range(load(run.info.run_id), STEPS):
        batch = torch.randint(len(rows), (32,))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            model(rows[batch]).squeeze(1), labels[batch]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        mlflow.log_metric("loss", loss.item(), step=step)
        left = kaggleops.time_left()
        if left is not None and left < RESERVE:
            save(step + 1)
            sys.exit(kaggleops.TO_BE_CONTINUED)
        if step % 100 == 99:  # for a machine that vanishes
            save(step + 1)
    torch.save(model.state_dict(), Path("model.pt"))
    mlflow.log_artifact("model.pt")
