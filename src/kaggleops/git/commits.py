"""Commits: which one a run is pinned to, which lie around it, what lies between two."""

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kaggleops.errors import UsageError
from kaggleops.git.addresses import web_address, without_credentials
from kaggleops.git.command import AS_COMMITTED, git

_NAMED = 3  # files, in a message
_FULL = re.compile("[0-9a-f]{40}([0-9a-f]{24})?")


@dataclass(frozen=True)
class Commit:
    """One commit of a repository on this machine."""

    repository: Path  # the repository's top folder
    sha: str  # the commit's full hash
    subject: str  # the first line of its message
    branch: str  # the branch that was asked for or is checked out; "" for a commit on none
    # the address of the remote `origin` (or the only one) without credentials; "" if there is none
    origin: str

    @property
    def link(self) -> str:
        """Where the commit can be read in a browser; "" where that is not known."""
        base = web_address(self.origin)
        return f"{base}/commit/{self.sha}" if base else ""

    @cached_property
    def uncommitted(self) -> tuple[str, ...]:
        """The files of the working tree that differ from it, a new folder as one ("notes/").

        None for a commit that is not checked out. Looked up when it is first asked for.
        """
        here = self.repository
        # A bare repository has no working tree.
        if not (here / ".git").exists() or resolve(here, "HEAD") != self.sha:
            return ()
        all_of_them = ("--untracked-files=normal", "--ignore-submodules=none", "--no-renames")
        listed = git(here, "status", "--porcelain", "-z", *all_of_them)
        return tuple(entry[3:] for entry in listed.split("\0") if entry)

    @property
    def changes(self) -> str:
        """What is not committed, by name: `train.py is`, `a.py, b.py and 3 more are`."""
        return with_verb(self.uncommitted)


def with_verb(files: Sequence[str]) -> str:
    """Return files with their verb: `train.py is`, `a.py, b.py, c.py and 3 more are`."""
    listed = ", ".join(files[:_NAMED]) if len(files) != 2 else " and ".join(files)
    more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
    return f"{listed}{more} {'is' if len(files) == 1 else 'are'}"


def find_commit(folder: Path, version: str | None = None) -> Commit:
    """Return the commit that a version names (by default what is checked out) around a folder.

    Raises UsageError if there is no repository, no commit yet, or no such commit.
    """
    folder = folder.absolute()
    doing = f"finding the commit to run in {folder}"
    if not folder.is_dir():
        raise UsageError(doing, "there is no such folder", "Name a folder of a git repository.")
    repository = repository_around(folder)
    if repository is None:
        hint = "A run is pinned to a commit: `git init`, commit your code, and run it again."
        raise UsageError(doing, "it is not in a git repository", hint)
    sha = resolve(repository, version or "HEAD")
    if not sha:
        hint = "Commit something first." if version is None else "`git log --oneline` shows them."
        problem = "it has no commit yet" if version is None else f"it has no commit {version!r}"
        raise UsageError(doing, problem, hint)
    return Commit(
        repository=repository,
        sha=sha,
        subject=subject_of(repository, sha),
        branch=_branch(repository, version),
        origin=without_credentials(remote_address(repository)),
    )


def repository_around(folder: Path) -> Path | None:
    """Return the top folder of the repository around a folder, its own if bare; None for none."""
    if top := git(folder, "rev-parse", "--show-toplevel", check=False):
        return Path(top)
    asked = ("rev-parse", "--is-bare-repository", "--absolute-git-dir")
    bare, _, place = git(folder, *asked, check=False).partition("\n")
    if bare == "true":
        return Path(place)
    # A hook of a server is started in the .git folder.
    return Path(place).parent if place.endswith("/.git") else None


def resolve(repository: Path, version: str) -> str:
    """Return the full hash of what a commit, branch or tag names; "" if it names none."""
    if version.startswith("-"):
        return ""
    quiet = ("rev-parse", "--verify", "--quiet")
    if sha := git(repository, *quiet, f"{version}^{{commit}}", check=False):
        return sha
    # A branch that was fetched and never checked out is known by its remote's name.
    branch = f"refs/remotes/{_remote(repository)}/{version}^{{commit}}"
    return git(repository, *quiet, branch, check=False)


