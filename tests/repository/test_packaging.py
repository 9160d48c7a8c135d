"""What is written twice agrees, and what must stand in one place only does."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.metadata import entry_points
from itertools import chain
from pathlib import Path

import pytest
import yaml
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement

from kaggleops.backends.runpod.pod import RunPodConfig
from kaggleops.backends.skypilot import SkyPilotConfig

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]


def tracked() -> list[Path]:
    """Return the files that git knows or would take."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        capture_output=True,
        text=True,
        check=True,
    )
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def text_of(path: Path) -> str:
    """Return a file's text, "" for one that is none."""
    try:
        return path.read_text()
    except UnicodeDecodeError:
        return ""


def test_conda_and_pip_install_the_same() -> None:
    conda = yaml.safe_load((ROOT / "conda.yaml").read_text())
    named = {item for item in conda["dependencies"] if isinstance(item, str)}
    (pip,) = (item["pip"] for item in conda["dependencies"] if isinstance(item, dict))
    assert f"python{PROJECT['requires-python']}" in named
    expected = {*PROJECT["dependencies"], *EXTRAS["train"]}
    assert set(pip) == expected | {"."}
    assert conda["name"] == PROJECT["name"]


def test_a_runpod_pod_gets_what_training_needs() -> None:
    config = yaml.safe_load((ROOT / "config/backend/runpod.yaml").read_text())
    in_the_image = {each for each in EXTRAS["train"] if Requirement(each).name == "torch"}
    assert {*config["packages"]} | in_the_image == {*EXTRAS["train"]}
    assert RunPodConfig().packages == config["packages"]


def test_skypilots_machines_get_what_training_needs() -> None:
    config = yaml.safe_load((ROOT / "config/backend/skypilot.yaml").read_text())
    assert {*config["packages"]} == {*EXTRAS["train"]}
    assert list(SkyPilotConfig().packages) == config["packages"]


def test_hydra_finds_the_launcher_and_imports_nothing_of_ours_for_it() -> None:
    # Every Hydra program in the environment imports it at its start.
    code = (
        "import sys; from hydra.core.plugins import Plugins; "
        "print([each.__name__ for each in Plugins.instance().discover()]); "
        "print([name for name in sys.modules if name.split('.')[0] in ('kaggleops', 'mlflow')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found, imported = done.stdout.splitlines()
    assert "KaggleOpsLauncher" in found
    assert imported == "[]"


def test_every_dependency_has_a_lower_bound() -> None:
    for requirement in map(Requirement, [*PROJECT["dependencies"], *chain(*EXTRAS.values())]):
        bounded = any(each.operator in (">=", "~=", "==") for each in requirement.specifier)
        ours = requirement.name == PROJECT["name"]
        stubs = requirement.name.startswith("types-") or requirement.name.endswith("-stubs")
        assert bounded or ours or stubs, requirement


def test_the_core_leaves_out_what_a_runner_has_or_does_not_need() -> None:
    core = {Requirement(each).name for each in PROJECT["dependencies"]}
    assert not core & {
        "hydra-core",
        "mlflow",
        "torch",
        "transformers",
        "numpy",
        "pandas",
        "scikit-learn",
    }


def test_a_run_has_the_training_code_of_its_own_checkout(tmp_path: Path) -> None:
    """The wheel has none, and the run of a clone with the wheel installed works."""
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path))
    with zipfile.ZipFile(wheel) as opened:
        rooms = {name.split("/")[0] for name in opened.namelist()}
        assert rooms == {"hydra_plugins", "kaggleops", f"kaggleops-{PROJECT['version']}.dist-info"}
        # Hydra wants it so: a folder of plugins of which each is a package.
        assert "hydra_plugins/__init__.py" not in opened.namelist()
        assert "hydra_plugins/kaggleops_launcher/__init__.py" in opened.namelist()
        opened.extractall(tmp_path / "installed")
    shutil.copytree(ROOT / "src/competitions", tmp_path / "clone/src/competitions")
    shutil.copytree(ROOT / "config", tmp_path / "clone/config")
    # As MLproject starts it. -S leaves out what a checkout that is installed would add. It reads
    # the configuration and the rows, and stops before what takes seconds to import.
    installed = [str(tmp_path / "installed"), sysconfig.get_paths()["purelib"]]
    command = ["-S", "-m", "competitions.train", "model.pretrained=./nowhere"]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path / "clone",
        env=os.environ | {"PYTHONPATH": os.pathsep.join(["src", *installed])},
        capture_output=True,
        text=True,
    )
    assert "error: loading ./nowhere: there is no such folder" in done.stderr
    assert done.returncode == 2


def test_no_import_of_the_core_needs_hydra() -> None:
    """It belongs to the training: the core works without it (tests/launch/test_config_keys.py)."""
    at_import = {
        name.split(".")[0]
        for path in (ROOT / "src/kaggleops").rglob("*.py")
        for node in ast.parse(path.read_text()).body
        for name in (
            [each.name for each in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert "mlflow" in at_import
    assert not at_import & {"hydra", "omegaconf"}


def test_the_projects_address_stands_in_one_place_only() -> None:
    address = PROJECT["urls"]["Repository"].removeprefix("https://")
    owner = address.split("/")[1]
    stray = [
        path.relative_to(ROOT)
        for path in tracked()
        if path != ROOT / "pyproject.toml"
        and path != Path(__file__)
        and path.suffix != ".ipynb"  # opened alone; tests/notebooks checks what they carry
        and (address in text_of(path) or re.search(rf"[/:]{re.escape(owner)}/", text_of(path)))
    ]
    assert stray == []


def test_what_is_no_text_is_a_picture() -> None:
    """So that no database or archive of somebody's machine comes in unseen."""
    files = [path for path in tracked() if path.stat().st_size]
    assert {path.suffix for path in files if not text_of(path)} == {".png"}


def test_no_path_of_one_machine_and_no_secret() -> None:
    # Built here so that this file does not hold what it looks for.
    forbidden = [
        str(ROOT) + "/",
        str(Path.home()) + "/",
        "-----BEGIN " + "PRIVATE KEY-----",
        "AIza" + "Sy",
        "gh" + "p_",
    ]
    for path in tracked():
        text = text_of(path)
        for each in forbidden:
            assert each not in text, f"{path}: {each}"


@pytest.mark.parametrize("group", ["mlflow.tracking_store", "mlflow.model_registry_store"])
def test_the_plugins_are_there_for_buckets_and_their_indexes(group: str) -> None:
    ours = {each.name for each in entry_points(group=group) if each.value.startswith("kaggleops")}
    assert {"gs", "bucket+file", "kaggleops+sqlite", "kaggleops+postgresql"} <= ours


def test_importing_mlflow_imports_little_of_us() -> None:
    """MLflow loads its plugins with every import; that must cost nothing."""
    script = "import sys, mlflow; print([name for name in sys.modules if 'kaggleops' in name])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert set(eval(done.stdout)) == {
        "kaggleops",
        "kaggleops.index",
        "kaggleops.session_end",
        "kaggleops.tracking",
        "kaggleops.tracking.context",
    }


def test_every_room_stands_in_the_plan() -> None:
    plan = (ROOT / "docs/architecture.md").read_text()
    rooms = [
        path.name for path in (ROOT / "src/kaggleops").iterdir() if (path / "__init__.py").exists()
    ]
    for room in rooms:
        assert f"`{room}" in plan or f" {room}/" in plan, room
