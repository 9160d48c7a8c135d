"""The job of `kaggleops doctor --try`: notes what its machine is like, and ends with exit code 0.

It prints, logs a metric before and after it has been seen from outside (an object in its bucket,
or so many seconds), and leaves one file on the platform. What it notes holds no variable's value.
"""

import json
import os
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mlflow

import kaggleops
from kaggleops.bucket import open_bucket
from kaggleops.bucket.kaggle_hook import storage_library
from kaggleops.bucket.location import bucket_uri
from kaggleops.platforms import detect

MODULES = ("kaggle_secrets", "papermill")
OWN = ("KAGGLE_", "COLAB_", "RUNPOD_", "TPU_")


def is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def mounts(folder: Path) -> list[str]:
    found: list[str] = []
    for depth in ("*", "*/*", "*/*/*", "*/*/*/*"):
        found += [str(each.relative_to(folder)) for each in sorted(folder.glob(depth))[:50]]
    return found


def noted() -> dict[str, Any]:
    here = detect()
    began, took = time.monotonic(), None
    with suppress(ImportError):
        storage_library()
        took = round(time.monotonic() - began, 1)
    return {
        "python": here.python,
        "accelerator": here.accelerator,
        "folder": str(here.folder),
        "folder_writable": os.access(here.folder, os.W_OK),
        "inputs": None if here.inputs is None else mounts(here.inputs),
        "seconds_left": kaggleops.time_left(),
        "variables": sorted(name for name in os.environ if name.startswith(OWN)),
        "modules": {name: is_there(name) for name in MODULES},
        "storage_import_seconds": took,
    }


def wait_to_be_seen(seconds: float) -> None:
    bucket = open_bucket(bucket_uri(mlflow.get_tracking_uri()), patience=30)
    until = time.monotonic() + seconds
    while time.monotonic() < until and bucket.stat("seen") is None:
        time.sleep(0.5)


if __name__ == "__main__":
    with mlflow.start_run():
        print("first contact: the job begins", flush=True)
        print("first contact: a line of errors", file=sys.stderr, flush=True)
        found = noted()
        mlflow.log_metric("contact", 1.0, step=0)
        mlflow.log_text(json.dumps(found, indent=2), "contact.json")
        wait_to_be_seen(float(sys.argv[1]))
        mlflow.log_metric("contact", 2.0, step=1)
        folder = Path(found["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "first-contact.txt").write_text("left by the job\n")
        print("first contact: the job ends", flush=True)
