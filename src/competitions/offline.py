"""Entry point `offline`: a folder that predicts without the internet, as Kaggle's notebooks must.

    python -m competitions.offline --runs RUN_ID,RUN_ID --output my-models

It holds the models of the runs, the code of the commit that is checked out, wheels of the pure
Python packages that a Kaggle notebook lacks, and predict.sh: `bash predict.sh DATA` predicts what
is in the folder DATA. `kaggleops submit RUN --code` makes it, and a dataset, a notebook and a
submission of it. Launched by `mlflow run`, the folder becomes an artifact of the run.
"""

import importlib.metadata
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from competitions.console import run_command, say, split_runs, writing_explained
from competitions.predict import GIVE, keep_output, model_folders
from kaggleops.backends.kaggle.offline_folder import INSTALL, PREDICT, build_wheels
from kaggleops.errors import UsageError
from kaggleops.git.checkouts import clone
from kaggleops.git.commits import find_commit

# What predicting imports and Kaggle's image does not have; the others it does.
PACKAGES = ("hydra-core", "omegaconf", "antlr4-python3-runtime")


@click.command()
@click.option("--runs", required=True, help="Run ids or model folders, separated by commas.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="A new folder.")
@click.option("--wheels/--no-wheels", default=True, help="Whether to take along packages, too.")
def main(runs: str, output: Path, wheels: bool) -> None:
    """Make a folder that predicts without the internet."""
    names = split_runs(runs, GIVE)
    with writing_explained(output):
        output.mkdir(parents=True, exist_ok=True)
        if any(output.iterdir()):
            raise UsageError(f"making {output}", "it is not empty", "Name a new folder")
    make_folder(names, output, wheels)
    keep_output(output)
    say(f"Attach {output} as a Kaggle dataset; there: bash {PREDICT} <folder of the data>")


def make_folder(names: list[str], output: Path, wheels: bool = False) -> None:
    """Fill a new or empty folder with models and the code of the commit."""
    with TemporaryDirectory(prefix="offline-") as scratch:
        for place, folder in enumerate(model_folders(names, Path(scratch))):
            shutil.copytree(folder, output / "models" / str(place))
        source = clone(find_commit(Path(__file__).parent), Path(scratch) / "clone")
        for part in ("src", "config"):
            shutil.copytree(source / part, output / "code" / part)
        shutil.copy2(source / "LICENSE", output / "code")
    if wheels:
        wanted = [f"{name}=={importlib.metadata.version(name)}" for name in PACKAGES]
        build_wheels(wanted, output / "wheels")
    models = sorted(folder.name for folder in (output / "models").iterdir())
    runs = ",".join(f"$HERE/models/{name}" for name in models)
    lines = [
        "set -e",
        'HERE=$(cd "$(dirname "$0")" && pwd)',
        *([INSTALL] if wheels else []),
        f'PYTHONPATH="$HERE/code/src" python -m competitions.predict --runs "{runs}" \\',
        '    --output submission.csv --overrides "data=folder data.dir=$1"',
    ]
    (output / PREDICT).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
