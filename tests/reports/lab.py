"""A history of commits, and the runs that were made of them."""

from pathlib import Path

import mlflow
from mlflow import MlflowClient

from tests.fakes.git_server import Repository

EXPERIMENT = "tweets"


class Lab:
    """A repository with a merge and a renamed file, and a bucket with runs of its commits.

    base: folds 0 to 2. better: the same folds, higher, with other settings, on a branch. empty: a
    commit without runs. merged: main after the merge. worse: after it, the folds lower.
    """

    def __init__(self, folder: Path) -> None:
        self.repository = Repository(folder / "code")
        self.bucket = folder / "bucket"
        self.tracking_uri = f"bucket+file://{self.bucket}/mlruns"
        self._client = MlflowClient(self.tracking_uri)
        self._clock = 1_700_000_000_000
        repository = self.repository
        repository.write(src__train_py="lr = 0.1\n", docs__page="words\n", old_name_py="a\n" * 20)
        self.base = repository.commit("Train")
        repository.git("switch", "--quiet", "--create", "idea")
        repository.write(src__train_py="lr = 0.2\n", docs__page="more words\n")
        self.better = repository.commit("Learn faster")
        repository.git("switch", "--quiet", "main")
        (repository.folder / "old_name.py").rename(repository.folder / "new_name.py")
        self.empty = repository.commit("Rename a file")
        repository.git("merge", "--quiet", "--no-ff", "--message", "Merge idea", "idea")
        self.merged = repository.git("rev-parse", "HEAD")
        repository.write(src__train_py="lr = 9\n")
        self.worse = repository.commit("Learn much faster")
        repository.git("tag", "v1", self.base)
        mlflow.set_tracking_uri(self.tracking_uri)
        self.runs: dict[str, list[str]] = {}
        for commit, lr, scores in (
            (self.base, "0.1", (0.60, 0.62, 0.64)),
            (self.better, "0.2", (0.65, 0.66, 0.69)),
            (self.worse, "9", (0.40, 0.43, 0.44)),
        ):
            self.runs[commit] = [
                self.log(commit, f"{commit[:4]}-{fold}", {"lr": lr, "fold": str(fold)}, score)
                for fold, score in enumerate(scores)
            ]

    def log(
        self,
        commit: str,
        name: str,
        params: dict[str, str],
        score: float,
        *,
        experiment: str = EXPERIMENT,
        status: str = "FINISHED",
        **tags: str,
    ) -> str:
        """Log a run of a commit, and return its id."""
        found = self._client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else self._client.create_experiment(experiment)
        self._clock += 60_000
        tags = {"mlflow.source.git.commit": commit, "mlflow.runName": name, **tags}
        run = self._client.create_run(number, start_time=self._clock, tags=tags)
        run_id: str = run.info.run_id
        for key, value in {"task": experiment, "seed": "1", **params}.items():
            self._client.log_param(run_id, key, value)
        for step in range(3):
            self._client.log_metric(run_id, "loss", 1 / (1 + step), self._clock + step, step)
        self._client.log_metric(run_id, "jaccard", score)
        self._client.set_terminated(run_id, status, self._clock + 1000)
        return run_id

    def log_rows(self, run_id: str, scores: dict[str, float]) -> None:
        """Leave the scores of rows beside a run."""
        lines = "".join(f"{row},{score}\n" for row, score in scores.items())
        self._client.log_text(run_id, f"id,jaccard\n{lines}", "oof.csv")
