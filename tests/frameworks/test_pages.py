"""Each framework's page: its script in an adopted repository, beside MLflow's own SQL store."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from mlflow import MlflowClient

from tests.command import kaggleops_here
from tests.frameworks.adopting import PYTHON, adopted, client_of, train

PAGES = Path(__file__).parents[2] / "docs/frameworks"

TESTED = sorted(each.stem for each in PAGES.glob("*.md")) if PYTHON else ["pytorch", "scikit-learn"]
# KAGGLEOPS_TEST_FRAMEWORKS=…/bin/python make test PYTEST=tests/frameworks

EDITS = {
    "catboost": ("200, 0.05, args.depth", "100, 0.05, args.depth"),
    "fastai-timm": ("learn.fit(2,", "learn.fit(1,"),
    "keras": ("epochs=3", "epochs=2"),
    "lightgbm": ("n_estimators=60", "n_estimators=30"),
    "lightning": ("self.parameters(), args.lr", "self.parameters(), args.lr / 2"),
    "pytorch": (
        "nn.Linear(64, 32), nn.ReLU(), nn.Linear(32",
        "nn.Linear(64, 8), nn.ReLU(), nn.Linear(8",
    ),
    "scikit-learn": ("RandomForestClassifier(20,", "RandomForestClassifier(5,"),
    "xgboost": ("num_boost_round=60", "num_boost_round=20"),
}
"""What the page's reader changes in the second commit."""

OURS = re.compile(
    r"mlflow\.(source|project|git|user|runName|note|gitRepo).*|(git_|kaggleops).*|commit|backend|accelerator|machine.*"
)
OF_A_SAVE = ("schema.json", "metadata.json", "config.json", "model.weights.h5")
"""In a model's archive: what holds addresses in memory (skops), and the time (Keras)."""
_OF_A_RUN = re.compile(r"[0-9a-f]{32}|m-[0-9a-f]{32}|20\d\d-\d\d-\d\d[ T][\d:.]+")


@dataclass
class Page:
    """What a reader takes from a page."""

    name: str

    @property
    def text(self) -> str:
        return (PAGES / f"{self.name}.md").read_text()

    @property
    def script(self) -> str:
        (script,) = re.findall(r"```python\n(.*?)```", self.text, re.DOTALL)
        return str(script)

    @property
    def packages(self) -> list[str]:
        (line,) = re.findall(r"^\$ pip install (.*)$", self.text, re.MULTILINE)
        return str(line).split()

    @property
    def loading(self) -> str:
        (code,) = re.findall(r"`(mlflow\.\w+\.load_model\(.*?\))`", self.text)
        return str(code)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that the page sets where a model is loaded."""
        return dict(re.findall(r"`([A-Z_]+)=(\w+)`", self.text))


@pytest.fixture(params=TESTED)
def page(request: pytest.FixtureRequest) -> Page:
    return Page(request.param)


@pytest.mark.timeout(1200 if PYTHON else 300)
@pytest.mark.usefixtures("quick")
def test_a_page_from_its_script_to_a_compared_commit(
    page: Page, tmp_path: Path, empty_index: Path
) -> None:
    repository = adopted(tmp_path / "work", page.packages, train_py=page.script)
    run_id = train(repository)

    # With MLflow's schema already: its migrations take seconds.
    stock = f"sqlite:///{shutil.copyfile(empty_index, tmp_path / 'stock.db')}"
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in ("train.py", "requirements.txt"):
        shutil.copy(repository.folder / name, plain)
    command = [PYTHON or sys.executable, "train.py"]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": stock}
    done = subprocess.run(command, cwd=plain, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (theirs,) = MlflowClient(stock).search_runs(["0"])

    ours, expected = (
        told(client_of(repository), run_id),
        told(MlflowClient(stock), theirs.info.run_id),
    )
    ours["artifacts"].pop("output.txt", None)
    for part in expected:
        assert different(ours[part], expected[part]) == {}, part
    assert "fold_4" in expected["models"]
    code = page.loading.replace("RUN", run_id)
    loads(code, client_of(repository).tracking_uri, page.environment)

    if PYTHON:  # else test_one_process.py compares two commits, which no framework changes
        before, after = EDITS[page.name]
        assert before in page.script
        repository.write(train_py=page.script.replace(before, after))
        repository.commit("A change")
        train(repository)
        done = kaggleops_here("compare", "HEAD~1", "HEAD", "--json", cwd=repository.folder)
        assert done.code == 0, done.errors


def different(first: Any, second: Any) -> Any:
    """Return what two differ in, and no more of it: a model has a hundred files and points."""
    if isinstance(first, dict) and isinstance(second, dict):
        apart = {key: (first.get(key), second.get(key)) for key in {**first, **second}}
        return {key: found for key, each in apart.items() if (found := different(*each))}
    return {} if first == second else (first, second)


def loads(code: str, tracking_uri: str, variables: Mapping[str, str]) -> None:
    flavor = code.split(".")[1]
    program = f"import mlflow, mlflow.{flavor}; mlflow.set_tracking_uri({tracking_uri!r}); {code}"
    if PYTHON:
        environment = {**os.environ, **variables}
        done = subprocess.run(
            [PYTHON, "-c", program], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    else:
        exec(program)


def told(client: MlflowClient, run_id: str) -> dict[str, Any]:
    """Return all that a store tells of a run, but for what differs from run to run."""
    run = client.get_run(run_id)
    models = [client.get_logged_model(each.model_id) for each in run.outputs.model_outputs]
    tags = {key: value for key, value in run.data.tags.items() if not OURS.fullmatch(key)}
    return {
        "status": run.info.status,
        "points": {
            name: sorted((at.step, at.value) for at in client.get_metric_history(run_id, name))
            for name in run.data.metrics
        },
        "params": run.data.params,
        "tags": {key: _OF_A_RUN.sub("…", value) for key, value in tags.items()},
        "inputs": sorted(
            (each.dataset.name, each.dataset.digest, each.dataset.profile)
            for each in run.inputs.dataset_inputs
        ),
        "artifacts": files(run.info.artifact_uri, client) if client.list_artifacts(run_id) else {},
        "models": {
            model.name: {
                "status": str(model.status),
                "params": model.params,
                "metrics": sorted(
                    (each.key, each.value, each.step) for each in model.metrics or ()
                ),
                "files": files(model.artifact_location, client),
            }
            for model in models
        },
    }


def files(location: str, client: MlflowClient) -> Mapping[str, str]:
    """Return the digest of each file of an artifact folder; of text, without ids and times."""
    folder = Path(mlflow.artifacts.download_artifacts(location, tracking_uri=client.tracking_uri))
    found = {}
    for file in sorted(each for each in folder.rglob("*") if each.is_file()):
        data = file.read_bytes()
        if file.name in ("MLmodel", "registered_model_meta"):
            known = yaml.safe_load(data)
            kept = {key for key in known if key not in ("model_size_bytes", "artifact_path")}
            data = _OF_A_RUN.sub(
                "…", json.dumps({key: known[key] for key in kept}, sort_keys=True, default=str)
            ).encode()
        elif zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                names = [each for each in archive.namelist() if Path(each).name not in OF_A_SAVE]
                data = b"".join(sorted(digest(archive.read(each)) for each in names))
        elif file.suffix == ".cb":  # holds a random id, and when it was trained
            data = str(len(data)).encode()
        found[file.relative_to(folder).as_posix()] = digest(data).decode()
    return found


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest()[:12].encode()
