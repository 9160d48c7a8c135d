"""What lies in a run's checkout besides its commit: data, and what the run leaves."""

from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run

from kaggleops.backends.local import Job
from kaggleops.git.checkouts import clone
from kaggleops.git.commits import find_commit
from kaggleops.launch.launcher import Launch, RunFailedError, launch_in
from kaggleops.resources.places import DATA_ROOT
from kaggleops.session_end import SESSION_ENDS
from tests import secrets_of
from tests.command import Done, kaggleops_here
from tests.fakes.git_server import Repository

MLPROJECT = """
name: toy
data: [data/train.csv]
entry_points:
  main:
    parameters:
      way: {type: string, default: end}
      epochs: {type: float, default: 1}
    command: "python train.py {way}"
"""

TRAIN = """
import os, signal, sys
from pathlib import Path
import mlflow
way = sys.argv[1]
mlflow.log_metric("rows", len(Path("data/train.csv").read_text().split()), step=int(way != "42"))
Path("results/deep").mkdir(exist_ok=True)
Path("results/changed.txt").write_text(f"changed, {way}")
Path("results/same.txt").write_text(Path("results/same.txt").read_text())  # a new time, no more
Path("results/deep/model.bin").write_bytes(bytes(range(256)))
Path("results/link").symlink_to("/etc/hostname")
Path("results/keys.txt").write_text(os.environ["NOT_FOR_OTHERS"])
with open("results/huge.bin", "wb") as huge:
    huge.truncate(1_100_000_000)
Path("oof.csv").write_text("id,prediction\\n")
Path("submission.csv").write_text("another")
mlflow.log_text("the run's own", "submission.csv")
Path("scratch.csv").write_text("nobody asked for it")
if way == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit({"end": 0, "42": 42}.get(way, 1))
"""

