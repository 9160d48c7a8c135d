"""Which commit is meant, what is not in it, and a fresh clone of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kaggleops.errors import UsageError
from kaggleops.git.addresses import web_address, without_credentials
from kaggleops.git.checkouts import clone, fetch
from kaggleops.git.commits import find_commit
from tests.fakes.git_server import Repository, git_daemon


def test_what_is_checked_out_is_meant_by_default(toy: Repository) -> None:
    (toy.folder / "below").mkdir()
    commit = find_commit(toy.folder / "below")
    assert commit.sha == toy.git("rev-parse", "HEAD")
    assert (commit.repository, commit.subject, commit.branch, commit.uncommitted) == (
        toy.folder,
        "Second version",
        "main",
        (),
    )


@pytest.mark.parametrize("version", ["HEAD~1", "v1", "old", "short"])
def test_any_name_of_a_commit_will_do(toy: Repository, version: str) -> None:
    first = toy.git("rev-parse", "HEAD~1")
    toy.git("tag", "v1", first)
    toy.git("branch", "old", first)
    commit = find_commit(toy.folder, first[:8] if version == "short" else version)
    assert (commit.sha, commit.subject) == (first, "First version")
    assert commit.branch == ("old" if version == "old" else "")


def test_a_branch_that_only_the_remote_has(toy: Repository, tmp_path: Path) -> None:
    toy.git("branch", "theirs", "HEAD~1")
    toy.git("clone", "--quiet", str(toy.folder), str(tmp_path / "mine"))
    commit = find_commit(tmp_path / "mine", "theirs")
    assert (commit.sha, commit.branch) == (toy.git("rev-parse", "HEAD~1"), "theirs")


def test_changed_and_new_files_are_named(toy: Repository) -> None:
    (toy.folder / "version.txt").write_text("third")
    (toy.folder / "new.py").write_text("")
    assert find_commit(toy.folder).uncommitted == ("version.txt", "new.py")
    assert find_commit(toy.folder, "HEAD~1").uncommitted == ()


def test_a_clone_is_of_the_commit_and_changes_nothing_here(toy: Repository, tmp_path: Path) -> None:
    toy.git("remote", "add", "origin", "https://ada:s3cr3t@github.com/ada/toy.git")
    (toy.folder / "version.txt").write_text("not committed")
    before = toy.git("status", "--porcelain", "--branch")
    copy = clone(find_commit(toy.folder, "HEAD~1"), tmp_path / "copy")
    assert (copy / "version.txt").read_text() == "first"
    assert toy.git("status", "--porcelain", "--branch") == before
    assert (toy.folder / "version.txt").read_text() == "not committed"
    config = (copy / ".git/config").read_text()
    assert "url = https://github.com/ada/toy.git" in config
    assert "s3cr3t" not in config


@pytest.mark.parametrize(
    ("folder", "version", "problem"),
    [
        ("nowhere", None, "no such folder"),
        ("empty", None, "not in a git repository"),
        ("fresh", None, "no commit yet"),
        ("toy", "nonsense", "no commit 'nonsense'"),
        ("toy", "0" * 40, "no commit '000"),
        ("toy", "--upload-pack=evil", "no commit"),
    ],
)
def test_what_cannot_be_found_is_one_clear_line(
    toy: Repository, tmp_path: Path, folder: str, version: str | None, problem: str
) -> None:
    (tmp_path / "empty").mkdir()
    Repository(tmp_path / "fresh")
    with pytest.raises(UsageError, match=problem) as caught:
        find_commit(tmp_path / folder, version)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / folder) in str(caught.value)


@pytest.mark.parametrize(
    ("origin", "address"),
    [
        ("https://github.com/ada/toy.git", "https://github.com/ada/toy"),
        ("https://ada:token@github.com/ada/toy", "https://github.com/ada/toy"),
        ("git@github.com:ada/toy.git", "https://github.com/ada/toy"),
        ("ssh://git@github.com/ada/toy.git", "https://github.com/ada/toy"),
        ("https://example.org/ada/toy.git", ""),
        ("/home/ada/toy", ""),
        ("", ""),
    ],
)
def test_where_a_commit_can_be_read(origin: str, address: str) -> None:
    assert web_address(origin) == address


def test_credentials_leave_an_address_alone() -> None:
    assert without_credentials("https://x:y@host:8443/a.git") == "https://host:8443/a.git"
    assert without_credentials("git@github.com:a/b.git") == "git@github.com:a/b.git"


@pytest.fixture
def served(toy: Repository, tmp_path: Path) -> Iterator[str]:
    """The repository's address on a real git server."""
    toy.git("clone", "--quiet", "--bare", str(toy.folder), str(tmp_path / "served/toy.git"))
    with git_daemon(tmp_path / "served") as address:
        yield f"{address}/toy.git"


@pytest.mark.parametrize("name", ["branch", "hash", "older hash"])
def test_a_commit_is_fetched_without_its_history(
    toy: Repository, served: str, tmp_path: Path, name: str
) -> None:
    sha = toy.git("rev-parse", "HEAD~1" if name == "older hash" else "HEAD")
    commit = fetch(served, "main" if name == "branch" else sha, tmp_path / "copy")
    assert (commit.sha, commit.origin) == (sha, served)
    assert commit.branch == ("main" if name == "branch" else "")
    copy = Repository.at(tmp_path / "copy")
    assert copy.git("rev-list", "--count", "HEAD") == "1"
    assert copy.git("remote", "get-url", "origin") == served


@pytest.mark.parametrize(
    ("name", "version", "problem"),
    [
        ("toy.git", "nonsense", "nonsense"),
        ("none.git", "main", "none.git"),
        ("toy.git", "-x", "-x"),
    ],
)
def test_what_cannot_be_fetched_is_one_clear_line(
    served: str, tmp_path: Path, name: str, version: str, problem: str
) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        fetch(served.replace("toy.git", name), version, tmp_path / "copy")
    assert "\n" not in str(caught.value)


def test_a_token_in_an_address_goes_no_further_than_git(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        fetch("http://ada:s3cr3t@127.0.0.1:9/toy.git", "main", tmp_path / "copy")
    assert "s3cr3t" not in str(caught.value)
    assert "s3cr3t" not in (tmp_path / "copy/.git/config").read_text()
