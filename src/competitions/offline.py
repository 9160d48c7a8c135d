"""Entry point `offline`: a folder that predicts without the internet, as Kaggle's notebooks must.

    python -m competitions.offline --runs RUN_ID,RUN_ID --output my-models

It holds the models of the runs, the code of a commit, wheels of the pure Python packages that a
Kaggle notebook lacks, and predict.sh, which predicts. `kaggleops submit RUN --code` makes it, and a
dataset, a notebook and a submission of it. By hand: make it a Kaggle dataset, attach that to the
notebook, and run there what this prints, which is in its README.md, too. Launched by `mlflow run`,
the folder becomes an artifact of the run.
"""

import importlib.metadata
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from competitions.config import CONFIG_FILE, read_saved
from competitions.console import run_command, say, split_runs, writing_explained
from competitions.predict import GIVE, keep_output, model_folders
from competitions.tasks import load_task
from kaggleops.backends.kaggle.offline_folder import INSTALL, PREDICT, build_wheels
from kaggleops.errors import UsageError
from kaggleops.git.checkouts import clone
from kaggleops.git.commits import find_commit

INPUT = "/kaggle/input"
# The file in code/ that says which commit it is, and by which the folder is found there.
COMMIT = "COMMIT"
# What predicting imports and Kaggle's image does not have; the others it does.
PACKAGES = ("hydra-core", "omegaconf", "antlr4-python3-runtime")


@click.command()
@click.option("--runs", required=True, help="Run ids or model folders, separated by commas.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="A new folder.")
@click.option("--version", default="HEAD", show_default=True, help="The commit to take along.")
@click.option("--wheels/--no-wheels", default=True, help="Whether to take along packages, too.")
def main(runs: str, output: Path, version: str, wheels: bool) -> None:
    """Make a folder that predicts without the internet."""
    names = split_runs(runs, GIVE)
    with writing_explained(output):
        output.mkdir(parents=True, exist_ok=True)
        if any(output.iterdir()):
            raise UsageError(f"making {output}", "it is not empty", "Name a new folder")
    lines = make_folder(names, output, version, wheels)
    keep_output(output)
    say("\n".join(lines))


def make_folder(
    names: list[str], output: Path, version: str = "HEAD", wheels: bool = False
) -> list[str]:
    """Fill a new or empty folder with models and the code of a commit; return how to use it."""
    models = output / "models"
    with TemporaryDirectory(prefix="models-") as downloads:
        for place, folder in enumerate(model_folders(names, Path(downloads))):
            shutil.copytree(folder, models / str(place))
    commit = _copy_code(version, output / "code")
    if wheels:
        wanted = [f"{name}=={importlib.metadata.version(name)}" for name in PACKAGES]
        build_wheels(wanted, output / "wheels")
    (output / PREDICT).write_text(_program(models, wheels), encoding="utf-8")
    lines = _instructions(models, output, commit)
    (output / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return lines


def _copy_code(version: str, folder: Path) -> str:
    commit = find_commit(Path(__file__).parent, version)
    with TemporaryDirectory(prefix="code-") as scratch:
        source = clone(commit, Path(scratch) / "clone")
        for part in ("src", "config"):
            shutil.copytree(source / part, folder / part)
        shutil.copy2(source / "LICENSE", folder)
    (folder / COMMIT).write_text(f"{commit.sha}\n", encoding="utf-8")
    return commit.sha


def _program(models: Path, wheels: bool) -> str:
    runs = ",".join(f"$HERE/models/{folder.name}" for folder in sorted(models.iterdir()))
    lines = [
        "set -e",
        'HERE=$(cd "$(dirname "$0")" && pwd)',
        *([INSTALL] if wheels else []),
        f'PYTHONPATH="$HERE/code/src" python -m competitions.predict --runs "{runs}" \\',
        '    --output submission.csv --overrides "data=folder data.dir=$1"',
    ]
    return "\n".join(lines) + "\n"


def _instructions(models: Path, output: Path, commit: str) -> list[str]:
    competition = load_task(read_saved(models / "0" / CONFIG_FILE).task).competition
    return [
        f"Make a Kaggle dataset of {output.resolve().name} and attach it and {competition} to a "
        "notebook. There, with the internet off:",
        "",
        "    %%bash",
        "    set -e",
        # Kaggle mounts what is attached now here, now there, so it is looked for.
        f"    HERE=$(grep -rlx --include={COMMIT} {commit} {INPUT} || true)",
        f"    HERE=${{HERE%/code/{COMMIT}}}",
        f"    DATA=$(find {INPUT} -type d -name {competition} -print -quit)",
        '    test -d "$HERE" -a -d "$DATA" || { echo "attach both, each once"; exit 1; }',
        "    cd /kaggle/working",
        f'    bash "$HERE/{PREDICT}" "$DATA"',
    ]


if __name__ == "__main__":
    run_command(main)
