"""A commit is taken elsewhere whole, submodules included, or not at all."""

import logging
import shutil
from pathlib import Path

import pytest

from kaggleops.bucket import ABSENT, Bucket, open_bucket
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.git.checkouts import (
    bundle,
    clone,
    fetch,
    fetch_bundle,
    fetch_or_unbundle,
    key_of,
    send,
)
from kaggleops.git.commits import find_commit
from kaggleops.git.patches import write_patch
from tests.command import kaggleops_here
from tests.fakes.git_server import Repository

NOWHERE = "http://127.0.0.1:9/toy.git"


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".git" not in path.relative_to(folder).parts
    }


@pytest.fixture
def with_library(toy: Repository, tmp_path: Path) -> Repository:
    """The repository with a submodule at `lib`, which has one at `deep` itself."""
    deep, library = Repository(tmp_path / "deep"), Repository(tmp_path / "library")
    deep.write(deep_py="deep")
    deep.commit("Deep")
    local = ("-c", "protocol.file.allow=always", "submodule", "add", "--quiet")
    library.write(code_py="one")
    library.git(*local, "../deep", "deep")
    library.commit("One")
    toy.git(*local, str(library.folder), "lib")
    toy.git("-c", "protocol.file.allow=always", "submodule", "update", "--init", "--recursive")
    toy.commit("With a library")
    # What is checked out here is all there is: the addresses lead nowhere.
    shutil.rmtree(deep.folder)
    shutil.rmtree(library.folder)
    return toy


WHOLE = {"lib/code.py": b"one", "lib/deep/deep.py": b"deep", "version.txt": b"second"}


# -- the hash that was asked for ----------------------------------------------------------------


def test_a_bundle_of_another_commit_is_refused(toy: Repository, tmp_path: Path) -> None:
    wanted, other = (find_commit(toy.folder, version) for version in ("HEAD", "HEAD~1"))
    place = open_bucket(str(tmp_path / "bucket"))
    place.prepare()
    place.write(key_of(wanted.sha), bundle(other, tmp_path / "other"), expected=ABSENT)
    with pytest.raises(UsageError, match=f"it holds commit {other.sha}, not {wanted.sha}"):
        fetch_or_unbundle(NOWHERE, wanted.sha, tmp_path / "there", place)
    # One that a platform has mounted is told by its name.
    mounted = tmp_path / f"{wanted.sha}.bundle"
    shutil.copy(tmp_path / "other", mounted)
    for number, version in enumerate(("", wanted.sha[:8], wanted.sha)):
        with pytest.raises(UsageError, match="it holds commit"):
            fetch_bundle(mounted, NOWHERE, tmp_path / f"mounted{number}", version)


def test_what_is_no_bundle_is_one_clear_line(toy: Repository, tmp_path: Path) -> None:
    commit = find_commit(toy.folder)
    file = bundle(commit, tmp_path / f"{commit.sha}.bundle")
    whole = file.read_bytes()
    lie = whole.replace(commit.sha.encode(), toy.git("rev-parse", "HEAD~1").encode(), 1)
    broken = {"empty": b"", "text": b"<html>", "cut": whole[:-30], "renamed head": lie}
    for damage, data in broken.items():
        file.write_bytes(data)
        with pytest.raises(UsageError, match="reading the code in") as caught:
            fetch_bundle(file, NOWHERE, tmp_path / damage, commit.sha)
        assert "\n" not in str(caught.value)


def test_a_bundle_with_a_history_is_read_too(toy: Repository, tmp_path: Path) -> None:
    """As earlier versions wrote it."""
    sha = toy.git("rev-parse", "HEAD")
    toy.git("branch", "kaggleops")
    toy.git("bundle", "create", "--quiet", str(tmp_path / f"{sha}.bundle"), "kaggleops")
    commit = fetch_bundle(tmp_path / f"{sha}.bundle", NOWHERE, tmp_path / "there", sha)
    assert (commit.repository / "version.txt").read_text() == "second"