def subject_of(repository: Path, sha: str) -> str:
    """Return the first line of a commit's message. Raises GitError if the repository lacks it."""
    return dict(subjects_of(repository, "--max-count=1", sha))[sha]


def subjects_of(repository: Path, *revisions: str, check: bool = True) -> Iterator[tuple[str, str]]:
    """Yield the hash and the message's first line of what `git rev-list` lists."""
    lines = git(repository, "rev-list", "--format=%s", *revisions, check=check).split("\n")
    for head, subject in zip(lines[::2], lines[1::2], strict=False):
        yield head.removeprefix("commit "), subject


def has_commit(repository: Path, sha: str) -> bool:
    """Tell whether a folder is a repository, and has a commit."""
    if not ((repository / ".git").exists() or (repository / "HEAD").exists()):
        return False
    found = git(repository, "rev-parse", "--verify", "--quiet", f"{sha}^{{commit}}", check=False)
    return found == sha


def submodules(repository: Path, sha: str) -> Iterator[tuple[str, str, str]]:
    """Yield the path, the commit and the address of each submodule of a commit.

    The address may be relative to the repository's own; it is "" where the commit gives none, or
    tells git not to fetch it. Raises GitError if the repository lacks the commit.
    """
    listed = git(repository, "ls-tree", "-r", "-z", "--full-tree", sha).split("\0")
    entries = (line.split("\t", 1) for line in listed if line.startswith("160000 "))
    found = {path: head.split()[2] for head, path in entries}
    told = _modules(repository, sha) if found else {}
    for path, inner in found.items():
        module = told.get(path, {})
        address = "" if module.get("update") == "none" else module.get("url", "")
        own = f"submodule.{module['name']}.url" if module else ""
        if own and address:  # a person may have it from somewhere else
            address = git(repository, "config", "--local", own, check=False) or address
        yield path, inner, address


def _modules(repository: Path, sha: str) -> dict[str, dict[str, str]]:
    """Return what a commit's .gitmodules says of each path."""
    pattern = r"^submodule\..*\.(path|url|update)$"
    asked = ("config", "--blob", f"{sha}:.gitmodules", "--null", "--get-regexp", pattern)
    found: dict[str, dict[str, str]] = {}
    for entry in git(repository, *asked, check=False).split("\0"):
        key, _, value = entry.partition("\n")
        name, _, field = key.removeprefix("submodule.").rpartition(".")
        found.setdefault(name, {"name": name})[field] = value
    return {each["path"]: each for each in found.values() if "path" in each}


def _branch(repository: Path, version: str | None) -> str:
    if version is None:
        return git(repository, "symbolic-ref", "--quiet", "--short", "HEAD", check=False)
    for prefix in ("refs/heads/", f"refs/remotes/{_remote(repository)}/"):
        if git(repository, "rev-parse", "--verify", "--quiet", prefix + version, check=False):
            return version
    return ""


def remote_address(repository: Path) -> str:
    """Return the address of a repository's remote, as it was given; "" if there is none."""
    name = _remote(repository)
    asked = ("config", "--local", "--get-all", f"remote.{name}.url")
    told = git(repository, *asked, check=False).partition("\n")[0]
    if "://" in told or told.startswith(("/", "git@")):
        return told  # url.….insteadOf is how this person gets there, others do not
    return told and git(repository, "remote", "get-url", name, check=False)


def _remote(repository: Path) -> str:
    """Return the name of the remote that a repository comes from: `origin`, or the only one."""
    names = git(repository, "remote", check=False).split("\n")
    return names[0] if len(names) == 1 and names[0] else "origin"


# -- around one, and between two --------------------------------------------------------------


