"""What lies on Kaggle, fetched through Kaggle's real client."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.resources.files import Staging
from kaggleops.resources.lock import read_lock
from kaggleops.resources.origins import GoneError
from kaggleops.resources.sync import compare, fetch, lock
from tests.command import kaggleops_here
from tests.fakes.git_server import Repository
from tests.fakes.kaggle_server import KaggleServer

from .conftest import Project

FILES = {"train.csv": b"id,y\n1,2\n" * 1000, "deep/a b.csv": b"1", "empty.csv": b""}


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KaggleServer]:
    """A Kaggle that this process's client goes to, as Ada."""
    with KaggleServer(tmp_path / "kaggle") as server:
        server.add_user("ada")
        server.api("ada")
        for name in ("HOME", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_ENVIRONMENT"):
            monkeypatch.setenv(name, server.environment("ada")[name])
        server.add_competition("tweets", "Tweets", FILES, lambda data: 0.0)
        server.add_dataset("ada/words", FILES)
        server.add_model("ada/net/pytorch/base/2", FILES)
        yield server


SOURCES = {
    "competitions": "kaggle://competitions/tweets",
    "datasets": "kaggle://datasets/ada/words",
    "models": "kaggle://models/ada/net/pyTorch/base/2",
}


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "zipped"])
@pytest.mark.parametrize("kind", SOURCES)
def test_every_file_comes_once(
    kind: str, zipped: bool, kaggle: KaggleServer, project: Project
) -> None:
    kaggle.behaviour.zipped_downloads = zipped
    manifest = project.declare(x={"source": SOURCES[kind]})
    assert fetch(manifest, dry_run=True).size == 9001
    assert project.files() == {}
    came: list[int] = []
    done = fetch(manifest, progress=came.append)
    assert (len(done.steps), done.size, done.right) == (3, 9001, 0)
    assert project.files("data/x") == FILES
    kaggle.reset_counts()
    assert fetch(manifest).right == 3
    assert kaggle.requests == []
    lock(manifest)  # nothing has changed: nothing comes again
    assert kaggle.count("output file") == 0
    (project.folder / "data/x/train.csv").unlink()
    assert len(fetch(manifest).steps) == 1
    assert project.files("data/x") == FILES


def test_many_files_in_pages(kaggle: KaggleServer, project: Project) -> None:
    many = {f"{number:03}.txt": b"%d" % number for number in range(230)}
    kaggle.add_dataset("ada/many", many)
    source = {"source": "kaggle://datasets/ada/many", "files": ["22*", "1?0.txt"]}
    manifest = project.declare(many=source)
    fetch(manifest)
    assert len(project.files()) == 20


def test_a_version_stays_until_it_is_locked_anew(kaggle: KaggleServer, project: Project) -> None:
    manifest = project.declare(x={"source": SOURCES["datasets"]})
    lock(manifest)
    kaggle.dataset("ada/words").versions.append({"train.csv": b"new"})
    (project.folder / "data/x/train.csv").unlink()
    fetch(manifest)
    assert project.files("data/x") == FILES
    (status,) = compare(manifest)
    assert status.source == {"changed": ["train.csv"], "gone": ["deep/a b.csv", "empty.csv"]}
    lock(manifest)
    fetch(manifest)
    assert project.files("data/x")["train.csv"] == b"new"
    fetch(project.declare(x={"source": f"{SOURCES['datasets']}/versions/1"}))
    assert project.files("data/x")["train.csv"] == FILES["train.csv"]


def test_rules_that_are_not_accepted(kaggle: KaggleServer, project: Project) -> None:
    kaggle.add_competition("new", "New", FILES, lambda data: 0.0, not_accepted_by=["ada"])
    manifest = project.declare(
        new={"source": "kaggle://competitions/new"},
        none={"source": "kaggle://competitions/none"},
        secret={"source": "kaggle://datasets/bob/secret"},
        net={"source": "kaggle://models/bob/net/keras/base/1"},
    )
    page = r"Accept its rules: https://www\.kaggle\.com/competitions/new/rules"
    with pytest.raises(GoneError, match=page):
        fetch(manifest, ["new"])
    assert project.files() == {}
    assert not project.lock.exists()
    with pytest.raises(GoneError, match="competitions/none/rules"):
        lock(manifest, ["none"])
    with pytest.raises(GoneError, match=r"share it with you: .*datasets/bob/secret"):
        fetch(manifest, ["secret"])
    with pytest.raises(GoneError, match=r"consent: .*models/bob/net/keras/base"):
        fetch(manifest, ["net"])


def test_what_comes_to_be_locked_is_told_and_left_out_of_git(
    kaggle: KaggleServer, project: Project
) -> None:
    repository = Repository(project.folder)
    project.declare(x={"source": SOURCES["datasets"]}, y={"source": SOURCES["competitions"]})
    assert kaggleops_here("data", "fetch", "x").output.startswith("Fetched 3 files (9")
    assert kaggleops_here("data", "lock", "y").code == 0
    assert project.files("data/x") == project.files("data/y") == FILES
    assert repository.git("status", "--porcelain") == "?? config/"


@pytest.mark.parametrize("kind", ["truncate", "reset", 503])
def test_faults_that_pass(kind: int | str, kaggle: KaggleServer, project: Project) -> None:
    kaggle.fail(kind, op="output file", times=2)
    fetch(project.declare(x={"source": SOURCES["datasets"]}))
    assert project.files("data/x") == FILES


@pytest.mark.parametrize("zipped", [False, True])
def test_a_large_file_is_gone_on_with(zipped: bool, kaggle: KaggleServer, project: Project) -> None:
    content = random.Random(0).randbytes(3_000_000)
    kaggle.add_dataset("ada/large", {"x.bin": content})
    kaggle.behaviour.zipped_downloads = zipped
    kaggle.fail("truncate", op="output file", times=4)
    told: list[int] = []
    fetch(project.declare(x={"source": "kaggle://datasets/ada/large"}), progress=told.append)
    assert project.files("data/x") == {"x.bin": content}
    assert sum(told) == pytest.approx(len(content), rel=0.01)
    statuses = [each.status for each in kaggle.requests if each.op == "output file"]
    assert (statuses.count(200), statuses.count(206)) == (3, 2)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_beginning_of_something_else_is_forgotten(
    zipped: bool, kaggle: KaggleServer, project: Project
) -> None:
    kaggle.behaviour.zipped_downloads = zipped
    kaggle.add_dataset("ada/one", {"x.txt": b"text " * 100})
    manifest = project.declare(x={"source": "kaggle://datasets/ada/one"})
    lock(manifest)
    (file,) = read_lock(manifest)["x"].files
    for wrong in (b"te", b"wrong", b"x" * 10_000):
        (project.folder / "data/x/x.txt").unlink(missing_ok=True)
        Staging(project.folder / "data/x").part(file).write_bytes(wrong)
        fetch(manifest)
        assert project.files("data/x") == {"x.txt": b"text " * 100}


def test_what_points_out_of_the_folder(kaggle: KaggleServer, project: Project) -> None:
    kaggle.add_dataset("ada/evil", {"../evil.txt": b"x"})
    with pytest.raises(KaggleOpsError, match="leads out of the folder"):
        fetch(project.declare(x={"source": "kaggle://datasets/ada/evil"}))


def test_without_credentials(
    kaggle: KaggleServer, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = project.declare(x={"source": SOURCES["datasets"]})
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(UsageError, match=r"no credentials .*kaggle auth login"):
        fetch(manifest)
