"""`infra/versions.py` and the lists that it writes."""

import json
import re
import runpy
import shutil
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.packages import make_environment, write_wheel

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "infra/versions.py"
CONSTRAINTS = ROOT / "infra/constraints.txt"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def names(file: Path) -> set[str]:
    lines = [line for line in file.read_text().splitlines() if line[:1] not in ("", "#")]
    return {canonicalize_name(Requirement(line.partition(" --hash")[0]).name) for line in lines}


def of(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(each).name) for each in requirements} - {"kaggleops"}


def test_the_constraints_name_all_that_the_project_depends_on() -> None:
    """A dependency that is added without `make lock` is found here."""
    wanted = of([*PROJECT["dependencies"], *(each for extra in EXTRAS.values() for each in extra)])
    assert wanted - names(CONSTRAINTS) == {"torch"}
    for requirement in map(Requirement, [*PROJECT["dependencies"], *EXTRAS["server"]]):
        pinned = re.findall(
            rf"^{re.escape(requirement.name)}==([^\s;]+)", CONSTRAINTS.read_text(), re.M
        )
        assert pinned
        assert all(requirement.specifier.contains(each) for each in pinned), requirement


@pytest.mark.parametrize(
    ("list_", "wanted"),
    [
        ("server", [*PROJECT["dependencies"], *EXTRAS["server"], *EXTRAS["postgresql"], "pip"]),
        ("kaggle-image", [*PROJECT["dependencies"], "jupyterlab", "hatchling"]),
    ],
)
def test_what_is_installed_as_root_has_hashes(list_: str, wanted: list[str]) -> None:
    file = ROOT / "infra" / list_ / "requirements.txt"
    assert of(wanted) <= names(file)
    for line in file.read_text().splitlines()[1:]:
        assert re.fullmatch(r"[a-z0-9-]+==\S+ --hash=sha256:[0-9a-f]{64}", line), line


def test_the_server_runs_the_versions_that_the_tests_run_with() -> None:
    tested = set(CONSTRAINTS.read_text().splitlines())
    server = (ROOT / "infra/server/requirements.txt").read_text().splitlines()[1:]
    pinned = {line.partition(" --hash")[0] for line in server}
    assert {
        each for each in pinned if each not in {line.partition(" ;")[0] for line in tested}
    } == set()


def test_make_installs_what_the_constraints_say() -> None:
    for goal in ("run", "test"):
        shown = subprocess.run(
            ["make", "--dry-run", "--always-make", goal], cwd=ROOT, capture_output=True, text=True
        )
        installing = [line for line in shown.stdout.splitlines() if " pip install " in line]
        assert len(installing) == 3
        assert all("--constraint infra/constraints.txt" in line for line in installing)
    newest = subprocess.run(
        ["make", "--dry-run", "--always-make", "test", "CONSTRAINTS="],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert newest.returncode == 0
    assert "constraint" not in newest.stdout


def test_the_package_that_broke_something_is_named(tmp_path: Path) -> None:
    """Three packages have new versions, and one test fails with one of them."""
    packages = tmp_path / "packages"
    packages.mkdir()
    newer = ["anna", "berta", "clara"]
    for name in newer:
        write_wheel(packages, name, "1.0", files={f"{name}.py": "VALUE = 1\n"})
        write_wheel(packages, name, "2.0", files={f"{name}.py": "VALUE = 2\n"})
    project = tmp_path / "project"
    (project / "infra").mkdir(parents=True)
    shutil.copy(SCRIPT, project / "infra")
    lines = "".join(f"{name}==1.0\n" for name in newer)
    (project / "infra/constraints.txt").write_text(f"# tested\n{lines}absent==1.0\n")
    (project / "test_it.py").write_text(
        "import anna, clara\ndef test_clara():\n    assert clara.VALUE == 1\n"
        "def test_anna():\n    assert anna.VALUE\n"
    )
    python = make_environment(tmp_path / "venv")
    # What the tests run with, seen after the environment's own packages.
    (site,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    (site / "further.pth").write_text(str(Path(pytest.__file__).parents[1]))
    environment = {"PATH": "/usr/bin:/bin", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(packages)}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = environment["PYTHONDONTWRITEBYTECODE"] = "1"

    def run(*command: str) -> str:
        done = subprocess.run(
            [python, *command], cwd=project, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    install = ["-m", "pip", "install", "--no-deps"]
    run(*install, *(f"{name}==2.0" for name in newer))
    blamed = run("infra/versions.py", "blame", "test_it.py")
    assert blamed == "clara 2.0: the tests pass with 1.0."
    # What it has put back is still back: nothing differs but nothing fails either.
    run(*install, "anna==2.0")
    assert run("infra/versions.py", "blame", "test_it.py") == "The tests pass as it is."
    (project / "test_it.py").write_text("def test_never():\n    assert False\n")
    assert "the cause is elsewhere" in run("infra/versions.py", "blame", "test_it.py")


def test_the_weekly_workflow_runs_the_newest_and_the_lowest() -> None:
    text = (ROOT / ".github/workflows/versions.yml").read_text()
    assert "infra/versions.py lowest" in text
    assert "infra/versions.py blame" in text
    assert 'CONSTRAINTS: ""' in text
    assert json.dumps("torch") in text


def test_each_requirement_has_a_lower_bound() -> None:
    """Without one, the lowest is whatever was published first: pip 0.2, say."""
    asked = [*PROJECT["dependencies"], *chain(*EXTRAS.values())]
    for each in map(Requirement, [*asked, runpy.run_path(str(SCRIPT))["PIP"]]):
        bounds = {specifier.operator for specifier in each.specifier}
        assert each.name == PROJECT["name"] or bounds & {">=", "==", "~="}, each


def test_a_list_is_data() -> None:
    """Nothing in it that pip would take for an option or an address."""
    functions = runpy.run_path(str(SCRIPT))
    assert set(functions["tested_versions"]()) <= names(CONSTRAINTS)
    for file in (CONSTRAINTS, *ROOT.glob("infra/*/requirements.txt")):
        assert "://" not in file.read_text()
        assert not re.search(r"^\s*-", file.read_text(), re.M)
