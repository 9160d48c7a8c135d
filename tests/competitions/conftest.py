"""Fixtures of the training tests: where runs go, and one real training that many tests read."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from tests.competitions.launching import artifacts, launch, only_run

_BESIDE = Path(__file__).parents[3] / "shared/data/tweet-sentiment-extraction"
"""Where the competition's files lie beside a checkout, where somebody has put them there."""

# Models this small train no faster on more threads, and much slower where tests share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"


@dataclass
class Training:
    """A run that has been trained."""

    cwd: Path
    run_id: str
    output: str

    @property
    def artifacts(self) -> Path:
        return artifacts(self.cwd, self.run_id)


@pytest.fixture(scope="package", autouse=True)
def file_store() -> Iterator[None]:
    """These tests need no bucket: they log to MLflow's file store, which has to be allowed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        # So MLflow's thread, which logs what the Trainer's callback hands it, waits in a way that
        # can be ended: else it takes a second for each flush, and another one for each run.
        patch.setenv("MLFLOW_ASYNC_LOGGING_BUFFERING_SECONDS", "1")
        yield


@pytest.fixture
def tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the runs of this process go to; its own working directory, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    return tmp_path


@pytest.fixture(scope="package")
def trained(file_store: None, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """The tiny model on the sample as by default, for half as long, launched as MLflow does."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # whichever worker comes first trains it for all
    cwd, output = folder / "trained", folder / "trained.txt"
    with FileLock(folder / "trained.lock"):
        if not output.exists():
            cwd.mkdir()
            parameters = ["task=tweet_sentiment", "model=tiny", "trainer=default", "fold=0"]
            often = {"MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "1"}
            done = launch(
                "train", *parameters, "--overrides", "trainer.epochs=10", cwd=cwd, **often
            )
            assert done.returncode == 0, done.stderr
            output.write_text(done.stdout)
    return Training(cwd, only_run(cwd), output.read_text())


@pytest.fixture(scope="session")
def tweets() -> str:
    """The folder with the competition's own files."""
    folder = os.environ.get("KAGGLEOPS_TWEETS") or (str(_BESIDE) if _BESIDE.is_dir() else "")
    if not folder:
        pytest.skip("KAGGLEOPS_TWEETS does not name the folder of the competition's files")
    return folder
