"""What a commit's project says of itself, and which of its files its runs can use.

It is read from git: there is no need for a checkout.
"""

import re
import tempfile
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from kaggleops.errors import UsageError
from kaggleops.git.command import AS_COMMITTED, git
from kaggleops.git.commits import Commit

_APART = ["docs", "tests", "notebooks", "benchmarks", "infra", ".github", ".ci", ".devcontainer"]
"""Top folders that no entry point uses, unless the MLproject names them."""

USUALLY_KEPT = ("results/", "submission*.csv", "oof*.*")
"""What a run leaves in its checkout that is kept with it, where `keep` in MLproject is not set."""

_TASKS = "config/task"
_SAYS_HOW = re.compile(r"(^|/)mlproject$|(^|/)resources\.lock$|\.(ya?ml|py)$", re.IGNORECASE)


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


@cache
def declared_score(repository: Path, sha: str) -> str:
    """Return the score that a commit declares, as a run's tag tells it: "jaccard", "rmse lower".

    It is `score: NAME` or `score: {metric: NAME, better: lower}` in its MLproject, else in its
    Hydra configuration. "" if it declares none. Raises UsageError if MLproject's cannot be read.
    """
    for name in ("MLproject", "config/config.yaml", "configs/config.yaml", "conf/config.yaml"):
        text = git(repository, "cat-file", "blob", f"{sha}:{name}", check=False)
        told = _score_in(text)
        if told is None and name == "MLproject":
            hint = "Write `score: NAME`, or `score: {metric: NAME, better: lower}`."
            raise UsageError(f"reading MLproject of {sha[:7]}", "its score names no metric", hint)
        if told:
            return told
    return ""


def _score_in(text: str) -> str | None:
    """Return the score that a YAML file declares, "" if none does, None if that tells nothing."""
    try:
        content = yaml.safe_load(text) if "score" in text else None
    except yaml.YAMLError:
        content = None  # whatever reads the whole file says what is wrong with it
    told = content.get("score") if isinstance(content, dict) else None
    if told is None:
        return ""
    told = told if isinstance(told, dict) else {"metric": told}
    metric, better = told.get("metric"), told.get("better")
    if not isinstance(metric, str) or not metric.strip() or better not in (None, "lower", "higher"):
        return None
    return " ".join([metric.strip(), *filter(None, [better])])


def entry_points(repository: Path, sha: str) -> dict[str, dict[str, Any]]:
    """Return the entry points of a commit's MLproject as it has them, by name; none without one."""
    text = git(repository, "cat-file", "blob", f"{sha}:MLproject", check=False)
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        problem = str(getattr(error, "problem", "") or "it is no YAML")
        raise UsageError(f"reading MLproject of {sha[:7]}", problem) from None
    points = content.get("entry_points") if isinstance(content, dict) else None
    found = points.items() if isinstance(points, dict) else ()
    return {str(name): point for name, point in found if isinstance(point, dict)}


def has_path(repository: Path, sha: str, path: str) -> bool:
    """Tell whether a commit has a file or folder at a path."""
    return bool(git(repository, "ls-tree", sha, "--", path.rstrip("/"), check=False))


def used_code(repository: Path, commits: Sequence[str], tasks: Collection[str]) -> list[str]:
    """Return git's pathspecs for everything but what no run of some tasks can use.

    What any of the commits (full hashes) has counts; no tasks: a run that does not name its own.
    """
    started, others = "", set[str]()
    for sha in commits:
        text = git(repository, "cat-file", "blob", f"{sha}:MLproject", check=False)
        started += re.sub(r"(^|\s)#.*", "", text) + "\n"  # without its comments
        listed = git(repository, "ls-tree", "--name-only", sha, f"{_TASKS}/", check=False)
        others |= {Path(line).stem for line in listed.split("\n") if line.endswith(".yaml")}
    apart = [name for name in _APART if not re.search(rf"\b{name.lstrip('.')}\b", started)]
    left_out = [*apart, "*.md"]
    for name in sorted(others - set(tasks)) if tasks else ():
        left_out += [f"{_TASKS}/{name}.yaml", f"src/*/{name}/*", f"src/*/{name}.py"]
    return [f":(exclude,top){each}" for each in left_out]


def require_code(repository: Path, commits: Sequence[str], paths: Sequence[str]) -> None:
    """Raise UsageError where none of the commits, or what came before, has a file at a pathspec."""
    for path in paths:
        if not git(repository, "rev-list", "--max-count=1", *commits, "--", path):
            short = " and ".join(sha[:10] for sha in commits)
            problem = f"neither {short} nor what came before them has a file there"
            raise UsageError(f"looking for the code at {path!r}", problem)
