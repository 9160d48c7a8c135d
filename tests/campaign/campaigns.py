"""Made-up sweeps of any size, as the page gets them."""

import math
import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from kaggleops import tags
from kaggleops.backends.interface import Offer
from kaggleops.campaign.money import opened
from kaggleops.campaign.state import SweepState
from kaggleops.campaign.sweep import Job, Sweep, Trial, fold_id, trial_id

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
_NOW_MS = int(NOW.timestamp() * 1000)
_MINUTE = 60_000


def search(
    count: int, *, name: str = "lr-and-model", folds: int = 1, ended: bool = False, seed: int = 0
) -> SweepState:
    """Return a search of so many trials, most of them over, some running, some waiting."""
    chance = random.Random(seed)
    sweep_id = f"{seed:02d}" * 16
    sweep = Sweep(
        axes=[
            "trainer.learning_rate=tag(log, interval(1e-6, 1e-3))",
            "model=minilm,roberta-squad2,deberta-v3-small",
            "trainer.weight_decay=interval(0, 0.3)",
            "trainer.batch_size=8,16,32,64",
            *(["fold=0,1,2,3,4"] if folds > 1 else []),
        ],
        fold_axis="fold" if folds > 1 else "",
        folds=[str(fold) for fold in range(folds)] if folds > 1 else [],
        sampler="tpe",
        trials=count,
        metrics=["jaccard"],
        directions=["maximize"],
        pruner="median",
        backends=["auto"],
        budget=5.0,
    )
    trials = []
    for number in range(count):
        rate = 10 ** chance.uniform(-6, -3)
        model = chance.choice(["minilm", "roberta-squad2", "deberta-v3-small"])
        point = {
            "trainer.learning_rate": f"{rate:.3g}",
            "model": model,
            "trainer.weight_decay": f"{chance.uniform(0, 0.3):.3f}",
            "trainer.batch_size": chance.choice(["8", "16", "32", "64"]),
        }
        good = 0.72 - 0.04 * (math.log10(rate) + 4.5) ** 2 + 0.02 * (model == "roberta-squad2")
        score = good + chance.gauss(0, 0.008)
        left = count - number
        if ended or left > max(3, count // 6):
            status = chance.choices(["FINISHED", "PRUNED", "FAILED"], [80, 15, 5])[0]
        elif left > max(1, count // 20):
            status = "RUNNING"
        else:
            status = "SCHEDULED"
        trials.append(_trial(sweep_id, number, point, score, status, folds, chance))
    status = "FINISHED" if ended else "RUNNING"
    told = {tags.TOLD: "Waits for Kaggle's quota of GPU hours until Sat 00:00 UTC"}
    begun = min((job.begun_ms for each in trials for job in each.jobs if job.begun_ms), default=1)
    return SweepState(sweep_id, "1", name, sweep, trials, status, told, begun)


def _trial(
    sweep_id: str,
    number: int,
    point: Mapping[str, str],
    score: float,
    status: str,
    folds: int,
    chance: random.Random,
) -> Trial:
    steps = {"RUNNING": 12, "PRUNED": 6, "FINISHED": 24, "FAILED": 3}.get(status, 0)
    reports = [
        (50 * step, score * (1 - 0.75 ** (step + 1)) + chance.gauss(0, 0.003))
        for step in range(steps)
    ]
    begun = _NOW_MS - 47 * _MINUTE if status == "RUNNING" else _NOW_MS - (3000 - number) * _MINUTE
    where, accelerator = chance.choice(
        [("kaggle", "T4 x2"), ("colab", "T4"), ("runpod", "RTX A5000"), ("local", "RTX 4090")]
    )
    own = trial_id(sweep_id, number)
    jobs = []
    for fold in range(folds):
        told = {}
        if status == "SCHEDULED":
            told = {tags.DECISION: "kaggle has no free hours left: waits until Sat 00:00 UTC"}
        else:
            told = {tags.SUBMITTED_TO: where, tags.ACCELERATOR: accelerator}
            if where == "runpod":
                told |= opened({}, 0.27, 2.0, NOW - timedelta(minutes=47))
        if status == "FAILED":
            told[tags.JOB_ENDED] = "torch.OutOfMemoryError: CUDA out of memory: tried 2.4 GB"
        if status == "PRUNED":
            told[tags.PRUNED] = "0.41 at step 300, worse than the median of 0.63"
        jobs.append(
            Job(
                fold_id(own, str(fold)) if folds > 1 else own,
                number,
                point,
                str(fold) if folds > 1 else "",
                "KILLED" if status == "PRUNED" else status,
                told,
                {"jaccard": score + 0.006 * (fold - folds // 2)} if steps else {},
                0 if status == "SCHEDULED" else begun,
                begun + 70 * _MINUTE if status in ("FINISHED", "PRUNED", "FAILED") else None,
            )
        )
    values = [score] if status == "FINISHED" else None
    return Trial(number, own, point, jobs, values, status, reports)


_WEEK = NOW + timedelta(days=4, hours=12)
OFFERS = [
    Offer("kaggle", 2, hours=7.4, total_hours=30.0, refreshes=_WEEK, accelerator="GPU"),
    Offer("colab", 0, problem="no session is free: one runs"),
    Offer("runpod", 2, 0.27, accelerator="RTX A5000"),
    Offer("local", 1, accelerator="RTX 4090"),
]
