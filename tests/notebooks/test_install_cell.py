"""The notebook's first cell, where KaggleOps is not installed yet and everything else is."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.packages import make_environment, write_wheel

from .execution import NOTEBOOKS

ROOT = NOTEBOOKS.parent


def install_cell(bucket: str = "") -> str:
    cells = json.loads((NOTEBOOKS / "run.ipynb").read_text())["cells"]
    cell = "".join(next(cell["source"] for cell in cells if cell["id"] == "install"))
    return f"bucket = {bucket!r}\n{cell}"


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An interpreter that has all that this one has but KaggleOps and Hydra."""
    there = tmp_path / "there"
    there.mkdir()
    for each in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not re.search("kaggleops|^hydra", each.name.lower()):
            (there / each.name).symlink_to(each)
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    (site,) = home.glob("lib/python*/site-packages")
    (site / "there.pth").write_text(str(there))
    return home / "bin/python"


@pytest.mark.slow
def test_without_internet_it_installs_from_a_dataset_of_wheels(
    python: Path, tmp_path: Path
) -> None:
    wheels = tmp_path / "kaggle/input/datasets/ada/wheels"
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(wheels), str(ROOT)], check=True)
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PIP_")},
        "KAGGLEOPS_ROOT": str(tmp_path),
    }

    def run(code: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [str(python), "-c", code]
        return subprocess.run(
            command, cwd=tmp_path, env=environ | more, capture_output=True, text=True
        )

    nowhere = f"install_from = 'git+file://localhost{tmp_path}/nowhere'\n" + install_cell()
    failed = run(nowhere, KAGGLEOPS_ROOT=str(tmp_path / "elsewhere"))
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: installing kaggleops @ git+file://")
    assert "/nowhere" in failed.stderr
    assert "Is the internet switched on?" in failed.stderr
    assert failed.stderr.count("\n") == 1

    done = run(install_cell())
    assert done.returncode == 0, done.stderr
    assert "Install  1 packages added in " in done.stdout
    plugins = "from importlib.metadata import entry_points as e; print(e(group='{}').names)"
    assert "bucket+file" in run(plugins.format("mlflow.tracking_store")).stdout
    assert "is there already" in run(install_cell()).stdout

    # Hydra comes with a project that names it.
    project = tmp_path / "project"
    project.mkdir()
    (project / "MLproject").write_text("name: toy\nconda_env: conda.yaml\n")
    hydra = {"hydra/__init__.py": ""}
    write_wheel(wheels, "hydra_core", "1.3.2", files=hydra)
    # It would replace what is there.
    write_wheel(wheels, "hydra_core", "1.4", files=hydra, requires=["click>=999"])
    write_wheel(wheels, "click", "999.0", files={"click.py": ""})
    install = "import sys, pathlib as p; from kaggleops.notebook import install_hydra as install\n"
    install += f"install(p.Path({str(project)!r}), p.Path({str(tmp_path / 'kaggle/input')!r}))\n"
    for named, said in (
        ("click", ""),
        ("hydra-core>=1.3", "Install  hydra-core>=1.3, which the project's conda.yaml names\n"),
        ("hydra-core>=1.3", ""),
    ):
        pip = f"dependencies: [pip, {{pip: ['{named}']}}]\n"
        (project / "conda.yaml").write_text(f"name: toy\n{pip}")
        done = run(install)
        assert (done.stdout, done.returncode) == (said, 0), done.stderr
    assert list((tmp_path / "venv").glob("lib/*/site-packages/hydra_core-1.3.2.dist-info"))


@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_what_is_there_stays_as_it_is(installer: str, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "venv")
    (site,) = tmp_path.glob("venv/lib/python*/site-packages")
    (site / "more.pth").write_text(f"{tmp_path}/more\n")
    # The second is found second, and so never imported.
    for folder, name, version in ((site, "toy", "1.0"), (tmp_path / "more", "Toy", "0.5")):
        zipfile.ZipFile(write_wheel(tmp_path, name, version)).extractall(folder)
    (site / "broken-1.0.dist-info").mkdir()  # as an installation that broke off leaves it
    wheels = tmp_path / "kaggle/input/wheels"
    wheels.mkdir(parents=True)
    write_wheel(wheels, "toy", "2.0")
    environment = {"HOME": str(tmp_path), "PATH": os.defpath, "KAGGLEOPS_ROOT": str(tmp_path)}
    if installer == "uv":  # where its own installer puts it, which is not always on the PATH
        (tmp_path / ".local/bin").mkdir(parents=True)
        (tmp_path / ".local/bin/uv").symlink_to(Path(sys.executable).with_name("uv"))

    def run(bucket: str = "") -> subprocess.CompletedProcess[str]:
        command = [str(python), "-c", install_cell(bucket)]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    newer = write_wheel(wheels, "kaggleops", "0.1", requires=["toy>=2"])
    failed = run()
    assert failed.returncode == 1
    assert failed.stderr.startswith(f"error: installing {newer}: ERROR: ")
    assert failed.stderr.count("\n") == 1
    assert sorted(each.name for each in site.glob("toy-*")) == ["toy-1.0.dist-info"]

    extra = ['boto3; extra == "s3"\nProvides-Extra: s3']
    write_wheel(wheels, "kaggleops", "0.1", requires=["toy", *extra], files={"kaggleops.py": ""})
    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Install  1 packages added in ")
    assert sorted(each.name for each in site.glob("toy-*")) == ["toy-1.0.dist-info"]
    assert (site / "kaggleops-0.1.dist-info/INSTALLER").read_text().strip() == installer

    # A bucket of another service brings its client, and nobody else's does.
    assert run("gs://our-bucket").stdout == "Install  KaggleOps is there already\n"
    assert run("s3://b@h.test").returncode == 0  # a dataset without it, for a run without internet
    assert list(site.glob("boto3*")) == []
    write_wheel(wheels, "boto3", "1.36", files={"boto3.py": ""})
    done = run("s3://b@h.test")
    assert done.stdout.startswith("Install  1 packages added in "), done.stderr
    assert [each.name for each in site.glob("boto3-*")] == ["boto3-1.36.dist-info"]
    assert run("s3+http://b@h.test").stdout == "Install  KaggleOps is there already\n"
