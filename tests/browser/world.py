"""What a small team has in its bucket: two commits, each run on three backends, one still going."""

import struct
import tempfile
import zlib
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from kaggleops.bucket import open_bucket
from kaggleops.bucket.location import bucket_uri
from kaggleops.campaign.parents import keep
from kaggleops.campaign.state import SweepState
from kaggleops.campaign.sweep import Job, Sweep, Trial
from kaggleops.mlruns import ui
from kaggleops.reports.outcome import tell_outcome
from kaggleops.tags import BRANCH, COMMIT, FOLD, NOTE, PARENT, PREVIOUS, SUBJECT

COMMITS = {"1f0c2d7a": "Learn faster", "9b3e5a41": "Clean the tweets"}
BACKENDS = ("local", "kaggle", "colab")
_STEPS = 20
_START_MS = 1_790_000_000_000


class World:
    """The bucket, and what is in it.

    Args:
        uri: the tracking URI of an empty bucket.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.client = MlflowClient(uri)
        self.folds = self.client.create_experiment("folds")
        self._fold_set()
        self.other = self.client.create_experiment("other")
        tags = {"backend": "local", "accelerator": "none", "git_commit": "5d2e"}
        tags["commit"] = "5d2e First"
        self._of_other = self.client.create_run(self.other, tags=tags).info.run_id
        self.experiment = self.client.create_experiment("tweet_sentiment")  # the one used last
        self._scores = {
            f"{backend}-{commit[:4]}": 0.55 + 0.05 * at + 0.02 * version
            for version, commit in enumerate(COMMITS)
            for at, backend in enumerate(BACKENDS)
        }
        self.runs = {
            f"{backend}-{commit[:4]}": self._run(f"{backend}-{commit[:4]}", backend, commit)
            for commit in COMMITS
            for backend in BACKENDS
        }
        for run_id in self.runs.values():
            self.client.set_terminated(run_id)
        self._describe("kaggle-9b3e", "kaggle-1f0c")
        self.live = self._run("live", "kaggle", list(COMMITS)[1], steps=3)

    def _fold_set(self) -> None:
        """Add the parent of a sweep over two folds, as their watcher leaves it."""
        parent = self.client.create_run(self.folds, run_name="fold set").info.run_id
        scores = (0.5, 0.75)
        jobs = []
        for fold, score in enumerate(scores):
            tags = {PARENT: parent, FOLD: str(fold)}
            run_id = self.client.create_run(self.folds, run_name=f"fold {fold}", tags=tags)
            jobs.append(Job(run_id.info.run_id, 0, {}, str(fold), "FINISHED", {}, {"acc": score}))
            self.client.log_metric(jobs[-1].run_id, "acc", score)
            self.client.log_text(jobs[-1].run_id, f"id,acc\n{fold},{score}\n", "oof.csv")
            self.client.set_terminated(jobs[-1].run_id)
        sweep = Sweep(["fold=0,1"], fold_axis="fold", folds=["0", "1"])
        trials = [Trial(0, parent, {}, jobs, status="FINISHED")]
        state = SweepState(parent, self.folds, "fold set", sweep, trials)
        assert keep(state, self.client, open_bucket(bucket_uri(self.uri))) == [parent]

    def _describe(self, name: str, before: str) -> None:
        """Describe a run as `kaggleops run` does, since another one, and what it came to."""
        run, other = (self.client.get_run(self.runs[each]) for each in (name, before))
        there = ui.Before(other.info.run_id, other.data.tags)
        where = self.experiment, run.info.run_id
        note = ui.described(run.data.tags, ui.since(run.data.tags, *where, there))
        self.client.set_tag(run.info.run_id, NOTE, note)
        self.client.set_tag(run.info.run_id, PREVIOUS, other.info.run_id)
        tell_outcome(self.uri, self.client.get_run(run.info.run_id))

    def score(self, name: str) -> float:
        """Return what a run's metric comes to."""
        return self._scores.get(name, 0.6)

    def _run(self, name: str, backend: str, commit: str, steps: int = _STEPS) -> str:
        title = f"{commit} {COMMITS[commit]}"
        tags = {"backend": backend, "git_commit": commit, "commit": title, "accelerator": "none"}
        tags |= {COMMIT: commit * 5, BRANCH: "main", SUBJECT: COMMITS[commit]}
        run_id = self.client.create_run(self.experiment, run_name=name, tags=tags).info.run_id
        params = [
            Param("model", "tiny"),
            Param("lr", str(0.003 * (1 + list(COMMITS).index(commit)))),
        ]
        self.client.log_batch(run_id, points(range(steps), self.score(name)), params, [])
        self.client.log_text(run_id, "precision of what the model says", "report.txt")
        self.client.log_text(run_id, "tweet,label\nso good,positive\n", "tweets.csv")
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "confusion.png").write_bytes(picture())
            self.client.log_artifacts(run_id, folder)
        return run_id

    def log_other(self, metric: str) -> None:
        """Log a metric that no run of the other experiment had."""
        self.client.log_metric(self._of_other, metric, 0.5)

    def goes_on(self, steps: range) -> None:
        """Let the live run log more."""
        self.client.log_batch(self.live, points(steps, self.score("live")))


def points(steps: range, score: float) -> list[Metric]:
    """Return the points of a metric that approaches a score."""
    return [
        Metric("jaccard", score * (1 - 0.7**step), _START_MS + 1000 * step, step) for step in steps
    ]


def picture(width: int = 64, height: int = 48) -> bytes:
    """Return a PNG with a gradient."""
    rows = b"".join(
        b"\0" + bytes(value for x in range(width) for value in (4 * x % 256, 5 * y % 256, 128))
        for y in range(height)
    )

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
