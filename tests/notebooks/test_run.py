"""notebooks/run.ipynb, from top to bottom, against real git and the loopback bucket."""

from collections.abc import Iterator
from pathlib import Path

import mlflow
import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from tests.fakes.gcs_server import GcsServer
from tests.fakes.git_server import Repository, git_daemon
from tests.project.conftest import toy  # noqa: F401 - a fixture

from .execution import NOTEBOOKS, execute, parametrised, printed


@pytest.fixture
def served(toy: Repository, tmp_path: Path) -> Iterator[str]:  # noqa: F811
    """The repository's address on a real git server."""
    toy.git("clone", "--quiet", "--bare", str(toy.folder), str(tmp_path / "served/toy.git"))
    with git_daemon(tmp_path / "served") as address:
        yield f"{address}/toy.git"


@pytest.fixture(autouse=True)
def buckets(gcs_server: GcsServer) -> None:
    gcs_server.create_bucket("our-bucket")


def test_a_branch_becomes_a_run_of_its_commit(
    toy: Repository,  # noqa: F811
    served: str,
    tmp_path: Path,
) -> None:
    notebook = parametrised(
        "run.ipynb",
        repository=served,
        version="main",
        bucket="gs://our-bucket/prefix",
        experiment="from a notebook",
        overrides="alpha=0.25 'note=two words'",
    )
    shown = execute(notebook, tmp_path)
    sha = toy.git("rev-parse", "HEAD")
    assert f"{served} at {sha}" in shown
    assert "training" in shown  # what the child process printed
    assert "0.2500" in shown

    client = mlflow.MlflowClient("gs://our-bucket/prefix/mlruns")
    experiment = client.get_experiment_by_name("from a notebook")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.source.git.commit"] == sha
    assert run.data.tags["mlflow.source.git.repoURL"] == served
    assert run.data.metrics == {"alpha": 0.25}
    assert run.info.artifact_uri.startswith("gs://our-bucket/prefix/artifacts/")


def test_every_cell_can_be_run_again(served: str, tmp_path: Path) -> None:
    notebook = parametrised("run.ipynb", repository=served, bucket="gs://our-bucket")
    notebook.cells += [nbformat.from_dict(dict(cell)) for cell in notebook.cells]
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    execute(notebook, tmp_path)
    client = mlflow.MlflowClient("gs://our-bucket/mlruns")
    experiment = client.get_experiment_by_name("toy")
    assert len(client.search_runs([experiment.experiment_id])) == 2


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"version": "nonsense"}, "has no 'nonsense'"),
        ({"repository": "git://127.0.0.1:9/none.git"}, "error: git ls-remote"),
        ({"bucket": "gs://not-there"}, "not-there"),
        ({"overrides": "gamma=1"}, ""),
    ],
)
def test_bad_input_fails_the_notebook_with_one_clear_line(
    served: str, tmp_path: Path, parameters: dict[str, str], problem: str
) -> None:
    filled = {"repository": served, "bucket": "gs://our-bucket", **parameters}
    notebook = parametrised("run.ipynb", **filled)
    if problem:
        with pytest.raises(CellExecutionError):
            execute(notebook, tmp_path)
        assert problem in printed(notebook)
    else:
        execute(notebook, tmp_path)


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_in_git_have_no_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    # "No kernel name found" is how Kaggle answers a notebook without one.
    assert notebook.metadata.kernelspec.name == "python3"