def commits_around(repository: Path, sha: str) -> list[tuple[str, int]]:
    """Return up to 1,000 commits before and after one with their distances, the nearest first.

    A distance is counted along the log; it is negative for a commit after that one.
    """
    before = git(repository, "rev-list", "--max-count=1001", sha, check=False).split()
    line = ("rev-list", "--reverse", "--ancestry-path", "--all", f"^{sha}")
    after = git(repository, *line, check=False).split()[:1000]
    found = [(other, number) for number, other in enumerate(before) if other != sha]
    found += [(other, -number) for number, other in enumerate(after, 1)]
    return sorted(found, key=lambda each: abs(each[1]))


def nearest_before(repository: Path, shas: Iterable[str]) -> dict[str, str]:
    """Return, for each commit (a full hash), the nearest of the others that came before it.

    One that the repository lacks, or that none of the others came before, is left out.
    """
    wanted, found = {sha for sha in shas if _FULL.fullmatch(sha)}, {}
    asked = ("--all", "--parents", "--ignore-missing", "--stdin")  # some are on no branch
    listed = git(repository, "rev-list", *asked, check=False, given="\n".join(sorted(wanted)))
    parents = {line[0]: line[1:] for line in map(str.split, listed.splitlines())}
    for sha in wanted:
        seen, near = {sha}, deque(parents.get(sha, ()))
        while near:
            other = near.popleft()
            if other in wanted and other != sha:
                found[sha] = other
                break
            if other not in seen:
                seen.add(other)
                near.extend(parents.get(other, ()))
    return found


def subjects(repository: Path, shas: Sequence[str]) -> dict[str, str]:
    """Return the first lines of commits' messages; without those that the repository lacks."""
    if not shas:
        return {}
    asked = ("--no-walk=unsorted", "--ignore-missing", *shas)
    return dict(subjects_of(repository, *asked, check=False))


@dataclass(frozen=True)
class Between:
    """What lies between two commits."""

    # the hash and the subject of each that leads from the first to the second, the newest first;
    # also those that only the first one has, where neither leads to the other
    commits: tuple[tuple[str, str], ...]
    # how many lines were added and removed in each file; -1 for a binary one
    files: tuple[tuple[str, int, int], ...]
    diff: str  # the whole difference, as text


def between(repository: Path, first: str, second: str, paths: Sequence[str] = ()) -> Between | None:
    """Return what lies between two commits, within git's pathspecs; None without one of them."""
    if not (resolve(repository, first) and resolve(repository, second)):
        return None
    commits = tuple(subjects_of(repository, f"{first}...{second}"))
    # Plumbing, without an index: no setting of a person changes it, nor their working tree.
    trees = {"GIT_INDEX_FILE": str(repository / ".git-no-index")}
    tree = ("diff-tree", "-r", "--find-renames", "-l1000")
    ends = (first, second, "--", *paths)
    stat = git(repository, *tree, "--numstat", "-z", *ends, config=AS_COMMITTED, environment=trees)
    patch = ("--patch", "--no-color", "--no-ext-diff", "--no-textconv")
    both = ("--src-prefix=a/", "--dst-prefix=b/")
    diff = git(repository, *tree, *patch, *both, *ends, config=AS_COMMITTED, environment=trees)
    return Between(commits, tuple(_numstat(stat)), diff.replace("\r\n", "\n"))


def _numstat(output: str) -> Iterator[tuple[str, int, int]]:
    fields = iter(output.split("\0"))
    for entry in fields:
        if not entry:
            continue
        added, removed, name = entry.split("\t")
        if not name:  # a renamed file: its two names follow
            old, new = next(fields), next(fields)
            name = f"{old} → {new}"
        lines = [-1 if count == "-" else int(count) for count in (added, removed)]
        yield name, lines[0], lines[1]


def commit_folder(folder: Path, message: str) -> Commit:
    """Make a repository of a folder with one commit of all that is in it, by nobody."""
    nobody = {"user.name": "kaggleops", "user.email": "kaggleops@localhost"}
    git(folder, "init", "--quiet", "--template=")
    git(folder, "add", "--all", "--force")
    unsigned = {**nobody, "commit.gpgSign": "false"}
    git(folder, "commit", "--quiet", "--no-verify", f"--message={message}", config=unsigned)
    return find_commit(folder)