def test_a_filter_finds_what_it_needs_where_the_commit_came_from(
    toy: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git LFS asks the remote `origin`."""
    toy.write(**{".gitattributes": "*.big filter=large\n", "model.big": "pointer"})
    toy.commit("A large file")
    toy.git("remote", "add", "origin", NOWHERE)
    config = tmp_path / "gitconfig"
    config.write_text(
        '[filter "large"]\n smudge = git config remote.origin.url\n clean = cat\n required = true\n'
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    copy = clone(find_commit(toy.folder), tmp_path / "copy")
    assert (copy / "model.big").read_text().strip() == str(toy.folder)
    assert Repository.at(copy).git("remote", "get-url", "origin") == NOWHERE


# -- shallow, partial and damaged repositories --------------------------------------------------


BLOBS_ALONE = pytest.param("blob:none", marks=pytest.mark.slow)
"""What lacks trees, too, has to fetch both."""


@pytest.mark.parametrize("lacks", ["history", "tree:0", BLOBS_ALONE])
def test_a_clone_that_lacks_something_gives_out_whole_commits(
    toy: Repository, tmp_path: Path, lacks: str
) -> None:
    toy.git("config", "uploadpack.allowFilter", "true")
    address, sha = f"file://{toy.folder}", toy.git("rev-parse", "HEAD~1")
    option = "--depth=1" if lacks == "history" else f"--filter={lacks}"
    toy.git("clone", "--quiet", option, address, str(tmp_path / "mine"))
    mine = Repository.at(tmp_path / "mine")
    if lacks == "history":
        sha = toy.git("rev-parse", "HEAD")
    commit = find_commit(mine.folder, sha)
    expected = _files(clone(find_commit(toy.folder, sha), tmp_path / "expected"))
    assert _files(clone(commit, tmp_path / "clone")) == expected
    file = bundle(commit, tmp_path / f"{sha}.bundle")
    assert _files(fetch_bundle(file, NOWHERE, tmp_path / "there", sha).repository) == expected


@pytest.mark.parametrize("filter_", ["tree:0", BLOBS_ALONE])
def test_a_partial_clone_whose_remote_is_gone_refuses(
    toy: Repository, tmp_path: Path, filter_: str
) -> None:
    toy.git("config", "uploadpack.allowFilter", "true")
    address, sha = f"file://{toy.folder}", toy.git("rev-parse", "HEAD~1")
    toy.git("clone", "--quiet", f"--filter={filter_}", address, str(tmp_path / "mine"))
    toy.folder.rename(tmp_path / "gone")
    commit = find_commit(tmp_path / "mine", sha)
    with pytest.raises(KaggleOpsError):
        clone(commit, tmp_path / "clone")
    with pytest.raises(KaggleOpsError):
        bundle(commit, tmp_path / "bundle")
    done = kaggleops_here(
        "run", "--bucket", tmp_path / "b", "--version", sha, cwd=tmp_path / "mine"
    )
    assert done.code == 1
    assert not (tmp_path / "b").exists()  # no run


def test_a_repository_that_has_lost_an_object_refuses(toy: Repository, tmp_path: Path) -> None:
    blob = toy.git("rev-parse", "HEAD~1:version.txt")
    (toy.folder / ".git/objects" / blob[:2] / blob[2:]).unlink()
    for take in (clone, bundle):
        with pytest.raises(KaggleOpsError, match=r"is not whole: .*git fsck"):
            take(find_commit(toy.folder, "HEAD~1"), tmp_path / take.__name__)


def test_a_branch_that_only_a_shallow_clones_remote_has(toy: Repository, tmp_path: Path) -> None:
    toy.git("branch", "theirs", "HEAD~1")
    address = f"file://{toy.folder}"
    options = ("--quiet", "--depth=1", "--no-single-branch")
    toy.git("clone", *options, address, str(tmp_path / "mine"))
    copy = clone(find_commit(tmp_path / "mine", "theirs"), tmp_path / "copy")
    assert (copy / "version.txt").read_text() == "first"


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    toy = Repository.at(tmp_path / "toy")
    toy.git("init", "--quiet", "--object-format=sha256")
    toy.git("config", "user.name", "Ada")
    toy.git("config", "user.email", "ada@example.org")
    toy.write(train_py="print()")
    sha = toy.commit("Longer")
    commit = find_commit(toy.folder)
    assert _files(clone(commit, tmp_path / "clone")) == _files(toy.folder)
    file = bundle(commit, tmp_path / f"{sha}.bundle")
    assert fetch_bundle(file, NOWHERE, tmp_path / "there", sha).sha == sha
    assert fetch(str(toy.folder), sha, tmp_path / "fetched").sha == sha


# -- submodules ---------------------------------------------------------------------------------


def test_submodules_go_where_the_commit_goes(
    with_library: Repository, bucket: Bucket, tmp_path: Path
) -> None:
    commit = find_commit(with_library.folder)
    assert commit.uncommitted == ()
    assert WHOLE.items() <= _files(clone(commit, tmp_path / "clone")).items()
    with_library.git("worktree", "add", "--quiet", str(tmp_path / "tree"))
    in_tree = clone(find_commit(tmp_path / "tree"), tmp_path / "of the worktree")
    assert WHOLE.items() <= _files(in_tree).items()
    send(commit, bucket)
    there = fetch_or_unbundle(NOWHERE, commit.sha, tmp_path / "there", bucket).repository
    assert WHOLE.items() <= _files(there).items()
    assert Repository.at(there).git("status", "--porcelain") == ""


def test_a_submodule_out_of_reach_is_named(
    with_library: Repository, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with_library.git("submodule", "deinit", "--quiet", "--force", "lib")
    shutil.rmtree(with_library.folder / ".git/modules")
    commit = find_commit(with_library.folder)
    with pytest.raises(UsageError, match="fetching the submodule lib"):
        clone(commit, tmp_path / "clone")
    with caplog.at_level(logging.WARNING):
        bundle(commit, tmp_path / f"{commit.sha}.bundle")
    assert "lacks the submodule lib" in caplog.text
    # Submitting only takes what says how the commit is run.
    options = ("run", "-b", "manual", "--bucket", tmp_path / "bucket", "alpha=2")
    done = kaggleops_here(*options, cwd=with_library.folder)
    assert done.code == 0, done.errors


def test_a_bundle_that_lacks_a_submodule_is_made_again_with_it(
    with_library: Repository, bucket: Bucket, tmp_path: Path
) -> None:
    lib, modules = with_library.folder / "lib", with_library.folder / ".git/modules"
    for each in (lib, modules):
        each.rename(tmp_path / each.name)
    lib.mkdir()
    commit = find_commit(with_library.folder)
    lacking = bucket.stat(send(commit, bucket))
    assert bucket.stat(send(commit, bucket)) == lacking
    lib.rmdir()
    for each in (lib, modules):
        (tmp_path / each.name).rename(each)
    whole = bucket.stat(send(commit, bucket))
    there = fetch_or_unbundle(NOWHERE, commit.sha, tmp_path / "there", bucket).repository
    assert WHOLE.items() <= _files(there).items()
    for each in (lib, modules):  # a machine without it does not take it away again
        each.rename(tmp_path / each.name)
    lib.mkdir()
    assert bucket.stat(send(commit, bucket)) == whole


def test_a_submodules_address_may_not_read_what_is_here(toy: Repository, tmp_path: Path) -> None:
    secret = Repository(tmp_path / "secret")
    secret.write(key="secret")
    sha = secret.commit("Private")
    toy.write(**{".gitmodules": f'[submodule "x"]\n path = x\n url = {secret.folder}\n'})
    toy.git("add", ".gitmodules")
    toy.git("update-index", "--add", "--cacheinfo", f"160000,{sha},x")
    toy.git("commit", "--quiet", "--message", "Reach out")
    with pytest.raises(UsageError, match="fetching the submodule x"):
        fetch(str(toy.folder), "main", tmp_path / "copy")


@pytest.mark.parametrize("change", ["a file", "a commit", "removed", "a new one"])
def test_a_repository_inside_that_is_not_as_committed_is_named(
    with_library: Repository, tmp_path: Path, change: str
) -> None:
    library = Repository.at(with_library.folder / "lib")
    if change == "a file":
        library.write(new_py="new")
    elif change == "a commit":
        library.git("checkout", "--quiet", "--orphan", "other")
        library.git("-c", "user.name=A", "-c", "user.email=a@b.c", "commit", "--quiet", "-m", "Two")
    elif change == "removed":
        with_library.git("rm", "--quiet", "--force", "lib")
    else:
        Repository(with_library.folder / "vendored").write(tool_py="tool")
        Repository.at(with_library.folder / "vendored").commit("A repository of its own")
    inner = "vendored" if change == "a new one" else "lib"
    with pytest.raises(
        UsageError, match=f"the repository inside it, {inner}, is not as the commit"
    ):
        write_patch(find_commit(with_library.folder), tmp_path / "patch")


def test_a_file_that_somebody_goes_on_writing_is_no_repository(
    toy: Repository, tmp_path: Path
) -> None:
    toy.write(**{"a.log": "one", "b.txt": "two", ".gitattributes": "b.txt filter=writes"})
    toy.git("config", "filter.writes.clean", "echo more >> a.log; cat")
    assert "a.log" in write_patch(find_commit(toy.folder), tmp_path / "patch")


def test_what_is_staged_by_force_and_a_sparse_checkout(toy: Repository, tmp_path: Path) -> None:
    toy.write(deep__kept_py="kept", other__kept_py="kept", **{".gitignore": "*.log\n"})
    toy.commit("Folders")
    toy.git("sparse-checkout", "set", "deep")
    toy.write(**{"deep__forced.log": "forced", "deep__ignored.log": "ignored"})
    toy.git("add", "--force", "deep/forced.log")
    objects = _objects(toy)
    commit = find_commit(toy.folder)
    assert write_patch(commit, tmp_path / "patch") == ["deep/forced.log"]
    assert _objects(toy) == objects  # nothing was written into the person's repository
    copy = clone(commit, tmp_path / "copy")
    assert (copy / "other/kept.py").is_file()


def _objects(repository: Repository) -> set[Path]:
    return set((repository.folder / ".git/objects").rglob("*"))


# -- names --------------------------------------------------------------------------------------


def test_no_line_break_of_unicodes_ends_a_line_of_gits(toy: Repository, tmp_path: Path) -> None:
    end = "\u2028-\x85"
    toy.write(**{f"config/task/a{end}?{'0' * 40}": "x", f"config/task/b{end}c.yaml": ""})
    sha = toy.commit("Odd names")
    toy.git("branch", f"odd{end}branch", "HEAD~1")
    toy.git("branch", "kaggleops")
    toy.git("bundle", "create", "--quiet", str(tmp_path / f"{sha}.bundle"), "--all")
    there = fetch_bundle(tmp_path / f"{sha}.bundle", NOWHERE, tmp_path / "there", sha)
    assert _files(there.repository) == _files(toy.folder)
    toy.git("config", "uploadpack.allowFilter", "true")
    filtered = ("clone", "--quiet", "--filter=blob:none", f"file://{toy.folder}")
    toy.git(*filtered, str(tmp_path / "mine"))
    copy = clone(find_commit(tmp_path / "mine"), tmp_path / "copy")
    assert _files(copy) == _files(toy.folder)
    toy.write(**{f"new{end}file": ""})
    assert find_commit(toy.folder).uncommitted == (f"new{end}file",)