KEPT = {"results/changed.txt", "results/deep/model.bin", "oof.csv", "submission.csv"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A repository that reads data which git does not have, and writes into its checkout."""
    monkeypatch.setenv("NOT_FOR_OTHERS", f"\n{secrets_of.KAGGLE_KEY}\n")
    repository = Repository(tmp_path / "project")
    repository.write(MLproject=MLPROJECT, train_py=TRAIN)
    (repository.folder / "results").mkdir()
    for name in ("same", "changed"):
        (repository.folder / f"results/{name}.txt").write_text("as committed")
    (repository.folder / ".gitignore").write_text("/data/\n*.csv\n")
    repository.commit("Train on data that git does not have")
    (repository.folder / "data").mkdir()
    (repository.folder / "data/train.csv").write_text("one two three")
    return repository


def run(project: Repository, *arguments: str) -> Done:
    bucket = project.folder.parent / "bucket"
    return kaggleops_here("run", "--bucket", bucket, *arguments, cwd=project.folder)


def artifacts(project: Repository) -> tuple[Run, dict[str, str]]:
    """Return the newest run, and its artifacts' contents."""
    client = mlflow.MlflowClient(f"bucket+file://{project.folder.parent}/bucket/mlruns")
    (found,) = client.search_runs([client.get_experiment_by_name("toy").experiment_id])
    folder = project.folder.parent / "got"
    folder.mkdir(exist_ok=True)
    client.download_artifacts(found.info.run_id, "", str(folder))
    files = [path for path in folder.rglob("*") if path.is_file()]
    return found, {path.relative_to(folder).as_posix(): path.read_text("latin-1") for path in files}


@pytest.mark.parametrize(
    ("way", "status"), [("end", "FINISHED"), ("fail", "FAILED"), ("killed", "FAILED")]
)
def test_what_a_run_leaves_is_kept_however_it_ends(
    project: Repository, way: str, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    done = run(project, f"way={way}")
    assert done.code == (way != "end"), done.errors
    found, there = artifacts(project)
    assert found.info.status == status
    assert found.data.metrics.get("rows", 3) == 3  # a kill may take the last ones
    assert there.keys() >= KEPT
    assert not {"results/same.txt", "results/link", "results/keys.txt", "scratch.csv"} & set(there)
    assert there["results/changed.txt"] == f"changed, {way}"
    assert there["submission.csv"] == "the run's own"
    assert "results/keys.txt is not kept: line 2 holds a secret (Kaggle key)." in caplog.text
    assert "Not kept: results/huge.bin; a run keeps 1 GB and 1,000 files of" in caplog.text
    assert "submission.csv is not kept: the run has logged another one" in caplog.text
    assert (project.folder / "results/changed.txt").read_text() == "as committed"
    assert (project.folder / "data/train.csv").read_text() == "one two three"


def test_data_counts_for_the_run_that_reads_it_and_for_none_after_it(project: Repository) -> None:
    assert run(project).code == 0  # and the bucket is remembered
    pushed = kaggleops_here("data", "push", "data", cwd=project.folder)
    assert pushed.code == 0, pushed.errors
    project.commit("Say where the data is")
    for mlproject, read in (MLPROJECT, ["data"]), (MLPROJECT.replace("data: ", "# "), []):
        project.write(MLproject=mlproject, train_py="print('trained')")
        project.commit("Train")
        done = run(project, "--json")
        assert done.code == 0, done.errors
        client = mlflow.MlflowClient(f"bucket+file://{project.folder.parent}/bucket/mlruns")
        found = client.get_run(done.json["run_id"])
        assert [each.dataset.name for each in found.inputs.dataset_inputs] == read


def test_a_later_leg_replaces_what_an_earlier_one_left(
    project: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SESSION_ENDS, "0")
    assert run(project, "way=42").code == 42
    found, there = artifacts(project)
    assert there["results/changed.txt"] == "changed, 42"
    script = (project.folder / "train.py").read_text()
    uri = f"bucket+file://{project.folder.parent}/bucket/mlruns"
    commit = find_commit(project.folder)
    monkeypatch.setenv(DATA_ROOT, str(project.folder))
    folder = clone(commit, project.folder.parent / "another machine/project")
    (folder / "train.py").write_text(script.replace("changed, {way}", "changed again"))
    with pytest.raises(RunFailedError):  # it has logged no further step
        launch_in(folder, commit, Launch(uri, run_id=found.info.run_id))
    assert artifacts(project)[1]["results/changed.txt"] == "changed again"


def test_a_run_that_is_resumed_here_finds_its_data(project: Repository) -> None:
    assert run(project, "way=fail").code == 1
    found, _ = artifacts(project)
    (project.folder / "data/train.csv").write_text("one two three four")
    place = ("--bucket", project.folder.parent / "bucket")
    elsewhere = ("resume", found.info.run_id, "-b", "manual", *place)
    refused = kaggleops_here(*elsewhere, cwd=project.folder)
    assert "its data data/train.csv is on this machine only" in refused.error
    # In a folder of the repository; then where nobody has the data.
    for folder, why in (project.folder / "data", "exit code 1"), (Path("/"), "its data data/train"):
        resumed = kaggleops_here("resume", found.info.run_id, "-b", "local", *place, cwd=folder)
        assert resumed.code == 0, resumed.errors
        job = Job.of(found.info.run_id)
        job.wait()
        assert why in str(job.state)
        assert artifacts(project)[0].data.metrics["rows"] == 4
    assert "Start it in a repository that has it, or say where it comes from" in job.log.read_text()


@pytest.mark.parametrize(
    ("lines", "given", "problem"),
    [
        (
            "keep: [../other]",
            [],
            "no paths in the repository. Write keep: [FOLDER/, FILE.csv]",
        ),
        ("keep: /results", [], "FILE.csv], or keep: []"),
        ("data: {a: b}", [], "`data` in MLproject lists no paths in the repository"),
        ("data: [data/train.csv, data/gone.csv]", [], "its data data/gone.csv is neither in git"),
        ("", ["epochs=many"], "epochs takes a number, not 'many'"),
        ("", ["epochs=1,2"], "not '1,2'. `kaggleops sweep epochs=1,2` runs each."),
    ],
)
def test_what_is_wrong_is_refused_before_there_is_a_run(
    project: Repository, lines: str, given: list[str], problem: str
) -> None:
    key = lines.partition(":")[0]
    kept = "\n".join(each for each in MLPROJECT.split("\n") if not key or key not in each[:5])
    project.write(MLproject=f"{kept}\n{lines}\n")
    project.commit("Say it wrongly")
    done = run(project, *given)
    assert (done.code, problem in done.error) == (2, True), done.errors
    assert not list((project.folder.parent / "bucket").rglob("artifacts"))


def test_nothing_is_kept_where_the_project_says_so(project: Repository) -> None:
    project.write(MLproject=f"{MLPROJECT}\nkeep: []\n")
    project.commit("Keep nothing")
    assert run(project).code == 0
    assert artifacts(project)[1].keys() == {"submission.csv"}


def test_download_brings_what_a_run_here_has_left(project: Repository) -> None:
    assert run(project).code == 0
    found, there = artifacts(project)
    done = kaggleops_here("download", found.info.run_name, cwd=project.folder)
    assert done.code == 0, done.errors
    folder = f"results/{found.info.run_name}-{found.info.run_id[:8]}"
    assert done.output == f"{folder} holds {len(there)} files of run {found.info.run_name}.\n"
    brought = project.folder / folder
    files = {path.relative_to(brought).as_posix() for path in brought.rglob("*") if path.is_file()}
    assert files == there.keys()
    assert find_commit(project.folder).uncommitted == ()


def test_a_folder_that_is_kept_is_there(project: Repository) -> None:
    project.write(
        MLproject="name: toy\nkeep: [new/deep/]\nentry_points:\n  main:\n"
        "    command: 'echo 1 > new/deep/a.txt'\n"
    )
    project.commit("Write into a folder that git does not have")
    assert run(project).code == 0
    assert "new/deep/a.txt" in artifacts(project)[1]


def test_one_file_that_cannot_be_kept_costs_no_other(
    project: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    script = (
        "import os\nfrom pathlib import Path\n"
        "open(b'results/no\\xff text', 'w').close()\nPath('results/two\\nlines\\x1b[2J').touch()\n"
        "os.mkfifo('results/pipe')\nPath('results/loop').symlink_to('loop')\n"
        "Path('results/kept').write_text('it is')\n"
    )
    project.write(train_py=script)
    project.commit("Leave files with names that no bucket takes")
    done = run(project)
    assert done.code == 0, done.errors
    assert artifacts(project)[1].keys() == {"results/kept"}
    assert "no\\udcff text is not kept: " in caplog.text
    assert "results/two\\nlines\\x1b[2J is not kept: " in caplog.text


def test_a_file_in_place_of_a_folder_that_is_kept_stays(project: Repository) -> None:
    project.write(
        MLproject="name: toy\nkeep: [results.txt/, gone/, gone/deep/]\nentry_points:\n  main:\n"
        "    command: 'echo another > results.txt'\n",
    )
    (project.folder / "results.txt").write_text("a file")
    (project.folder / "gone").symlink_to("/nowhere/at/all")
    project.commit("Name a file like a folder, and a link to nowhere")
    done = run(project)
    assert done.code == 0, done.errors
    assert artifacts(project)[1] == {"results.txt": "another\n"}
