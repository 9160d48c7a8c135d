"""Environments shaped like Kaggle's, Colab's, RunPod's and nobody's, under a folder of a test's.

Each returns the whole environment of a process there: its variables, and on its PYTHONPATH the
modules that only this platform has, which answer as the real ones do, errors included.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.warm import passed_on

_MODULES = Path(__file__).parent


def plain(root: Path, **more: str) -> dict[str, str]:
    """A machine like any other: nothing of this one's credentials is visible there."""
    (root / "root").mkdir(parents=True, exist_ok=True)
    kept = ("LANG", "TMPDIR", "SSL_CERT_FILE", "OMP_NUM_THREADS")
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "HOME": str(root / "root"),
        "KAGGLEOPS_ROOT": str(root),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        "DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA": "true",
        "NO_GCE_CHECK": "true",
        "AWS_EC2_METADATA_DISABLED": "true",
        **passed_on(),
        **more,
    }


def kaggle(
    root: Path, secrets: Mapping[str, str] | None = None, *, batch: bool = True, **more: str
) -> dict[str, str]:
    """Kaggle. Without `secrets` none is attached to the notebook, as none can be by the API."""
    (root / "kaggle/working").mkdir(parents=True, exist_ok=True)
    (root / "kaggle/input").mkdir(parents=True, exist_ok=True)
    (root / "secrets.json").write_text(json.dumps(dict(secrets or {})))
    return plain(
        root,
        KAGGLE_KERNEL_RUN_TYPE="Batch" if batch else "Interactive",
        KAGGLE_URL_BASE="https://www.kaggle.com",
        KAGGLE_USER_SECRETS_TOKEN="a token",
        COLAB_RELEASE_TAG="release-colab_20260819",  # its image is built on Colab's
        **passed_on(str(_MODULES / "kaggle")),
        FAKE_KAGGLE_SECRETS=str(root / "secrets.json"),
        FAKE_KAGGLE_HOOK=str(root / "hooked"),  # the command lines that the image's hook makes wait
        **more,
    )


def colab(
    root: Path, *, key: str = "", secrets: Mapping[str, str] | None = None, **more: str
) -> dict[str, str]:
    """Colab, with somebody there who signs in with `key` or has `secrets`, or with nobody."""
    (root / "content").mkdir(parents=True, exist_ok=True)
    if secrets is not None:
        (root / "secrets.json").write_text(json.dumps(dict(secrets)))
        more = {"FAKE_COLAB_SECRETS": str(root / "secrets.json"), **more}
    (root / "colab-key.json").write_text(key)
    return plain(
        root,
        COLAB_RELEASE_TAG="release-colab_20260819",
        COLAB_JUPYTER_IP="172.28.0.12",
        **passed_on(str(_MODULES / "colab")),
        FAKE_COLAB_KEY=str(root / "colab-key.json"),
        **more,
    )


def skypilot(root: Path, **more: str) -> dict[str, str]:
    """A managed job's machine; its secrets are environment variables."""
    return plain(root, SKYPILOT_TASK_ID="sky-managed-2026-11-30-00-00-00-000000_job_1-0", **more)


def runpod(root: Path, *, key: str = "", **more: str) -> dict[str, str]:
    """A pod, whose secret arrives as an environment variable."""
    (root / "workspace").mkdir(parents=True, exist_ok=True)
    return plain(
        root,
        RUNPOD_POD_ID="abc123",
        RUNPOD_DC_ID="EU-RO-1",
        RUNPOD_GPU_COUNT="1",
        **({"KAGGLEOPS_KEY": key} if key else {}),
        **more,
    )
