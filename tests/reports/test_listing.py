"""The list of runs: what it says of each, and that it fits."""

import random
from typing import Any

import pytest
from rich.cells import cell_len

from kaggleops.cli.output import table
from kaggleops.layout import run as run_of
from kaggleops.mlruns.liveness import RunState
from kaggleops.reports import listing
from kaggleops.reports.listing import Platform, ago, duration

NOW = 1_800_000_000_000
MINUTE = 60_000
COMMIT = {"git_commit": "3f2a91c0de", "git_subject": "Try more"}


def state(status: str = "RUNNING", **more: Any) -> RunState:
    known: dict[str, Any] = {"name": "sassy-fox-12", "began_ms": NOW - 10 * MINUTE, **more}
    return RunState(run_of("1", f"{known.pop('number', 7):032x}"), status, NOW, **known)


def row(of: RunState, platform: Platform | None = None, sweep: str = "") -> dict[str, Any]:
    return listing.row(of, platform, sweep, NOW)


def test_how_long_it_still_takes_is_told_by_its_steps_or_epochs() -> None:
    half = state(step=50, params={"trainer.max_steps": "100"})
    assert (row(half)["step"], row(half)["seconds_left"]) == (50, 600)
    epoch = state(step=812, params={"epochs": "4"}, metrics={"epoch": 1.0})
    assert row(epoch)["seconds_left"] == 1800
    # Which of them a step is, nobody says.
    for told in ({"epochs": "4"}, {"max_steps": "nan"}, {"max_steps": "10"}, {"max_steps": "x"}):
        assert row(state(step=50, params=told))["seconds_left"] is None
    assert row(state("FINISHED", step=50, params={"max_steps": "100"}))["seconds_left"] is None


def test_a_submitted_run_takes_its_time_from_when_a_machine_began_it() -> None:
    tags = {"began": "2027-01-15T07:59:00+00:00"}  # a minute before
    assert row(state(began_ms=NOW - 600 * MINUTE, tags=tags))["seconds"] == 60
    assert row(state(tags={"began": "nonsense"}))["seconds"] == 600
    assert row(state("SCHEDULED"))["seconds"] is None
    assert row(state("FINISHED", ended_ms=NOW - 9 * MINUTE))["seconds"] == 60


def test_the_score_is_the_declared_one_or_what_looks_like_one() -> None:
    metrics = {"lr": 0.1, "rmse": 0.25, "r2": 0.5}
    assert row(state(metrics={"lr": 0.1}))["score"] is None
    declared = row(state(metrics=metrics, tags={"kaggleops.score": "rmse"}))["score"]
    assert declared == {"metric": "rmse", "value": 0.25, "lower": True}
    folds = {"fold_0_auc": 0.5, "fold_1_auc": 0.75}
    assert row(state(metrics=folds))["score"] == {"metric": "auc", "value": 0.625, "lower": False}
    steps = {"fold_auc": 0.75, "auc": 0.625}  # the last fold's, and the mean of all
    told = {"metric": "fold_auc", "value": 0.625, "lower": False}
    assert row(state(metrics=steps))["score"] == told


@pytest.mark.parametrize(
    ("tags", "params", "said"),
    [
        ({"settings": "fold=0 lr=3"}, {"fold": "0", "overrides": "lr=3"}, "fold=0 lr=3"),
        ({}, {"fold": "2", "seed": "7", "overrides": "lr=3"}, "fold=2 seed=7 lr=3"),
        ({"sweep_trial": "4", "sweep_point": '{"lr": "0.1"}'}, {}, "trial 4 lr=0.1"),
        ({"mlflow.project.entryPoint": "gather"}, {}, "gather"),
        ({}, {}, ""),
    ],
)
def test_what_was_set_is_told(tags: dict[str, str], params: dict[str, str], said: str) -> None:
    assert row(state(tags=tags, params=params))["settings"] == said


def test_a_metric_that_is_shortened_shows_it() -> None:
    both = [row(state(metrics={"best_val_acc": 0.5})), row(state(metrics={"f1": 0.25}))]
    said = "\n".join(printed(both, 200))
    assert "best_val_… 0.5" in said
    assert "f1 0.25" in said


