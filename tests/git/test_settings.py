"""What git does and prints here depends on no person's settings, and on nothing that is inherited.

Each test does everything twice, in a plain environment and in a person's, and compares.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kaggleops.cli.adopt import ignore, look
from kaggleops.git.checkouts import bundle, can_fetch, clone, fetch, fetch_bundle
from kaggleops.git.commits import (
    between,
    commits_around,
    find_commit,
    nearest_before,
    repository_around,
    resolve,
    subjects,
)
from kaggleops.git.patches import apply_patch, write_patch
from kaggleops.git.project_files import require_code, used_code, write_project_files
from tests.command import kaggleops_here
from tests.fakes.git_server import Repository, git_daemon

SETTINGS = """
[advice] detachedHead = true
[apply] whitespace = error
    ignoreWhitespace = change
[checkout] defaultRemote = nobody
    guess = false
[clone] defaultRemoteName = upstream
    rejectShallow = true
[color] ui = always
    diff = always
    status = always
[commit] gpgSign = true
[core] abbrev = 4
    attributesFile = {home}/attributes
    autocrlf = {autocrlf}
    eol = crlf
    excludesFile = {home}/ignored
    fsmonitor = {home}/mark
    hooksPath = {home}/hooks
    pager = {home}/mark
    quotePath = true
    safecrlf = true
    splitIndex = true
    symlinks = false
[diff] algorithm = patience
    context = 0
    external = {home}/mark
    ignoreSubmodules = all
    interHunkContext = 9
    mnemonicPrefix = true
    noprefix = true
    orderFile = {home}/order
    relative = true
    renames = false
    srcPrefix = x/
    submodule = log
    suppressBlankEmpty = true
    wordRegex = .
[diff "upper"] textconv = tr a-z A-Z <
    command = {home}/mark
[feature] manyFiles = true
[fetch] fsckObjects = true
    output = compact
    parallel = 0
    prune = true
    recurseSubmodules = true
    writeCommitGraph = true
[filter "upper"] smudge = tr a-z A-Z
[format] pretty = fuller
[i18n] logOutputEncoding = UTF-16
[init] defaultBranch = trunk
    defaultObjectFormat = sha256
    defaultRefFormat = reftable
    templateDir = {home}/template
[log] date = relative
    decorate = full
    follow = true
    mailmap = true
    showRoot = false
    showSignature = true
[pager] log = {home}/mark
    diff = {home}/mark
    status = {home}/mark
[protocol] version = 0
[protocol "file"] allow = never
[push] default = nothing
[receive] denyCurrentBranch = refuse
[remote "origin"] tagOpt = --tags
    prune = true
[safe] bareRepository = explicit
[status] branch = true
    relativePaths = false
    renames = false
    short = true
    showStash = true
    showUntrackedFiles = no
    submoduleSummary = true
[submodule] active = nothing
    propagateBranches = true
    recurse = true
[tag] gpgSign = true
[transfer] credentialsInUrl = die
    fsckObjects = true
