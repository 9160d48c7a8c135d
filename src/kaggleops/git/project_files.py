"""What a commit's project says of itself, and which of its files its runs can use.

It is read from git: there is no need for a checkout.
"""

import re
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

from kaggleops.errors import UsageError
from kaggleops.git.checkouts import AS_COMMITTED
from kaggleops.git.command import git
from kaggleops.git.commits import Commit

_APART = (
    "docs", "tests", "notebooks", "benchmarks", "infra", ".github", ".ci", ".devcontainer",
)  # fmt: skip
"""Top folders that no entry point uses, unless the MLproject names them."""

_TASKS = "config/task"
_SAYS_HOW = re.compile(r"(^|/)mlproject$|\.(ya?ml|py)$", re.IGNORECASE)


def write_project_files(commit: Commit, folder: Path) -> Path:
    """Write a commit's MLproject, configuration and scripts into a new folder, and return it."""
    folder.mkdir(parents=True)
    listed = git(commit.repository, "ls-tree", "-r", "-z", "--full-tree", commit.sha).split("\0")
    entries = (line.split("\t", 1) for line in listed if " blob " in line)
    names = [name for _, name in entries if _SAYS_HOW.search(name)]
    if names:
        with tempfile.TemporaryDirectory(prefix="kaggleops-index-") as scratch:
            git(
                commit.repository,
                f"--work-tree={folder}",
                *("--literal-pathspecs", "checkout", commit.sha),
                *("--pathspec-from-file=-", "--pathspec-file-nul"),
                config=AS_COMMITTED,
                environment={"GIT_INDEX_FILE": f"{scratch}/index"},
                given="\0".join(names),
            )
    return folder


def used_code(repository: Path, commits: Sequence[str], tasks: Collection[str]) -> list[str]:
    """Return git's pathspecs for everything but what no run of some tasks can use.

    Args:
        repository: its folder.
        commits: full hashes; what any of them has counts.
        tasks: of the runs; empty if one of them does not name its own.
    """
    started = "\n".join(_text(repository, sha, "MLproject") for sha in commits)
    apart = [name for name in _APART if not re.search(rf"\b{name.lstrip('.')}\b", started)]
    left_out = [*apart, "*.md"]
    others = {name for sha in commits for name in _tasks(repository, sha)} - set(tasks)
    for name in sorted(others) if tasks else ():
        left_out += [f"{_TASKS}/{name}.yaml", f"src/*/{name}/*", f"src/*/{name}.py"]
    return [f":(exclude,top){each}" for each in left_out]


def require_code(repository: Path, commits: Sequence[str], paths: Sequence[str]) -> None:
    """Raise UsageError where none of the commits, or what came before, has a file at a pathspec."""
    for path in paths:
        if not git(repository, "rev-list", "--max-count=1", *commits, "--", path):
            short = " and ".join(sha[:10] for sha in commits)
            problem = f"neither {short} nor what came before them has a file there"
            raise UsageError(f"looking for the code at {path!r}", problem)


def _tasks(repository: Path, sha: str) -> list[str]:
    listed = git(repository, "ls-tree", "--name-only", sha, f"{_TASKS}/", check=False)
    return [Path(line).stem for line in listed.split("\n") if line.endswith(".yaml")]


def _text(repository: Path, sha: str, file: str) -> str:
    """Return a file of a commit without its comments; "" where it has none."""
    text = git(repository, "cat-file", "blob", f"{sha}:{file}", check=False)
    return re.sub(r"(^|\s)#.*", "", text)
