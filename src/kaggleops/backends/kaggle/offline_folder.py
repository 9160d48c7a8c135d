"""A folder that predicts with the internet off: models, code, wheels, and `predict.sh`.

`predict.sh DATA` predicts the competition's data in the folder DATA, and leaves submission.csv in
the working directory. A project's entry point `offline` makes such a folder itself. For another
project it is the run's artifacts, the commit's code, and its entry point `predict` or a program.
That of a blend holds the folders of its members.
"""

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run

from kaggleops.backends.downloads import download_artifacts
from kaggleops.backends.kaggle import blend_program
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.git.checkouts import clone
from kaggleops.git.command import not_inherited
from kaggleops.git.commits import Commit
from kaggleops.git.project_files import entry_points, has_path
from kaggleops.launch.failure import cause
from kaggleops.secret_scan import in_file

PREDICT = "predict.sh"
"""The program of a folder, with which the notebook starts it."""

_FORM = 1  # of the folder: another one makes other datasets of the same runs
# What a parameter of an entry point is given, by its name.
_GIVEN = {
    **{"models": "MODELS", "model": "MODELS", "runs": "MODELS"},
    **{"data": "DATA", "output": "OUTPUT"},
}

_SCRIPT = """set -e
HERE=$(cd "$(dirname "$0")" && pwd)
export MODELS="$HERE/models" DATA="$1" OUTPUT="$PWD/submission.csv"
{wheels}
# What is attached cannot be written.
CODE=$(mktemp -d)
cp -r "$HERE/code/." "$CODE"
cd "$CODE"
{command}
if [ ! -f "$OUTPUT" ] && [ -f submission.csv ]; then mv submission.csv "$OUTPUT"; fi
"""
_BLEND = """set -e
HERE=$(cd "$(dirname "$0")" && pwd)
WORK=$(mktemp -d)
for each in {numbers}; do
  mkdir "$WORK/$each"
  (cd "$WORK/$each" && bash "$HERE/$each/predict.sh" "$1")
done
python "$HERE/blend.py" submission.csv {files}
"""
INSTALL = 'pip install --quiet --no-index --no-deps "$HERE"/wheels/*.whl'
"""The line of `predict.sh` that installs the wheels."""


def build_wheels(packages: Sequence[str], folder: Path) -> None:
    """Build wheels of packages, as pip names them, without what they depend on.

    Raises KaggleOpsError if pip cannot.
    """
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder)]
    done = subprocess.run([*command, *packages], capture_output=True, text=True, check=False)
    if done.returncode:
        problem = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise KaggleOpsError(f"making wheels of {', '.join(packages)}", problem)


