"""Which of a commit's files its runs can use: what lies elsewhere did not change their scores."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from kaggleops.errors import UsageError
from kaggleops.project.git import _git

_APART = (
    "docs", "tests", "notebooks", "benchmarks", "infra", ".github", ".ci", ".devcontainer",
)  # fmt: skip
"""Top folders that no entry point uses, unless the MLproject names them."""

_TASKS = "config/task"


def used_code(repository: Path, commits: Sequence[str], tasks: Collection[str]) -> list[str]:
    """Return git's pathspecs for everything but what no run of some tasks can use.

    Args:
        repository: its folder.
        commits: full hashes. What any of them has is looked at.
        tasks: of the runs; none where one of them does not say its own.
    """
    started = "\n".join(_text(repository, sha, "MLproject") for sha in commits)
    apart = [name for name in _APART if not re.search(rf"\b{name.lstrip('.')}\b", started)]
    left_out = [*apart, "*.md"]
    others = {name for sha in commits for name in _tasks(repository, sha)} - set(tasks)
    for name in sorted(others) if tasks else ():
        left_out += [f"{_TASKS}/{name}.yaml", f"src/*/{name}/*", f"src/*/{name}.py"]
    return [f":(exclude,top){each}" for each in left_out]


def require_code(repository: Path, commits: Sequence[str], paths: Sequence[str]) -> None:
    """Raise UsageError where nothing ever lay at one of some paths.

    Args:
        repository: its folder.
        commits: full hashes, which it has.
        paths: git's pathspecs.
    """
    for path in paths:
        if not _git(repository, "log", "-1", "--format=%h", *commits, "--", path):
            short = " and ".join(sha[:10] for sha in commits)
            problem = f"neither {short} nor what came before them has a file there"
            raise UsageError(f"looking for the code at {path!r}", problem)


def _tasks(repository: Path, sha: str) -> list[str]:
    listed = _git(repository, "ls-tree", "--name-only", sha, f"{_TASKS}/", check=False)
    return [Path(line).stem for line in listed.splitlines() if line.endswith(".yaml")]


def _text(repository: Path, sha: str, file: str) -> str:
    """Return a file of a commit without its comments; "" where it has none."""
    text = _git(repository, "show", f"{sha}:{file}", check=False)
    return re.sub(r"(^|\s)#.*", "", text)
