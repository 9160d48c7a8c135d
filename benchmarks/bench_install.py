"""From the notebook's first cell to the first training step, second by second.

    python benchmarks/bench_install.py [uv] [pip] [before] [hook] [before-hook] [mlflow]

Each begins in an environment that holds torch, transformers and whatever else of this one's
packages Colab has installed too, as links that no installer can follow and change; compiled, as an
image has it. Names on the command line run these columns alone, half a minute each.

`before` is the notebook of commit BEFORE with that commit's package; `hook` is a machine of
Kaggle's, where the image puts ten seconds of imports before google.cloud.storage.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from common import BUCKET, ROOT, print_caption, print_table, scratch, storage
from packaging.utils import canonicalize_name
from tests.fakes import platforms

COLAB = ROOT / "tests/platforms/colab-gpu-freeze.txt"
BEFORE = "35e9d89042"
WHOLE = ("torch", "transformers", "sympy")  # of 18,000 files, that no installer here has to do with
HOOK = 10.0  # seconds, as measured in the image
SITE = "lib/python{}.{}/site-packages".format(*sys.version_info)

TRAIN = """
import time
print("@ begun", time.time())
import mlflow
print("@ mlflow", time.time())
import torch
print("@ torch", time.time())
import transformers
print("@ transformers", time.time())
with mlflow.start_run():
    print("@ run", time.time())
    layer = torch.nn.Linear(8, 1)
    layer(torch.ones(1, 8)).sum().backward()
    mlflow.log_metric("loss", 1.0, step=0)
    print("@ step", time.time())
"""

WARM = "import kaggleops.notebook, torch, transformers, google.cloud.storage, gcsfs"

STEPS = {
    "listed": "what is there is listed, the installer starts",
    "fetched": "it fetches this project from git (uv: and the line above)",
    "tools": "… what builds its wheel (uv: two lines on)",
    "resolved": "… resolves",
    "built": "… downloads, builds the wheel",
    "Install": "… unpacks; pip before: compiles and checks all",
    "Machine": "the kernel imports this project and MLflow",
    "Sign-in": "it signs in, and asks the bucket",
    "Commit": "… fetches the commit",
    "begun": "… makes the run; the training's Python starts",
    "mlflow": "the training imports MLflow",
    "torch": "… PyTorch",
    "transformers": "… transformers",
    "run": "… starts its run",
    "step": "… makes its first step",
}
"""What has passed, and in the table's words what took place until then."""

# What pip's log says as a step ends.
PIP = {
    "listed": r"Collecting (?:kaggleops|mlflow)(?!-)",
    "fetched": r"Installing build dependencies: started",
    "tools": r"Installing build dependencies: finished",
    "resolved": r"Building wheels for collected",
    "built": r"Installing collected",
}
UV = {"resolved": "Resolved", "built": "Prepared"}


@dataclass
class Column:
    """A way from nothing to a first step, and what it runs on."""

    title: str
    commit: str = "HEAD"
    """Whose notebook and package; "" for MLflow alone."""
    uv: bool = False
    hook: bool = False


COLUMNS = {
    "uv": Column("with uv", uv=True),
    "pip": Column("with pip"),
    "before": Column(f"with pip, at {BEFORE}", BEFORE),
    "hook": Column("on Kaggle", uv=True, hook=True),
    "before-hook": Column(f"on Kaggle, at {BEFORE}", BEFORE, uv=True, hook=True),
    "mlflow": Column("`pip install mlflow`, `mlflow run`", ""),
}


@dataclass
class Measured:
    """What came of it."""

    took: dict[str, float]
    """Seconds of each step."""
    added: int
    changed: int


