"""The commit that a run is pinned to: which it is, what is not in it, a fresh clone of it."""

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from kaggleops.errors import KaggleOpsError, UsageError

_BUNDLED = "refs/heads/kaggleops"
"""What a bundle calls its commit."""


class GitError(KaggleOpsError):
    """Git could not do what was asked of it."""


@dataclass(frozen=True)
class Commit:
    """One commit of a repository on this machine.

    Args:
        repository: the repository's top folder.
        sha: the commit's full hash.
        subject: the first line of its message.
        branch: the branch that was asked for or is checked out; "" for a commit on none.
        origin: the address of the remote `origin` without credentials; "" if there is none.
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
    top = _git(folder, "rev-parse", "--show-toplevel", check=False)
    if not top:
        raise UsageError(
            doing,
            "it is not in a git repository",
            "A run is pinned to a commit: `git init`, commit your code, and run it again.",
        )
    repository = Path(top)
    wanted = version or "HEAD"
    sha = _git(repository, "rev-parse", "--verify", "--quiet", f"{wanted}^{{commit}}", check=False)
    if not sha and version:
        # A branch that was fetched and never checked out is known by its remote's name.
        remote = f"refs/remotes/origin/{version}^{{commit}}"
        sha = _git(repository, "rev-parse", "--verify", "--quiet", remote, check=False)
    if not sha:
        hint = "Commit something first." if version is None else "`git log --oneline` shows them."
        problem = "it has no commit yet" if version is None else f"it has no commit {version!r}"
        raise UsageError(doing, problem, hint)
    return Commit(
        repository=repository,
        sha=sha,
        subject=_git(repository, "show", "--no-patch", "--format=%s", sha),
        branch=_branch(repository, version),
        origin=_origin(repository),
        uncommitted=_uncommitted(repository, sha),
    )


def clone(commit: Commit, folder: Path) -> Path:
    """Clone the repository into a folder and check the commit out there.

    The clone's `origin` is the repository's own remote, so that MLflow records where the code
    comes from rather than a folder that is gone tomorrow.

    Raises:
        GitError: git failed.
    """
    _git(
        commit.repository, "clone", "--quiet", "--no-checkout", str(commit.repository), str(folder)
    )
    _git(folder, "checkout", "--quiet", "--detach", commit.sha)
    if commit.origin:
        _git(folder, "remote", "set-url", "origin", commit.origin)
    else:
        _git(folder, "remote", "remove", "origin")
    if (folder / ".gitmodules").exists():
        _git(folder, "submodule", "update", "--init", "--recursive", "--quiet")
    return folder


def fetch(url: str, version: str, folder: Path) -> Commit:
    """Fetch one commit, without its history, of a repository elsewhere.

    Args:
        url: the repository's address; it may carry credentials, which go no further than git.
        version: a full commit hash, a branch or a tag.
        folder: where to; made here.

    Raises:
        UsageError: there is no such repository, or it has no such commit.
    """
    shown = without_credentials(url)
    doing = f"fetching {version} of {shown}"
    if version.startswith("-"):
        raise UsageError(doing, "that is no commit, branch or tag")
    folder.mkdir(parents=True)
    _git(folder, "init", "--quiet")
    try:
        # The address goes through the environment: others can read a command line.
        source = {"remote.source.url": url}
        _git(folder, "fetch", "--quiet", "--depth", "1", "source", version, config=source)
    except GitError as error:
        reason = error.problem.replace(url, shown)
        hint = "Check the address, and that this machine may read it and the commit was pushed."
        raise UsageError(doing, reason, hint) from None
    return _fetched(folder, shown, version)


def _fetched(folder: Path, url: str, version: str) -> Commit:
    _git(folder, "checkout", "--quiet", "--detach", "FETCH_HEAD")
    _git(folder, "remote", "add", "origin", url)
    sha = _git(folder, "rev-parse", "HEAD")
    if (folder / ".gitmodules").exists():
        _git(folder, "submodule", "update", "--init", "--recursive", "--quiet")
    return Commit(
        repository=folder,
        sha=sha,
        subject=_git(folder, "show", "--no-patch", "--format=%s", sha),
        branch="" if sha.startswith(version) or version == "HEAD" else version,
        origin=url,
        uncommitted=0,
    )


def can_fetch(url: str, sha: str) -> bool:
    """Tell whether anybody may fetch a commit from a repository, without this user's credentials.

    Costs little more than the commit itself where the server can leave its files out.

    Args:
        url: the repository's address.
        sha: the commit's full hash.
    """
    nobody = {"credential.helper": "", "remote.source.url": url}
    only = ("--depth", "1", "--filter=tree:0")
    with tempfile.TemporaryDirectory(prefix="kaggleops-") as folder:
        _git(Path(folder), "init", "--quiet", "--bare")
        try:
            _git(Path(folder), "fetch", "--quiet", *only, "source", sha, config=nobody)
        except GitError:
            return False
    return True


def fetch_bundle(file: Path, url: str, folder: Path) -> Commit:
    """Check out the commit that a git bundle holds.

    Args:
        file: the bundle, as `bundle` makes it.
        url: the address of the repository that it comes from, to record.
        folder: where to; made here.

    Raises:
        UsageError: it is no such bundle.
    """
    folder.mkdir(parents=True)
    _git(folder, "init", "--quiet")
    try:
        _git(folder, "fetch", "--quiet", str(file.absolute()), _BUNDLED)
    except GitError as error:
        raise UsageError(f"reading the code in {file}", error.problem) from None
    return _fetched(folder, without_credentials(url), file.stem)


def bundle(commit: Commit, file: Path) -> Path:
    """Write a commit and its history into one file that git fetches from.

    Raises:
        GitError: git failed.
    """
    with tempfile.TemporaryDirectory(prefix="kaggleops-bundle-") as folder:
        # A bundle wants a branch, and none is made in the user's repository.
        shared = ("clone", "--quiet", "--bare", "--shared")
        _git(commit.repository, *shared, str(commit.repository), folder)
        _git(Path(folder), "update-ref", _BUNDLED, commit.sha)
        _git(Path(folder), "bundle", "create", "--quiet", str(file.absolute()), _BUNDLED)
    return file


def write_patch(commit: Commit, file: Path) -> list[str]:
    """Write what is not committed, new files included, as a patch; return the files' names.

    Raises:
        UsageError: a private key is among it.
    """
    with tempfile.TemporaryDirectory(prefix="kaggleops-index-") as folder:
        index = {"GIT_INDEX_FILE": f"{folder}/index"}  # what the user has staged stays as it is
        _git(commit.repository, "read-tree", "HEAD", environment=index)
        _git(commit.repository, "add", "--all", environment=index)
        diff = ("diff", "--cached", "--no-color", "--no-ext-diff")
        names = _git(commit.repository, *diff, "--name-only", "HEAD", environment=index)
        output = f"--output={file.absolute()}"
        _git(commit.repository, *diff, "--binary", output, "HEAD", environment=index)
    if b"PRIVATE KEY-----" in file.read_bytes():
        hint = "Move it out of the repository, or name it in .gitignore."
        doing = f"taking the uncommitted changes of {commit.repository} along"
        raise UsageError(doing, "a private key is among them", hint)
    return names.splitlines()


def apply_patch(file: Path, folder: Path) -> None:
    """Change a checked-out commit as a patch says.

    Raises:
        GitError: it does not fit.
    """
    _git(folder, "apply", "--whitespace=nowarn", str(file.absolute()))


def without_credentials(url: str) -> str:
    """Return a repository's address without the user, password or token it may carry."""
    parts = urlsplit(url)
    if parts.scheme in ("http", "https") and "@" in parts.netloc:
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return url


