"""What git knows of commits: what they are called, which lie around one, what lies between two."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kaggleops.git.checkouts import AS_COMMITTED
from kaggleops.git.command import git
from kaggleops.git.commits import resolve, subjects_of


def commits_around(repository: Path, sha: str, most: int = 1000) -> list[tuple[str, int]]:
    """Return up to `most` commits before and after one with their distances, the nearest first.

    Returns:
        Hashes, with how many commits before it each is, counted along the log; negative: after.
    """
    before = git(repository, "rev-list", f"--max-count={most + 1}", sha, check=False).split()
    line = ("rev-list", "--reverse", "--ancestry-path", "--all", f"^{sha}")
    after = git(repository, *line, check=False).split()[:most]
    found = [(other, number) for number, other in enumerate(before) if other != sha]
    found += [(other, -number) for number, other in enumerate(after, 1)]
    return sorted(found, key=lambda each: abs(each[1]))


def nearest_before(repository: Path, shas: Iterable[str]) -> dict[str, str]:
    """Return, for each commit (a full hash), the nearest of the others that came before it.

    One that the repository lacks, or that none of the others came before, is left out.
    """
    wanted = set(shas)
    listed = git(repository, "rev-list", "--all", "--parents", check=False)
    parents = {line[0]: line[1:] for line in map(str.split, listed.splitlines())}
    found = {sha: _nearest_before(sha, parents, wanted) for sha in wanted}
    return {sha: before for sha, before in found.items() if before}


def _nearest_before(sha: str, parents: Mapping[str, Sequence[str]], wanted: set[str]) -> str:
    seen, near = {sha}, deque(parents.get(sha, ()))
    while near:
        other = near.popleft()
        if other in wanted and other != sha:
            return other
        if other not in seen:
            seen.add(other)
            near.extend(parents.get(other, ()))
    return ""


def subjects(repository: Path, shas: Sequence[str]) -> dict[str, str]:
    """Return the first lines of commits' messages; without those that the repository lacks."""
    if not shas:
        return {}
    asked = ("--no-walk=unsorted", "--ignore-missing", *shas)
    return dict(subjects_of(repository, *asked, check=False))


@dataclass(frozen=True)
class Between:
    """What lies between two commits.

    Args:
        commits: the hash and the subject of each that leads from the first to the second, the
            newest first; also those that only the first one has, where neither leads to the other.
        files: how many lines were added and removed in each file; -1 for a binary one.
        diff: the whole difference, as text.
    """

    commits: tuple[tuple[str, str], ...]
    files: tuple[tuple[str, int, int], ...]
    diff: str


def between(repository: Path, first: str, second: str, paths: Sequence[str] = ()) -> Between | None:
    """Return what lies between two commits; None where the repository lacks one of them.

    `paths` are git's pathspecs to restrict the files and the difference to.
    """
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
        yield name, _count(added), _count(removed)


def _count(text: str) -> int:
    return -1 if text == "-" else int(text)
