"""`infra/kaggle-image`: what can be said of it without a container engine and tens of gigabytes."""

import json
import re
import shutil
import subprocess
import tomllib
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from docker.utils.build import exclude_paths
from hatchling.builders.wheel import WheelBuilder
from traitlets.config import Config

from kaggleops.backends.docker import DockerConfig
from kaggleops.cli.adopt import write_container
from tests.conftest import unavailable
from tests.packages import make_environment, write_wheel

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra/kaggle-image"
FILE = FOLDER / "compose.yaml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())
SCHEMA = json.loads(Path(__file__).with_name("compose-spec.json").read_text())
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SERVICES = ["cpu", "gpu"]


def test_the_compose_file_is_of_the_published_schema() -> None:
    jsonschema.Draft7Validator(SCHEMA).validate(COMPOSE)
    COMPOSE["services"]["cpu"]["prots"] = []
    try:
        with pytest.raises(jsonschema.ValidationError, match="prots"):
            jsonschema.Draft7Validator(SCHEMA).validate(COMPOSE)
    finally:
        del COMPOSE["services"]["cpu"]["prots"]


def test_a_real_compose_mounts_as_kaggle_does(tmp_path: Path) -> None:
    program = shutil.which("docker-compose")
    if program is None:
        unavailable("there is no docker-compose")
    profiles = [option for name in SERVICES for option in ("--profile", name)]
    done = subprocess.run(
        [program, "-f", str(FILE), *profiles, "config"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "KAGGLEOPS_KEY_FILE": "/a/key.json"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert sorted(services) == SERVICES
    for service in services.values():
        mounts = {each["target"]: each for each in service["volumes"]}
        assert {target: each["source"] for target, each in mounts.items()} == {
            "/kaggle/working": str(ROOT),
            "/kaggle/input": f"{tmp_path}/kaggle/input",
            "/kaggle/input-rw": f"{tmp_path}/kaggle/input",
            "/etc/jupyter/jupyter_lab_config.py": f"{FOLDER}/jupyter_lab_config.py",
            "/kaggleops-key.json": "/a/key.json",
        }
        read_only = {target for target, each in mounts.items() if each.get("read_only")}
        assert read_only == mounts.keys() - {"/kaggle/working", "/kaggle/input-rw"}
        assert service["working_dir"] == "/kaggle/working"


@pytest.mark.parametrize("name", SERVICES)
def test_nobody_else_reaches_jupyter(name: str) -> None:
    assert COMPOSE["services"][name]["ports"] == ["127.0.0.1:8888:8888"]
    assert COMPOSE["services"][name]["command"] == ["jupyter", "lab"]
    said = (FOLDER / "jupyter_lab_config.py").read_text()
    config = Config()
    exec(said, {"get_config": lambda: config})
    assert dict(config.ServerApp) == {
        "root_dir": "/kaggle/working",
        "open_browser": False,
        "allow_root": True,
        "ip": "0.0.0.0",
        "port": 8888,
    }


def test_only_one_service_asks_for_gpus() -> None:
    assert "deploy" not in COMPOSE["services"]["cpu"]
    reserved = COMPOSE["services"]["gpu"]["deploy"]["resources"]["reservations"]
    (device,) = reserved["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])


@pytest.mark.parametrize(("name", "gpus"), [("cpu", ""), ("gpu", "all")])
def test_it_is_the_image_that_the_backend_runs(name: str, gpus: str) -> None:
    image = DockerConfig(gpus=gpus).image_name
    assert COMPOSE["services"][name]["build"]["args"]["IMAGE"] == image
    assert re.fullmatch(r".+:v\d+|.+@sha256:[0-9a-f]{64}", image), "it is pinned"


def test_what_names_no_profile_finds_the_cpu_alone() -> None:
    """As VS Code does, which builds no service of a profile."""
    assert "profiles" not in COMPOSE["services"]["cpu"]
    # Both want the same port.
    assert COMPOSE["services"]["gpu"]["profiles"] == ["gpu"]
    for text in ((ROOT / "docs/container.md").read_text(), FILE.read_text()):
        (started,) = re.findall(r"docker compose .* up --build (\w+)  ", text)
        assert (started, "--profile" in text) == ("cpu", False)


def test_the_image_is_that_of_the_backend_and_everything_is_installed_by_one_program() -> None:
    text = (FOLDER / "Dockerfile").read_text()
    lines = text.replace("\\\n", "").splitlines()
    instructions = [line.split()[0] for line in lines if line and line[0] not in "# "]
    assert instructions == ["ARG", "FROM", "ARG", "COPY", "RUN", "WORKDIR"]
    assert "pip" not in text
    assert 'RUN python3 /tmp/kaggleops/infra/kaggle-image/install.py "${SOURCE}"' in text
    assert f"ARG IMAGE={DockerConfig().image_name}\n" in text
    assert "ARG SOURCE=/tmp/kaggleops\n" in text


def test_a_repository_of_ones_own_gets_the_same_container(tmp_path: Path) -> None:
    (tmp_path / "infra/kaggle-image").mkdir(parents=True)
    (tmp_path / "infra/kaggle-image/jupyter_lab_config.py").write_text("mine")
    written = write_container(tmp_path, "git+https://h.test/kaggleops")
    assert sorted(written) == sorted(
        str(each.relative_to(tmp_path))
        for each in tmp_path.rglob("*")
        if each.is_file() and each.name != "jupyter_lab_config.py"
    )
    assert write_container(tmp_path, "x") == []
    for name in ("infra/kaggle-image/compose.yaml", ".devcontainer/devcontainer.json"):
        assert (tmp_path / name).read_text() == (ROOT / name).read_text()
    lines = (tmp_path / "infra/kaggle-image/Dockerfile").read_text().splitlines()
    assert 'ARG SOURCE="kaggleops @ git+https://h.test/kaggleops"' in lines
    theirs = (FOLDER / "Dockerfile").read_text().splitlines()
    assert sum(one != other for one, other in zip(lines, theirs, strict=True)) == 1
    patterns = (tmp_path / "infra/kaggle-image/Dockerfile.dockerignore").read_text().split()
    (tmp_path / "data").mkdir()
    (tmp_path / "data/big.bin").touch()
    sent = {name for name in exclude_paths(str(tmp_path), patterns) if (tmp_path / name).is_file()}
    assert {"infra/kaggle-image/install.py", "infra/kaggle-image/requirements.txt"} <= sent
    assert "data/big.bin" not in sent


def test_only_what_is_missing_is_installed_and_nothing_but_what_was_locked(tmp_path: Path) -> None:
    """The real program and pip, in an environment that has an older package and lacks another."""
    packages = tmp_path / "packages"
    packages.mkdir()
    there = write_wheel(packages, "there", "1.0")
    write_wheel(packages, "there", "2.0")
    wanted = write_wheel(packages, "wanted", "1.0")
    write_wheel(packages, "jupyterlab", "4.0")
    project = write_wheel(packages, "kaggleops", "1.0", requires=["there>=1", "wanted"])
    folder = tmp_path / "infra"
    folder.mkdir()
    shutil.copy(FOLDER / "install.py", folder)
    digest = sha256(wanted.read_bytes()).hexdigest()
    (folder / "requirements.txt").write_text(
        f"# written\nthere==2.0 --hash=sha256:{'0' * 64}\nwanted==1.0 --hash=sha256:{digest}\n"
    )
    python = make_environment(tmp_path / "image")
    environment = {"PATH": "/usr/bin:/bin", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(packages)}

    def run(*command: str | Path) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [python, *command], env=environment, capture_output=True, text=True, cwd=tmp_path
        )

    had = run("-m", "pip", "install", there, packages / "jupyterlab-4.0-py3-none-any.whl")
    assert had.returncode == 0, had.stderr
    done = run(folder / "install.py", project)
    assert done.returncode == 0, done.stderr
    assert "1 packages installed" in done.stdout
    listed = run("-m", "pip", "list", "--format", "freeze").stdout.splitlines()
    assert {"there==1.0", "wanted==1.0", "kaggleops==1.0"} <= set(listed)

    # Another file of the same name and version is refused, and what does not fit is named.
    write_wheel(packages, "wanted", "1.0", requires=["something"])
    run("-m", "pip", "uninstall", "--yes", "wanted")
    assert "DO NOT MATCH THE HASHES" in run(folder / "install.py", project).stderr
    newer = write_wheel(packages, "kaggleops", "2.0", requires=["there>=3"])
    (folder / "requirements.txt").write_text("")
    unfit = run(folder / "install.py", newer)
    assert unfit.returncode != 0
    assert "there>=3" in unfit.stderr


def test_the_package_is_built_from_what_the_engine_is_sent(tmp_path: Path) -> None:
    lines = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    sent = {name for name in exclude_paths(str(ROOT), patterns) if (ROOT / name).is_file()}
    assert sent
    for name in sent:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (wheel,) = WheelBuilder(str(tmp_path)).build(directory=str(tmp_path / "dist"))
    packed = zipfile.ZipFile(wheel).namelist()
    forced = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    files = {*forced.values(), "kaggleops/notebook.py"} - {"kaggleops/cli/container"}
    assert files <= set(packed)
    assert "kaggleops/cli/container/requirements.txt" in packed
    assert not any("__pycache__" in name for name in sent)


def test_the_devcontainer_is_the_same_container() -> None:
    described = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    file = ROOT / ".devcontainer" / described["dockerComposeFile"]
    assert file.resolve() == FILE
    service = COMPOSE["services"][described["service"]]
    assert described["runServices"] == [described["service"]]
    assert "profiles" not in service
    assert service["working_dir"] == described["workspaceFolder"]
    assert service["ports"][0].endswith(f":{described['forwardPorts'][0]}")
    dockerfile = (FOLDER / service["build"]["context"] / service["build"]["dockerfile"]).resolve()
    assert dockerfile == FOLDER / "Dockerfile"
