"""Every task, and every file in config/experiment, trains: so that none can rot."""

from pathlib import Path

import pytest

from competitions.config import choices, compose
from competitions.tasks import task_class
from competitions.train import train_fold
from competitions.weights import local_weights

SMALL = ["trainer=fast", "data=sample", "data.rows=60"]


@pytest.mark.parametrize("name", choices("task"))
def test_a_task_trains_on_its_own_sample(name: str, tracking: Path) -> None:
    scores = train_fold(compose([f"task={name}", *SMALL]))
    first, *_, baseline = scores
    assert first == task_class(name).score_name
    assert baseline == f"baseline_{first}"
    assert all(0 <= value <= 1 for value in scores.values())


@pytest.mark.parametrize("name", choices("experiment"))
def test_an_experiment_runs_in_fast_mode(name: str, tracking: Path) -> None:
    overrides = [f"experiment={name}", *SMALL]
    model = compose(overrides).config.model
    if model.pretrained and not local_weights(model.pretrained, model.packages):
        # What it changes is still run, on a small model of that architecture, without a download.
        small = "model.build={vocab_size:300,hidden_size:16,layers:2,heads:2}"
        overrides += ["model.pretrained=null", small]
    train_fold(compose(overrides))
