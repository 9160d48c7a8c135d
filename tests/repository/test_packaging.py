"""What is written twice agrees, and what must stand in one place only does."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from kaggleops.backends.runpod.offers import RunPodConfig

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


def test_every_dependency_has_a_lower_bound() -> None:
    for requirement in map(Requirement, [*PROJECT["dependencies"], *chain(*EXTRAS.values())]):
        bounded = any(each.operator in (">=", "~=", "==") for each in requirement.specifier)
        ours = requirement.name == PROJECT["name"]
        stubs = requirement.name.startswith("types-") or requirement.name.endswith("-stubs")
        assert bounded or ours or stubs, requirement


def test_the_core_leaves_out_what_a_runner_has_or_does_not_need() -> None:
    core = {Requirement(each).name for each in PROJECT["dependencies"]}
    assert not core & {"mlflow", "torch", "transformers", "numpy", "pandas", "scikit-learn"}


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
        "kaggleops.tracking",
        "kaggleops.tracking.context",
    }


def test_imports_run_one_way() -> None:
    """The floors of docs/architecture.md, as import-linter reads them from pyproject.toml."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_every_room_stands_in_the_plan() -> None:
    plan = (ROOT / "docs/architecture.md").read_text()
    rooms = [
        path.name for path in (ROOT / "src/kaggleops").iterdir() if (path / "__init__.py").exists()
    ]
    for room in rooms:
        assert f"`{room}" in plan or f" {room}/" in plan, room
