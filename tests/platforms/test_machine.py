"""Which platform a process finds itself on, and what a machine's settings say."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from kaggleops.platforms import Platform, detect
from kaggleops.platforms.settings import default_bucket


def at(root: Path, *folders: str, **environ: str) -> Platform:
    for folder in folders:
        (root / folder).mkdir(parents=True)
    return detect({"KAGGLEOPS_ROOT": str(root), "PATH": "", **environ})


def test_kaggle_although_its_image_is_colabs(tmp_path: Path) -> None:
    found = at(
        tmp_path, "kaggle/working", KAGGLE_KERNEL_RUN_TYPE="Batch", COLAB_RELEASE_TAG="release"
    )
    assert found.name == "kaggle"
    assert found.folder == tmp_path / "kaggle/working"
    assert found.inputs == tmp_path / "kaggle/input"
    assert found.session_hours == 12


def test_the_image_of_kaggle_on_somebodys_machine(tmp_path: Path) -> None:
    found = at(tmp_path, "kaggle/working", COLAB_RELEASE_TAG="release")
    assert found.name == "kaggle-image"
    assert found.session_hours is None


def test_colab(tmp_path: Path) -> None:
    found = at(tmp_path, "content", COLAB_RELEASE_TAG="release-colab_20260819")
    assert (found.name, found.folder) == ("colab", tmp_path / "content")
    assert found.inputs is None


def test_runpod(tmp_path: Path) -> None:
    found = at(tmp_path, "workspace", RUNPOD_POD_ID="abc")
    assert (found.name, found.folder, found.session_hours) == (
        "runpod",
        tmp_path / "workspace",
        None,
    )


def test_when_a_session_ends_is_what_started_the_machine_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAGGLEOPS_SESSION_ENDS", str(time.time() + 3600))
    for environ in ({"RUNPOD_POD_ID": "abc"}, {"COLAB_RELEASE_TAG": "release"}):
        assert at(tmp_path, **environ).describe().endswith(" · session ends in 1.0 h")


def test_anywhere_else(tmp_path: Path) -> None:
    found = at(tmp_path)
    assert (found.name, found.accelerator, found.folder) == ("local", "", Path.cwd())
    line = found.describe()
    assert "no GPU" in line
    assert found.python in line


@pytest.mark.parametrize(
    ("printed", "code", "accelerator"),
    [
        ("Tesla T4", 0, "Tesla T4"),
        ("Tesla T4\nTesla T4", 0, "2x Tesla T4"),
        ("NVIDIA-SMI has failed", 9, ""),
    ],
)
def test_the_gpus_are_those_that_the_driver_shows(
    tmp_path: Path, printed: str, code: int, accelerator: str
) -> None:
    program = tmp_path / "bin/nvidia-smi"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho '{printed}'\nexit {code}\n")
    program.chmod(0o755)
    assert at(tmp_path, PATH=str(program.parent)).accelerator == accelerator


def test_a_tpu(tmp_path: Path) -> None:
    found = at(tmp_path, KAGGLE_KERNEL_RUN_TYPE="Batch", TPU_ACCELERATOR_TYPE="v5e-8")
    assert (found.accelerator, found.session_hours) == ("TPU v5e-8", 9)


def test_a_working_directory_that_is_gone_stops_nobody(tmp_path: Path) -> None:
    script = (
        "import os; os.rmdir(os.getcwd());"
        "from kaggleops.platforms import detect; detect().describe()"
    )
    (tmp_path / "gone").mkdir()
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path / "gone", check=True)


def test_it_imports_nothing_heavy() -> None:
    script = (
        "import sys, kaggleops.platforms; print({'torch', 'mlflow', 'yaml'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("lines", "address"),
    [
        ("bucket: s3://runs", "s3://runs"),
        ("bucket: s3://runs\nendpoint: http://nas:9000", "s3+http://runs@nas:9000"),
        ("bucket: s3://runs/p\nregion: eu-west-3", "s3://runs@s3.eu-west-3.amazonaws.com/p"),
        ("bucket: gs://runs\nregion: us-central1", "gs://runs"),
    ],
)
def test_the_bucket_of_a_machines_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: str, address: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "config").mkdir()
    (tmp_path / "config/local.yaml").write_text(lines)
    (tmp_path / "below").mkdir()
    assert default_bucket(tmp_path / "below") == address
