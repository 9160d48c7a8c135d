"""What a small team has in its bucket: two commits, each run on three backends, one still going."""

import struct
import tempfile
import zlib
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

COMMITS = ("1f0c2d7a", "9b3e5a41")
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
        self.experiment = self.client.create_experiment("tweet_sentiment")
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
        self.live = self._run("live", "kaggle", COMMITS[1], steps=3)

    def score(self, name: str) -> float:
        """Return what a run's metric comes to."""
        return self._scores.get(name, 0.6)

    def _run(self, name: str, backend: str, commit: str, steps: int = _STEPS) -> str:
        tags = {"backend": backend, "git_commit": commit}
        run_id = self.client.create_run(self.experiment, run_name=name, tags=tags).info.run_id
        params = [Param("model", "tiny"), Param("lr", str(0.003 * (1 + COMMITS.index(commit))))]
        self.client.log_batch(run_id, points(range(steps), self.score(name)), params, [])
        self.client.log_text(run_id, "precision of what the model says", "report.txt")
        self.client.log_text(run_id, "tweet,label\nso good,positive\n", "tweets.csv")
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "confusion.png").write_bytes(picture())
            self.client.log_artifacts(run_id, folder)
        return run_id

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
