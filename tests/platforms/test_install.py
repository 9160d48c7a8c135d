"""Installing the core where Colab's packages are: none of them changes."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.conftest import unavailable

ROOT = Path(__file__).parents[2]
COLAB = Path(__file__).with_name("colab-gpu-freeze.txt")


def installed_on_colab() -> dict[str, str]:
    lines = [line.strip() for line in COLAB.read_text().splitlines()]
    pairs = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.12", "3.13"])
def test_nothing_that_colab_has_is_changed(python: str, tmp_path: Path) -> None:
    """Kaggle's image is built on Colab's, with Python 3.12. Needs the package registry."""
    there = installed_on_colab()
    reached = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(tmp_path)]
    if subprocess.run([*reached, "click"], capture_output=True).returncode:
        unavailable("there is no package registry")
    core = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"),
            *("--quiet", "--report", "-", "--target", str(tmp_path), "-c", str(COLAB)),
            *("--only-binary", ":all:"),
            *("--python-version", python, *core),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    needed = {
        canonicalize_name(each["metadata"]["name"]): each["metadata"]["version"]
        for each in json.loads(done.stdout)["install"]
    }
    changed = {name for name in needed.keys() & there.keys() if needed[name] != there[name]}
    assert changed == set()
    added = needed.keys() - there.keys()
    assert "mlflow-skinny" in added
    assert not added & {"mlflow", "torch", "numpy", "pandas"}
    assert len(added) <= 12, added  # eight when this was written
