"""What users log with MLflow works with one variable set, and another machine reads it all."""

import os
import subprocess
import sys
from pathlib import Path

from tests.buckets import ON_SERVICES
from tests.fakes.gcs_server import GcsServer
from tests.warm import stand_in

CHECKOUT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parent / "flavors"


def play(script: str, tracking_uri: str, folder: Path) -> None:
    """Run a user's script, first the half that logs, then on another machine the one that reads."""
    said = ""
    for part in ("log", "read"):
        machine = folder / part
        machine.mkdir()
        environment = {
            **os.environ,
            **(stand_in("training") if script == "models" else {}),
            "MLFLOW_TRACKING_URI": tracking_uri,
            "KAGGLEOPS_HOME": str(machine / "home"),
            "HF_HUB_OFFLINE": "1",
        }
        done = subprocess.run(
            [sys.executable, SCRIPTS / f"{script}.py", part],
            env=environment,
            cwd=machine,
            capture_output=True,
            text=True,
        )
        said += done.stderr  # what the first half said may explain what the second one misses
        assert done.returncode == 0, said
        # No warning, nothing unsent; the checkout's own folder may be called so.
        assert "kaggleops" not in done.stderr.replace(str(CHECKOUT), "")
        assert "Traceback" not in done.stderr


@ON_SERVICES
def test_runs_metrics_files_datasets_and_traces(tracking_uri: str, tmp_path: Path) -> None:
    play("fluent", tracking_uri, tmp_path)


def test_models_checkpoints_autologging_and_the_registry(
    gcs_server: GcsServer, tmp_path: Path
) -> None:
    gcs_server.create_bucket("our-bucket")
    play("models", "gs://our-bucket/mlruns", tmp_path)