def main() -> None:
    from tests.fakes.git_server import Repository

    # A shallow clone has no commit of before.
    known = ["git", "-C", str(ROOT), "cat-file", "-e"]
    chosen = sys.argv[1:] or [
        name
        for name, column in COLUMNS.items()
        if not subprocess.run([*known, column.commit or "HEAD"], capture_output=True).returncode
    ]
    with scratch() as folder, storage():
        base = borrowed(folder / "base")
        project = Repository(folder / "toy")
        project.write(MLproject="name: toy\nentry_points: {main: {command: python train.py}}")
        project.write(train_py=TRAIN)
        project.commit("Train a toy")
        found = {}
        for name in chosen:
            print(f"{COLUMNS[name].title} …", file=sys.stderr, flush=True)
            found[name] = measure(COLUMNS[name], folder / name, base, project.folder)
        report(found)


def report(found: dict[str, Measured]) -> None:
    """Print what was measured, by the columns' names."""
    titles = [COLUMNS[name].title for name in found]
    totals = [
        [title, f"{it.added}", f"{it.changed}", f"{sum(it.took.values()):.1f} s"]
        for title, it in zip(titles, found.values(), strict=True)
    ]
    print_table("Installing", ["", "packages added", "changed", "first training step"], totals)
    each = [
        [words, *(f"{it.took[step]:.1f}" if step in it.took else "" for it in found.values())]
        for step, words in STEPS.items()
    ]
    print_table("Second by second", ["until", *titles], each)
    print_caption(
        "Seconds from the first cell (or from `pip install`) to the first optimizer step of a toy "
        "that imports torch and transformers, in an environment that holds these and what Colab "
        "has of the rest, compiled; the installers' caches are empty, the bucket is on the "
        "loopback. The notebook runs in a kernel whose start is not counted; it includes building "
        f"this project's wheel, fetching the commit and creating the run. On Kaggle: {HOOK:.0f} s "
        "of imports before google.cloud.storage, once in each process that imports it."
    )