@dataclass(frozen=True)
class OfflineFolder:
    """What is needed to predict with a run's models.

    Raises (all of its methods) UsageError if the commit has no way to predict.
    """

    tracking_uri: str  # of the bucket
    run: Run
    models: Sequence[str]  # the ids of the runs whose models predict: the run itself, or several
    commit: Commit  # the code that predicts
    script: str = ""  # a program of the commit's that does, in place of its entry point
    wheels: Sequence[str] = ()  # packages to take along, as pip names them

    @cached_property
    def digest(self) -> str:
        """What tells it from another one: 16 hexadecimal digits, known before it is made."""
        ended = [self.run.info.end_time, _FORM]
        told = [*self.models, self.commit.sha, self.script, *self.wheels, ended]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]

    @cached_property
    def _makes_itself(self) -> bool:
        return not self.script and "offline" in self._entry_points

    @cached_property
    def _entry_points(self) -> Mapping[str, Mapping[str, Any]]:
        return entry_points(self.commit.repository, self.commit.sha)

    def describe(self) -> str:
        """Return what it holds, and how it predicts."""
        how = "entry point offline" if self._makes_itself else self.script or "entry point predict"
        if not self._makes_itself:
            self._command()
        several = f"{len(self.models)} runs'" if len(self.models) > 1 else f"{self.models[0][:8]}'s"
        taken = f", wheels of {', '.join(self.wheels)}" if self.wheels else ""
        return f"{several} models, code of {self.commit.sha[:10]} ({how}){taken}"

    def make(self, folder: Path, scratch: Path) -> None:
        """Make it, in a new folder; `scratch` is an empty one that is no longer needed then.

        Raises KaggleOpsError if the models cannot be fetched, or an entry point fails.
        """
        if self._makes_itself:
            self._by_entry_point(clone(self.commit, scratch / "clone"), folder)
        else:
            command = self._command()
            clone(self.commit, folder / "code")
            shutil.rmtree(folder / "code/.git")
            self._fetch_models(folder / "models")
            if self.wheels:
                build_wheels(self.wheels, folder / "wheels")
            lines = {"wheels": INSTALL if self.wheels else "", "command": command}
            (folder / PREDICT).write_text(_SCRIPT.format(**lines), encoding="utf-8")
        for path in sorted((folder / "code").rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and (found := in_file(name, path.read_bytes())):
                problem = f"there is a secret in it ({found[0]})"
                raise UsageError(f"making {folder.name}", problem, "Take it out, and commit.")

    def _by_entry_point(self, source: Path, folder: Path) -> None:
        doing = f"running the entry point offline of {self.commit.sha[:10]}"
        given = {"runs": ",".join(self.models), "output": str(folder)}
        dropped = {"MLFLOW_RUN_ID", *not_inherited()}  # git in there means that repository
        environment = {name: value for name, value in os.environ.items() if name not in dropped}
        there = [str(Path(sys.executable).parent), environment.get("PATH", os.defpath)]
        environment |= {"MLFLOW_TRACKING_URI": self.tracking_uri, "PATH": os.pathsep.join(there)}
        done = subprocess.run(
            ["bash", "-c", _filled(self._entry_points["offline"], given, doing)],
            cwd=source,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            raise KaggleOpsError(doing, cause(done.stdout.splitlines(), done.returncode))
        if not (folder / PREDICT).is_file():
            hint = "Name a newer --version, in which it does, or a program with --script."
            raise UsageError(doing, f"there is no {PREDICT} in what it wrote", hint)

    def _fetch_models(self, folder: Path) -> None:
        client = mlflow.MlflowClient(self.tracking_uri)
        for run_id in self.models:
            # Of several, each has a folder of its own.
            own = folder / run_id if len(self.models) > 1 else folder
            brought = download_artifacts(client, run_id, own)
            doing = f"fetching the artifacts of run {run_id}"
            if brought.problems:
                raise KaggleOpsError(doing, brought.problems[0])
            if not brought.files:
                raise UsageError(doing, "it has none", "Log its model: mlflow.log_artifact(…).")

    def _command(self) -> str:
        """Return what predicts, as a line of a shell in the folder of the code."""
        short = self.commit.sha[:10]
        doing = f"looking for a way to predict in {short}"
        if self.script:
            if not has_path(self.commit.repository, self.commit.sha, self.script):
                raise UsageError(doing, f"it has no {self.script}", "Commit it; see --version.")
            return f"python {shlex.quote(self.script)}"
        if "predict" not in self._entry_points:
            hint = "Add one, or name a program with --script; and --version, if it is newer."
            raise UsageError(doing, "its MLproject has no entry point predict", hint)
        given = {name: f"@{place}@" for name, place in _GIVEN.items()}  # no shell quotes that
        line = _filled(self._entry_points["predict"], given, doing)
        for place in _GIVEN.values():
            line = line.replace(f"@{place}@", f'"${place}"')
        return line


@dataclass(frozen=True)
class BlendFolder:
    """The folders of a blend's members, one a member, and what blends their submissions."""

    members: Sequence[tuple[OfflineFolder, float]]  # each with its weight

    @cached_property
    def digest(self) -> str:
        """As that of a single one."""
        told = [[folder.digest, weight] for folder, weight in self.members]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]

    def describe(self) -> str:
        """Return what it holds; UsageError if a member cannot predict."""
        return "; ".join(f"{weight:.2f} of {each.describe()}" for each, weight in self.members)

    def make(self, folder: Path, scratch: Path) -> None:
        """Make it; as that of a single one."""
        for at, (member, _) in enumerate(self.members):
            for each in (folder / str(at), scratch / str(at)):
                each.mkdir()
            member.make(folder / str(at), scratch / str(at))
        shutil.copy(blend_program.__file__, folder / "blend.py")
        weights = enumerate(weight for _, weight in self.members)
        files = [f'"$WORK/{at}/submission.csv={weight}"' for at, weight in weights]
        numbers = " ".join(map(str, range(len(self.members))))
        (folder / PREDICT).write_text(_BLEND.format(numbers=numbers, files=" ".join(files)))


def _filled(point: Mapping[str, Any], given: Mapping[str, str], doing: str) -> str:
    """Return an entry point's command with values for its parameters, or their defaults."""
    values = {}
    for name, told in (point.get("parameters") or {}).items():
        value = given.get(name, told.get("default") if isinstance(told, dict) else None)
        if value is None:
            problem = f"its parameter {name} has no default"
            raise UsageError(doing, problem, f"Known are {', '.join(sorted(given))}.")
        values[name] = shlex.quote(str(value))
    command = str(point.get("command", ""))
    try:
        return command.format(**values)
    except (KeyError, IndexError, ValueError) as error:
        raise UsageError(doing, f"its command has a {{…}} that is no parameter ({error})") from None
