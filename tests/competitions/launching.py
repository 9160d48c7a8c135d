"""Starting the entry points as MLflow does, and reading what they logged."""

import os
import subprocess
import sys
from pathlib import Path

from mlflow.tracking import MlflowClient

from tests.warm import stand_in

ROOT = Path(__file__).resolve().parents[2]


def environment(tracking: Path) -> dict[str, str]:
    """The environment of a process that logs to the folder `tracking`, from this clone's code."""
    return os.environ | {
        **stand_in("training"),
        "MLFLOW_TRACKING_URI": tracking.as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def launch(
    entry_point: str, *arguments: str, cwd: Path, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run `python -m competitions.ENTRY_POINT` in `cwd`, which is where its runs go too."""
    return subprocess.run(
        [sys.executable, "-m", f"competitions.{entry_point}", *arguments],
        cwd=cwd,
        env=environment(cwd / "mlruns") | more,
        capture_output=True,
        text=True,
        check=False,
    )


def client(cwd: Path) -> MlflowClient:
    """A client of the runs in `cwd`."""
    return MlflowClient((cwd / "mlruns").as_uri())


def artifacts(cwd: Path, run_id: str) -> Path:
    """The artifacts of a run in `cwd`."""
    return cwd / "mlruns" / "0" / run_id / "artifacts"


def only_run(cwd: Path) -> str:
    """The id of the one run in `cwd`."""
    (run,) = client(cwd).search_runs(["0"])
    return str(run.info.run_id)