def measure(column: Column, home: Path, base: Path, project: Path) -> Measured:
    """Run a column's script in a new environment on top of the base."""
    venv.create(home, with_pip=True)
    shutil.copytree(base, home / SITE, symlinks=True, dirs_exist_ok=True)
    before = packages(home)
    work, log = home / "work", home / "log"
    work.mkdir()
    script = notebook(column.commit, home, project) if column.commit else peer(project)
    begun = time.time()
    with subprocess.Popen(
        [home / "bin/python", "-u", "-c", script],
        cwd=work,
        env=surroundings(column, home, log),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        ended = {}
        for line in process.stdout:
            word, at = next(iter(line.split()), ""), time.time()
            if said := re.search(r"@ (\w+) ([\d.]+)", line):
                word, at = said[1], float(said[2])
            ended.setdefault(word, at)
    if process.returncode:
        raise SystemExit(f"{column.title}: it failed, see above")
    ended |= installing(log, ended["Install"])
    took, last = {}, begun
    for step in STEPS:
        if step in ended:
            took[step], last = ended[step] - last, ended[step]
    after = packages(home)
    changed = sum(after.get(each) != version for each, version in before.items())
    return Measured(took, len(after.keys() - before.keys()), changed)


def surroundings(column: Column, home: Path, log: Path) -> dict[str, str]:
    """Return the environment of a column's script: its own home and caches, its installer."""
    sign_in = {"KAGGLEOPS_KEY": json.dumps({"type": "authorized_user"})}
    made = platforms.kaggle(home, sign_in) if column.hook else platforms.plain(home)
    # An image's own uv would be found too.
    path = [each for each in os.environ["PATH"].split(os.pathsep) if not Path(each, "uv").exists()]
    names = ("PIP_INDEX_URL", "PIP_CERT", "SSL_CERT_FILE", "UV_INDEX_URL", "UV_DEFAULT_INDEX")
    return made | {
        **{name: os.environ[name] for name in names if name in os.environ},
        "PATH": os.pathsep.join([str(home / "bin"), *([str(shim(home, log))] * column.uv), *path]),
        "STORAGE_EMULATOR_HOST": os.environ["STORAGE_EMULATOR_HOST"],
        "FAKE_KAGGLE_HOOK_SECONDS": f"{HOOK}",
        "PIP_LOG": str(log),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYTHONUNBUFFERED": "1",
    }


def shim(home: Path, log: Path) -> Path:
    """Return a folder with a uv that keeps what it says."""
    folder, real = home / "uv", Path(sys.executable).with_name("uv")
    folder.mkdir()
    (folder / "uv").write_text(
        "#!/bin/sh\n"
        'for each; do shift; [ "$each" = --quiet ] || set -- "$@" "$each"; done\n'
        f'"{real}" "$@" 2>"{log}"\n'
        "code=$?\n"
        f'cat "{log}" >&2\n'
        "exit $code\n"
    )
    (folder / "uv").chmod(0o755)
    return folder


def installing(log: Path, ended: float) -> dict[str, float]:
    """Return when each step of an installer's ended, by what it said; it ended at `ended`."""
    said = log.read_text()
    if re.search(r"Resolved \d+ package", said):
        seconds = {
            step: sum(float(n) / (1 if unit == "s" else 1000) for n, unit in found)
            for step, word in {**UV, "Install": "Installed"}.items()
            if (found := re.findall(rf"{word} \d+ packages? in ([\d.]+)(ms|s)", said))
        }
        last = ended - seconds.pop("Install", 0.0)
        built, resolved = last, last - seconds.get("built", 0.0)
        return {"fetched": resolved - seconds["resolved"], "resolved": resolved, "built": built}
    at = {}
    for step, words in PIP.items():
        # The last time: what builds a wheel is installed by a pip of its own.
        for second, fraction in re.findall(rf"^(\S+),(\d+) +{words}", said, re.MULTILINE)[-1:]:
            whole = time.mktime(time.strptime(second, "%Y-%m-%dT%H:%M:%S"))
            at[step] = whole + int(fraction) / 1000
    return at


def notebook(commit: str, home: Path, project: Path) -> str:
    """Return a script that runs the code cells of a commit's notebook, as a kernel would."""
    source = home / "kaggleops"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(source)], check=True)
    checkout = ["git", "-C", str(source), "checkout", "--quiet", "--detach", commit]
    subprocess.run(checkout, check=True)
    cells = json.loads((source / "notebooks/run.ipynb").read_text())["cells"]
    code = {cell["id"]: "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"}
    filled = {
        "repository": f"file://{project}",
        "bucket": f"gs://{BUCKET}",
        "experiment": home.name,
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
print("Install")
run = [sys.executable, "-m", "mlflow", "run", "file://{project}", "--env-manager", "local"]
subprocess.run(run, check=True)
"""


def borrowed(folder: Path) -> Path:
    """Fill a folder with links to those of this environment's packages that Colab has too."""
    folder.mkdir()
    lines = [line.split("==")[0] for line in COLAB.read_text().splitlines() if "==" in line]
    colab = {canonicalize_name(name) for name in lines} - {"pip", "setuptools"}
    site = Path(sysconfig.get_paths()["purelib"])
    for package in distributions():
        if canonicalize_name(package.metadata["Name"]) in colab:
            tops = {file.parts[0] for file in package.files or []} - {"..", "__pycache__"}
            for top in (top for top in tops if not (folder / top).exists()):
                if (site / top).is_dir() and top not in WHOLE:
                    # File by file: whoever uninstalls one unlinks what is his.
                    shutil.copytree(site / top, folder / top, copy_function=os.symlink)
                elif (site / top).exists():
                    (folder / top).symlink_to(site / top)
    # What is imported from there is compiled there; the rest comes from this environment.
    paths = [str(folder), str(site), str(ROOT / "src")]
    warm = f"import sys; sys.path += {paths}; {WARM}"
    variables = {name: each for name, each in os.environ.items() if "BYTECODE" not in name}
    subprocess.run([sys.executable, "-I", "-S", "-c", warm], env=variables, check=True)
    return folder


def packages(home: Path) -> dict[str, str]:
    """Return what an environment has, by name."""
    listed = [home / "bin/python", "-m", "pip", "list", "--format", "json"]
    done = subprocess.run(listed, capture_output=True, text=True, check=True)
    return {each["name"]: each["version"] for each in json.loads(done.stdout)}


if __name__ == "__main__":
    main()
