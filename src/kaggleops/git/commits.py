"""The commit that a run is pinned to: which it is, and what the working tree has besides."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kaggleops.errors import UsageError
from kaggleops.git.addresses import web_address, without_credentials
from kaggleops.git.command import git


@dataclass(frozen=True)
class Commit:
    """One commit of a repository on this machine.

    Args:
        repository: the repository's top folder.
        sha: the commit's full hash.
        subject: the first line of its message.
        branch: the branch that was asked for or is checked out; "" for a commit on none.
        origin: the address of the remote `origin` (or the only one) without credentials; "" if
            there is none.
        uncommitted: how many files of the working tree differ from this commit; 0 for a commit
            that is not checked out.
    """

    repository: Path
    sha: str
    subject: str
    branch: str
    origin: str
    uncommitted: int

    @property
    def link(self) -> str:
        """Where the commit can be read in a browser; "" where that is not known."""
        base = web_address(self.origin)
        return f"{base}/commit/{self.sha}" if base else ""


def find_commit(folder: Path, version: str | None = None) -> Commit:
    """Return the commit that a version names in the repository around a folder.

    Args:
        folder: anywhere in the repository.
        version: a commit, branch or tag; what is checked out by default.

    Raises:
        UsageError: there is no repository, no commit yet, or no such commit.
    """
    folder = folder.absolute()
    doing = f"finding the commit to run in {folder}"
    if not folder.is_dir():
        raise UsageError(doing, "there is no such folder", "Name a folder of a git repository.")
    repository = repository_around(folder)
    if repository is None:
        raise UsageError(
            doing,
            "it is not in a git repository",
            "A run is pinned to a commit: `git init`, commit your code, and run it again.",
        )
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
        uncommitted=_uncommitted(repository, sha),
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
    """Return the first line of a commit's message."""
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
    tells git not to fetch it.
    """
    found = links(repository, sha)
    told = _modules(repository, sha) if found else {}
    for path, inner in found.items():
        module = told.get(path, {})
        address = "" if module.get("update") == "none" else module.get("url", "")
        own = f"submodule.{module['name']}.url" if module else ""
        if own and address:  # a person may have it from somewhere else
            address = git(repository, "config", "--local", own, check=False) or address
        yield path, inner, address


def links(
    repository: Path, tree: str, environment: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the commits of the submodules of a commit or tree, by their paths."""
    asked = ("ls-tree", "-r", "-z", "--full-tree", tree)
    listed = git(repository, *asked, environment=environment).split("\0")
    entries = (line.split("\t", 1) for line in listed if line.startswith("160000 "))
    return {path: head.split()[2] for head, path in entries}


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


def _uncommitted(repository: Path, sha: str) -> int:
    # A bare repository has no working tree.
    if not (repository / ".git").exists() or resolve(repository, "HEAD") != sha:
        return 0
    all_of_them = ("--untracked-files=normal", "--ignore-submodules=none")
    listed = git(repository, "status", "--porcelain", *all_of_them)
    return len(listed.split("\n")) if listed else 0