_SSH = re.compile(r"(?:ssh://)?git@([\w.-]+)[:/](.+)")


def web_address(origin: str) -> str:
    """Return where a repository can be read in a browser; "" where that is not known."""
    if match := _SSH.fullmatch(origin):
        origin = f"https://{match[1]}/{match[2]}"
    parts = urlsplit(without_credentials(origin))
    if parts.scheme not in ("http", "https") or parts.hostname not in ("github.com", "gitlab.com"):
        return ""
    return f"https://{parts.hostname}{parts.path.removesuffix('/').removesuffix('.git')}"


def _branch(repository: Path, version: str | None) -> str:
    if version is None:
        return _git(repository, "symbolic-ref", "--quiet", "--short", "HEAD", check=False)
    for prefix in ("refs/heads/", "refs/remotes/origin/"):
        if _git(repository, "rev-parse", "--verify", "--quiet", prefix + version, check=False):
            return version
    return ""


def _origin(repository: Path) -> str:
    return without_credentials(_git(repository, "remote", "get-url", "origin", check=False))


def _uncommitted(repository: Path, sha: str) -> int:
    if _git(repository, "rev-parse", "HEAD") != sha:
        return 0
    return len(_git(repository, "status", "--porcelain").splitlines())


def _git(
    folder: Path,
    *arguments: str,
    check: bool = True,
    config: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    # No prompt may block a run that nobody watches; messages in English for our own errors.
    environment = {
        **os.environ,
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
        **(environment or {}),
    }
    for number, (key, value) in enumerate((config or {}).items()):
        environment |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
        environment["GIT_CONFIG_COUNT"] = str(number + 1)
    doing = f"running git {arguments[0]} in {folder}"
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            check=False,
            env=environment,
            text=True,
            errors="replace",
        )
    except FileNotFoundError as error:
        raise GitError(doing, "git is not installed", "Install git and try again.") from error
    if done.returncode != 0:
        if "dubious ownership" in done.stderr:
            raise GitError(
                doing,
                "git does not trust this folder, as it belongs to another user",
                f"If you do: git config --global --add safe.directory {folder}",
            )
        if check:
            raise GitError(doing, done.stderr.strip() or f"it failed ({done.returncode})")
        return ""
    return done.stdout.strip()