"""


def _home(folder: Path, autocrlf: str) -> Path:
    """Make a home with every setting, and programs that leave a mark when they are started."""
    folder.mkdir()
    marking = f'#!/bin/sh\necho "$0 $@" >> {folder}/marked\nexit 1\n'
    for name in ("mark", "hooks/post-checkout", "template/hooks/post-checkout"):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(marking)
        file.chmod(0o755)
    for hook in ("reference-transaction", "post-index-change", "post-merge", "pre-auto-gc"):
        for place in ("hooks", "template/hooks"):
            (folder / place / hook).hardlink_to(folder / "mark")
    (folder / "attributes").write_text("*.txt diff=upper filter=upper text eol=crlf\n*.py -diff\n")
    (folder / "ignored").write_text("*.ignored\n")
    (folder / "order").write_text("*.txt\n*.py\n")
    (folder / "config").write_text(SETTINGS.format(home=folder, autocrlf=autocrlf))
    return folder


INHERITED = {
    "GIT_DIR": "/nowhere/.git",
    "GIT_WORK_TREE": "/nowhere",
    "GIT_INDEX_FILE": "/nowhere/index",
    "GIT_OBJECT_DIRECTORY": "/nowhere/objects",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES": "/nowhere/objects",
    "GIT_COMMON_DIR": "/nowhere",
    "GIT_NAMESPACE": "nobody",
    "GIT_PREFIX": "below/",
    "GIT_CEILING_DIRECTORIES": "/",
    "GIT_SHALLOW_FILE": "/nowhere/shallow",
    "GIT_GRAFT_FILE": "/nowhere/grafts",
    "GIT_DEFAULT_HASH": "sha256",
    "GIT_TEMPLATE_DIR": "/nowhere/template",
    "GIT_EXTERNAL_DIFF": "/nowhere/diff",
    "GIT_DIFF_OPTS": "-u0",
    "GIT_PAGER": "/nowhere/pager",
    "GIT_PAGER_IN_USE": "true",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_TRACE": "2",
    "GIT_CONFIG": "/nowhere/config",
    "GIT_PROTOCOL": "version=1",
    "PAGER": "/nowhere/pager",
    "LANGUAGE": "de",
}


def _environment_of(command: str, repository: Path, home: Path) -> dict[str, str]:
    """Return what git adds to the environment of an alias or of a hook."""
    found = home / "environment"
    plain = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    if command == "alias":
        line = ["git", "-C", str(repository), "-c", f"alias.told=!env -0 > {found}"]
        subprocess.run([*line, "-c", "diff.noprefix=true", "told"], env=plain, check=True)
    else:
        hooks = home / "telling"
        hooks.mkdir()
        (hooks / "pre-commit").write_text(f"#!/bin/sh\nenv -0 > {found}\nexit 1\n")
        (hooks / "pre-commit").chmod(0o755)
        line = ["git", "-C", str(repository), "-c", f"core.hooksPath={hooks}", "commit"]
        who = {"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@b.c", "GIT_COMMITTER_NAME": "A"}
        plain |= {**who, "GIT_COMMITTER_EMAIL": "a@b.c"}
        subprocess.run([*line, "--allow-empty", "-m", "x"], env=plain, capture_output=True)
    listed = (line.split("=", 1) for line in found.read_text().split("\0") if line)
    return {name: value for name, value in listed if name.startswith("GIT_")}


# -- everything that is done with a repository --------------------------------------------------


def _files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): (
            f"-> {path.readlink()}" if path.is_symlink() else path.read_bytes().decode("latin-1")
        )
        for path in folder.rglob("*")
        if ".git" not in path.relative_to(folder).parts and not path.is_dir()
    }


def _state(repository: Repository) -> list[str]:
    bare = repository.git("rev-parse", "--is-bare-repository") == "true"
    status = "" if bare else repository.git("status", "--porcelain", "--branch")
    return [status, repository.git("for-each-ref"), repository.git("rev-parse", "HEAD")]


def _config_below(folder: Path) -> str:
    config = folder / ".git/config"
    return config.read_text()


def _everything(repository: Path, address: str, scratch: Path) -> dict[str, Any]:
    scratch.mkdir()
    commit = find_commit(repository)
    sha, first = commit.sha, resolve(repository, "HEAD~1")
    done: dict[str, Any] = {
        "commit": commit,
        "uncommitted": commit.uncommitted,
        "around": repository_around(repository),
        "older": find_commit(repository, "HEAD~1") if first else None,
        "subjects": subjects(repository, [sha]),
        "around it": commits_around(repository, sha),
        "before": nearest_before(repository, [sha, first]) if first else None,
        "can be fetched": can_fetch(address, sha),
    }
    if first:
        done["between"] = between(repository, first, sha)
        done["used"] = between(repository, first, sha, used_code(repository, [sha], ["a"]))
        require_code(repository, [sha], ["train.py"])
    copy = clone(commit, scratch / "clone")
    done["clone"] = _files(copy), _config_below(copy)
    done["project files"] = _files(write_project_files(commit, scratch / "project"))
    file = bundle(commit, scratch / f"{sha}.bundle")
    done["bundle"] = _files(fetch_bundle(file, address, scratch / "unbundled", sha).repository)
    fetched = fetch(address, sha, scratch / "fetched").repository
    done["fetched"] = _files(fetched), _config_below(fetched)
    if commit.uncommitted:
        done["names"] = write_patch(commit, scratch / "patch")
        done["patch"] = (scratch / "patch").read_bytes()
        apply_patch(scratch / "patch", copy)
        done["patched"] = _files(copy)
        done["data"] = look(repository, "train.py").data
        done["ignored"] = ignore(repository)
    return done


def _worktree(origin: Repository, folder: Path) -> None:
    origin.git("worktree", "add", "--quiet", "-b", "side", str(folder), "main")


def _cloned(*options: str) -> Callable[[Repository, Path], None]:
    def make(origin: Repository, folder: Path) -> None:
        origin.git("clone", "--quiet", *options, f"file://{origin.folder}", str(folder))

    return make


KINDS: dict[str, Callable[[Repository, Path], None]] = {
    "worktree": _worktree,
    "shallow": _cloned("--depth=1"),
    "partial": _cloned("--filter=blob:none"),
    "bare": _cloned("--bare"),
    "usual": _cloned(),
}


@pytest.fixture
def origin(toy: Repository) -> Repository:
    """A repository whose files settings would change: line ends, links, names, signatures."""
    toy.git("config", "uploadpack.allowFilter", "true")
    toy.write(a_py="one\n \ntwo\n", train_py="print()\n", **{"b.txt": "lower\n", "ä ö": "name"})
    (toy.folder / "link").symlink_to("b.txt")
    toy.git("mv", "version.txt", "moved.txt")
    (toy.folder / "below").mkdir()
    toy.write(below__c_py="\n".join(map(str, range(30))), other__a_py="a")
    toy.commit("Änderungen: “second”")
    toy.write(below__c_py="\n".join(map(str, range(1, 30))), **{"b.txt": "lower, changed\n"})
    toy.commit("Third")
    return toy


def _change(repository: Repository) -> None:
    repository.write(a_py="one\n \nthree\n", new_py="new\n", **{"b.txt": "changed\n"})
    repository.write(**{"not.ignored": "as git status has it"})


@pytest.mark.parametrize(
    ("kind", "inherited"),
    [
        *((kind, "all") for kind in KINDS if kind != "usual"),
        ("worktree", "alias"),
        pytest.param("usual", "all", marks=pytest.mark.slow),
        pytest.param("worktree", "hook", marks=pytest.mark.slow),
    ],
)
def test_settings_and_inherited_variables_change_nothing(
    origin: Repository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    inherited: str,
) -> None:
    KINDS[kind](origin, tmp_path / "mine")
    mine = Repository.at(tmp_path / "mine")
    if kind != "bare":
        _change(mine)
    home = _home(tmp_path / "ada", autocrlf="input")
    (home / "plain").write_text("[core]\n excludesFile = " + str(home / "ignored") + "\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / "plain"))
    with git_daemon(tmp_path) as served:
        address = f"{served}/toy"
        expected = _everything(mine.folder, address, tmp_path / "plain")
        (mine.folder / ".gitignore").unlink(missing_ok=True)
        state = _state(mine)
        settings = (mine.folder / ".git/config", mine.folder / "config")
        config = [file.read_text() for file in settings if file.is_file()]

        added = INHERITED if inherited == "all" else _environment_of(inherited, mine.folder, home)
        assert inherited == "all" or added
        with monkeypatch.context() as patched:
            patched.setenv("GIT_CONFIG_GLOBAL", str(home / "config"))
            for name, value in added.items():
                patched.setenv(name, value)
            found = _everything(mine.folder, address, tmp_path / "scratch")
    assert found == expected
    if "between" in found:
        assert "+lower, changed" in found["between"].diff
    if "patched" in found:
        assert found["patched"]["new.py"] == "new\n"
        assert "not.ignored" not in found["names"]
    assert not (home / "marked").exists(), (home / "marked").read_text()
    (mine.folder / ".gitignore").unlink(missing_ok=True)
    assert state == _state(mine)
    assert config == [file.read_text() for file in settings if file.is_file()]


def test_line_ends_of_a_person_who_works_with_others(
    origin: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their working tree has CRLF, and is clean; what runs has what was committed."""
    home = _home(tmp_path / "ada", autocrlf="true")
    (home / "crlf").write_text("[core]\n autocrlf = true\n safecrlf = true\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / "crlf"))
    origin.git("clone", "--quiet", str(origin.folder), str(tmp_path / "mine"))
    assert (tmp_path / "mine/a.py").read_bytes() == b"one\r\n \r\ntwo\r\n"
    assert find_commit(tmp_path / "mine").uncommitted == ()
    (tmp_path / "mine/a.py").write_bytes(b"one\r\n \r\nthree\r\n")
    commit = find_commit(tmp_path / "mine")
    copy = clone(commit, tmp_path / "copy")
    assert (copy / "a.py").read_bytes() == b"one\n \ntwo\n"
    assert write_patch(commit, tmp_path / "patch") == ["a.py"]
    assert b"\r" not in (tmp_path / "patch").read_bytes()
    found = between(commit.repository, commit.sha + "~1", commit.sha)
    assert found is not None
    assert "\r" not in found.diff
    apply_patch(tmp_path / "patch", copy)
    assert (copy / "a.py").read_bytes() == b"one\n \nthree\n"


# -- the commands -------------------------------------------------------------------------------

TELLING = """
import os, subprocess
names = ("DIR", "WORK_TREE", "INDEX_FILE", "PREFIX")
assert not any("GIT_" + name in os.environ for name in names), os.environ
top = subprocess.run(["git", "rev-parse", "--show-toplevel"], capture_output=True, text=True)
assert os.path.samefile(top.stdout.strip(), "."), top
"""


def test_the_commands_in_a_linked_worktree_from_an_alias(
    toy: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.write(train_py=TELLING)
    first = toy.git("rev-parse", "HEAD")
    sha = toy.commit("Tell about the environment")
    toy.git("remote", "add", "origin", "https://ada:s3cr3t@127.0.0.1:9/toy.git")
    toy.git("worktree", "add", "--quiet", "-b", "side", str(tmp_path / "tree"), "main")
    tree = Repository.at(tmp_path / "tree")
    home = _home(tmp_path / "ada", autocrlf="input")
    added = _environment_of("alias", tree.folder, home)
    assert "GIT_DIR" in added
    before = [(each.git("status", "--branch"), each.git("for-each-ref")) for each in (toy, tree)]
    config = (toy.folder / ".git/config").read_text()
    options = ("--bucket", tmp_path / "bucket", "--json")
    with monkeypatch.context() as patched:
        patched.setenv("GIT_CONFIG_GLOBAL", str(home / "config"))
        for name, value in added.items():
            patched.setenv(name, value)
        run = kaggleops_here("run", *options, cwd=tree.folder)
        assert run.code == 0, run.errors
        assert (run.json["status"], run.json["commit"]) == ("FINISHED", sha)
        (tree.folder / "new.py").write_text("new")
        run = kaggleops_here("run", *options, "--uncommitted", cwd=tree.folder)
        assert run.code == 0, run.errors
        (tree.folder / "new.py").unlink()
        again = ("reproduce", run.json["run_id"], "--bucket", tmp_path / "bucket", "--json")
        assert kaggleops_here(*again, cwd=tree.folder).json["commit"] == sha
        submitted = kaggleops_here("run", "-b", "manual", *options, cwd=tree.folder)
        assert submitted.code == 0, submitted.errors
        (tree.folder / "run.ipynb").unlink(missing_ok=True)
        for file in tree.folder.glob("*.ipynb"):
            file.unlink()
        bundled = kaggleops_here(
            "bundle", "--to", tmp_path / "out", "--version", first, "--json", cwd=tree.folder
        )
        assert bundled.code == 0, bundled.errors
    assert config == (toy.folder / ".git/config").read_text()
    after = [(each.git("status", "--branch"), each.git("for-each-ref")) for each in (toy, tree)]
    assert after == before
    assert not (home / "marked").exists(), (home / "marked").read_text()
