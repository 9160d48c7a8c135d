"""From the notebook's first cell to the first training step, against `pip install mlflow`.

Both start in an environment that holds torch, transformers and whatever else of this one's packages
Colab has installed too: borrowed from this one by links, so that nothing large is copied.
"""

import json
import os
import subprocess
import sys
import sysconfig
import time
import venv
from importlib.metadata import distributions
from pathlib import Path

from common import ROOT, print_caption, print_table, scratch
from packaging.utils import canonicalize_name

COLAB = ROOT / "tests/platforms/colab-gpu-freeze.txt"

TRAIN = """
import time
import mlflow
import torch
import transformers
with mlflow.start_run():
    layer = torch.nn.Linear(8, 1)
    layer(torch.ones(1, 8)).sum().backward()
    mlflow.log_metric("loss", 1.0, step=0)
    open("{stamp}", "w").write(str(time.time()))
"""


def main() -> None:
    from tests.fakes.git_server import Repository

    with scratch() as folder:
        base = borrowed(folder / "base")
        stamp = folder / "first-step"
        project = Repository(folder / "toy")
        project.write(MLproject="name: toy\nentry_points: {main: {command: python train.py}}")
        project.write(train_py=TRAIN.format(stamp=stamp))
        project.commit("Train a toy")
        wheel_source = folder / "kaggleops"
        copy = ["git", "clone", "--quiet", str(ROOT), str(wheel_source)]
        subprocess.run(copy, check=True)
        rows = [
            measure("the notebook", folder, base, stamp, notebook(project.folder, wheel_source)),
            measure(
                "`pip install mlflow`, `mlflow run`", folder, base, stamp, peer(project.folder)
            ),
        ]
    print_table("Installing", ["", "packages added", "changed", "first training step"], rows)
    print_caption(
        "Seconds from the first cell (or from `pip install`) to the first optimizer step of a toy "
        "that imports torch and transformers, in an environment that holds these and what Colab "
        "has of the rest. The notebook runs in a kernel whose start is not counted; it includes "
        "building this project's wheel, fetching the commit and creating the run."
    )


def notebook(project: Path, source: Path) -> str:
    """Return a script that runs the code cells of the notebook, as a kernel would."""
    cells = json.loads((ROOT / "notebooks/run.ipynb").read_text())["cells"]
    code = {cell["id"]: "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"}
    filled = {
        "repository": f"file://{project}",
        "bucket": "bucket",
        "install_from": f"git+file://localhost{source}",
    }
    parameters = "\n".join(f"{name} = {value!r}" for name, value in filled.items())
    upto = [code["parameters"], parameters, code["install"], code["machine"], code["train"]]
    return "\n".join(upto)


def peer(project: Path) -> str:
    """Return a script that does the same with MLflow alone, into a local database."""
    return f"""
import subprocess, sys
subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "mlflow"], check=True)
run = [sys.executable, "-m", "mlflow", "run", "file://{project}", "--env-manager", "local"]
subprocess.run(run, check=True)
"""


def measure(name: str, folder: Path, base: Path, stamp: Path, script: str) -> list[str]:
    """Run a script in a new environment on top of the base, and return its row."""
    home = folder / f"on-top-{abs(hash(name))}"
    venv.create(home, with_pip=True)
    site = "lib/python{}.{}/site-packages".format(*sys.version_info)
    (home / site / "base.pth").write_text(str(base))
    before = packages(home)
    work = home / "work"
    work.mkdir()
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(home / "bin"), os.environ["PATH"]]),
        "KAGGLEOPS_HOME": str(home / "state"),
    }
    begun = time.time()
    subprocess.run([home / "bin/python", "-c", script], cwd=work, env=environment, check=True)
    seconds = float(stamp.read_text()) - begun
    after = packages(home)
    changed = sum(after.get(each) != version for each, version in before.items())
    return [name, f"{len(after.keys() - before.keys())}", f"{changed}", f"{seconds:.1f} s"]


def borrowed(folder: Path) -> Path:
    """Fill a folder with links to those of this environment's packages that Colab has too."""
    folder.mkdir()
    lines = [line.split("==")[0] for line in COLAB.read_text().splitlines() if "==" in line]
    colab = {canonicalize_name(name) for name in lines}
    site = Path(sysconfig.get_paths()["purelib"])
    for package in distributions():
        if canonicalize_name(package.metadata["Name"]) in colab - {"pip"}:
            tops = {file.parts[0] for file in package.files or []} - {"..", "__pycache__"}
            for top in tops:
                if not (folder / top).exists():
                    (folder / top).symlink_to(site / top)
    return folder


def packages(home: Path) -> dict[str, str]:
    """Return what an environment has, by name."""
    listed = [home / "bin/python", "-m", "pip", "list", "--format", "json"]
    done = subprocess.run(listed, capture_output=True, text=True, check=True)
    return {each["name"]: each["version"] for each in json.loads(done.stdout)}


if __name__ == "__main__":
    main()