def test_a_run_of_uncommitted_changes_is_not_shown_as_its_commits() -> None:
    tags = COMMIT | {"settings": "lr=3", "uncommitted": "see uncommitted.patch"}
    changed, plain = row(state(tags=tags)), row(state(tags=COMMIT))
    assert (changed["uncommitted"], plain["uncommitted"]) == (True, False)
    for width in (79, 200):
        said = "\n".join(printed([changed, plain], width))
        assert said.count("uncommitted changes, lr=3") == said.count("uncommitted") == 1


@pytest.mark.parametrize(
    ("status", "tags", "said"),
    [
        ("FAILED", {"failure": "KeyError: 'x' (exit code 1)", "job_ended": "ERROR"}, "KeyError"),
        ("FAILED", {"job_ended": "CANCEL_ACKNOWLEDGED: time was up"}, "time was up"),
        ("KILLED", {"cancelled": "2026-11-30 10:11 UTC"}, "cancelled 2026-11-30 10:11 UTC"),
        ("LOST", {}, "kaggleops resume"),
        ("FINISHED", {"failure": "of the leg before"}, ""),
    ],
)
def test_why_it_failed_is_told(status: str, tags: dict[str, str], said: str) -> None:
    assert said in row(state(status, tags=tags))["failure"]
    assert bool(said) == bool(row(state(status, tags=tags))["failure"])


def test_what_a_platform_says_settles_the_status() -> None:
    ended = row(state(), Platform("ERROR: no GPU", "FAILED"))
    assert (ended["status"], ended["platform"]) == ("FAILED", "ERROR: no GPU")


def test_why_a_job_ended_is_told_once() -> None:
    said = "failed: no GPU"
    told = row(state("FAILED", tags={"job_ended": said}), Platform(said, "FAILED"))
    assert " ".join(printed([told], 120)).count(said) == 1


def test_a_time_is_read_at_a_glance() -> None:
    assert [duration(each) for each in (12, 723, 4323)] == ["0:12", "12:03", "1:12:03"]
    assert [ago(each) for each in (59, 180, 7200, 3 * 86_400)] == ["59 s", "3 min", "2 h", "3 d"]


def printed(rows: list[dict[str, Any]], width: int | None) -> list[str]:
    head, cells, below, least = listing.table(rows, width)
    text = table(head, cells, {}, left=True, below=below, least=least, width=width)
    return text.plain.strip("\n").split("\n")


TEXTS = ("x" * 90, "世界" * 30, "short", "", "👩‍👩‍👧 family " * 8, "a\x1b[31mb\tc", "é" * 50)


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal_whatever_stands_in_it(width: int) -> None:
    drawn = random.Random(width)
    rows = []
    for number in range(60):
        tags = {
            name: drawn.choice(TEXTS)
            for name in ("git_subject", "settings", "backend", "accelerator", "failure", "cost_usd")
        }
        status = drawn.choice(["RUNNING", "FINISHED", "FAILED", "LOST", "SCHEDULED"])
        made = state(
            status,
            number=number << 100,
            name=drawn.choice(TEXTS),
            tags={**COMMIT, **tags},
            metrics={drawn.choice(["auc", "validation_mean_average_precision"]): 0.123456789},
            step=drawn.choice([None, 7, 1_234_567]),
        )
        rows.append(row(made, Platform(drawn.choice(["RUNNING", "ERROR: " + "y" * 99]))))
    lines = printed(rows, width)
    assert max(map(cell_len, lines)) <= width
    assert all(each["run_id"][:8] in "\n".join(lines) for each in rows if each["name"] == "short")


def test_what_can_be_typed_is_never_cut_and_nothing_is_lost_where_it_is_narrow() -> None:
    long = "enthusiastic-shrimp-123"
    tags = {**COMMIT, "settings": "fold=0 model=minilm", "backend": "kaggle"}
    made = row(state(name=long, number=0x3F2A << 112, tags=tags, metrics={"auc": 0.71342}))
    text = "\n".join(printed([made], 80))
    for each in (long, "auc", "0.7134", "3f2a91c0 Try more", "fold=0 model=minilm"):
        assert each in text
    assert made["run_id"][:8] in "\n".join(printed([made], 60))
    assert long in "\n".join(printed([made], None))
    # A name of two runs names neither.
    both = [made, row(state(name=long, number=1 << 120, tags=tags))]
    assert all(each["run_id"][:8] in "\n".join(printed(both, 200)) for each in both)
