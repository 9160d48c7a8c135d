"""Entry point `gather`: the runs of single folds, trained anywhere, to one out-of-fold table.

    python -m competitions.gather --runs RUN_ID,RUN_ID,…

`fold=all` ends with the same. What the gathering run keeps: mean and spread of the folds' scores,
the scores of all rows together (`oof_…`), oof.csv, plots and the worst answers.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import mlflow
import pandas as pd
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT

from competitions import runs
from competitions.config import CONFIG_FILE, read_saved
from competitions.console import run_command, say, split_runs, store_explained, warn
from competitions.runs import MAY_CHANGE, OOF_FILE
from competitions.tasks import Task, load_task
from kaggleops.errors import UsageError

# What may differ between two folds of one training.
OWN = ("fold", "overrides", "trainer.devices", *MAY_CHANGE)
_FINISH = "Finish it first: start its training again with MLFLOW_RUN_ID set to the run"


@click.command()
@click.option("--runs", "names", required=True, help="Run ids, separated by commas.")
@click.option(
    "--any-commit", type=bool, default=False, help="Whether folds of different code may be mixed."
)
def main(names: str, any_commit: bool) -> None:
    """Gather the folds of one training into one out-of-fold table."""
    parts = check_folds(split_runs(names, "Give the run ids of all folds"), any_commit)
    with runs.active_run():
        gather(parts)


def check_folds(run_ids: Sequence[str], any_commit: bool = False) -> list[Run]:
    """The runs of the folds of one training, by fold; with `any_commit` even of different code.

    Raises UsageError where a fold is missing, there twice, not finished, or of another training.
    """
    doing = "gathering folds"
    parts = sorted((_get_run(run_id) for run_id in run_ids), key=_fold)
    for run in parts:
        if run.info.status != "FINISHED":
            problem = f"run {run.info.run_id} of fold {_fold(run)} is {run.info.status}"
            raise UsageError(doing, problem, _FINISH)
    for run in parts[1:]:
        first, other = _comparable(parts[0]), _comparable(run)
        for key in sorted(first | other):
            if first.get(key) != other.get(key):
                problem = f"{key} is {first.get(key)} in run {parts[0].info.run_id} and "
                problem += f"{other.get(key)} in run {run.info.run_id}"
                raise UsageError(doing, problem, "Give the folds of one training")
    folds = [_fold(run) for run in parts]
    twice = sorted({fold for fold in folds if folds.count(fold) > 1})
    if twice:
        raise UsageError(doing, f"fold {twice[0]} is there twice", "Give one run for each fold")
    missing = sorted(set(range(int(parts[0].data.params["folds"]))) - set(folds))
    if missing:
        listed = ", ".join(map(str, missing))
        hint = f"Train it with the same configuration: fold={missing[0]}"
        raise UsageError(doing, f"there is no finished run of fold {listed}", hint)
    of_commits: dict[str, list[str]] = {}
    for run in parts:
        of_commits.setdefault(_commit(run) or "an unknown commit", []).append(str(_fold(run)))
    if len(of_commits) > 1:
        listed = "; ".join(f"{name}: fold {', '.join(folds)}" for name, folds in of_commits.items())
        problem = f"the folds are of different code ({listed})"
        if not any_commit:
            raise UsageError(doing, problem, "To mix them all the same: --any-commit true")
        warn(problem)
    return parts


def gather(parts: Sequence[Run]) -> dict[str, float]:
    """Log to the active run what the folds bring together; return mean, spread and all scores."""
    with TemporaryDirectory(prefix="gathering-") as scratch:
        read = [_read_part(run, Path(scratch)) for run in parts]
        task = read[0][0]
        table = pd.concat([part for _, part in read], ignore_index=True)
        of_folds = pd.Series([task.scores(part)[task.score_name] for _, part in read])
        scores = {
            f"{task.score_name}_mean": float(of_folds.mean()),
            f"{task.score_name}_std": float(of_folds.std()),
            **{f"oof_{name}": value for name, value in task.scores(table).items()},
        }
        mlflow.log_metrics(scores)
        folder = Path(scratch) / "outputs"
        folder.mkdir()
        table.to_csv(folder / OOF_FILE, index=False)
        for name, figure in task.plots(table).items():
            figure.savefig(folder / name)
        runs.log_worst(task, table)
        runs.log_outputs(folder)
    say(f"{len(parts)} folds, {len(table):,} rows: {runs.listed(scores)}")
    return scores


def _read_part(run: Run, folder: Path) -> tuple[Task, pd.DataFrame]:
    run_id = run.info.run_id
    place = folder / run_id
    place.mkdir()
    with store_explained(f"reading the results of run {run_id}"):
        for name in (OOF_FILE, CONFIG_FILE):
            mlflow.artifacts.download_artifacts(
                run_id=run_id, artifact_path=name, dst_path=str(place)
            )
    task = load_task(read_saved(place / CONFIG_FILE).task)
    table = pd.read_csv(place / OOF_FILE, dtype=str, keep_default_na=False)
    return task, table.astype({"prediction": task.answer_type, task.row_score: float})


def _get_run(run_id: str) -> Run:
    with store_explained(f"reading run {run_id}", "Check the run id and MLFLOW_TRACKING_URI"):
        return mlflow.get_run(run_id)


def _fold(run: Run) -> int:
    fold = run.data.params.get("fold", "")
    if not fold.isdigit():
        problem = f"it is no run of one fold (fold={fold or 'none'})"
        raise UsageError(f"gathering run {run.info.run_id}", problem, "Give runs of single folds")
    return int(fold)


def _commit(run: Run) -> str:
    return (run.data.tags.get(MLFLOW_GIT_COMMIT) or run.data.tags.get("git_commit") or "")[:10]


def _comparable(run: Run) -> dict[str, str]:
    return {key: value for key, value in run.data.params.items() if key not in OWN}


if __name__ == "__main__":
    run_command(main)
