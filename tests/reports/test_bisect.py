"""`kaggleops bisect` finds what `git bisect` finds, with scores for answers."""

from pathlib import Path

import pytest

from kaggleops.errors import UsageError
from kaggleops.reports.bisecting import bisect
from tests.fakes.git_server import Repository


@pytest.fixture
def history(tmp_path: Path) -> Repository:
    """Twenty commits on two branches that are merged, the root of them tagged `root`."""
    repository = Repository(tmp_path / "code")
    repository.write(a="0")
    repository.commit("root")
    repository.git("tag", "root")
    for branch in ("main", "side"):
        repository.git("switch", "--quiet", *(("-c",) if branch == "side" else ()), branch)
        for number in range(8):
            repository.write(**{f"{branch}.txt": str(number)})
            repository.commit(f"{branch} {number}")
        if branch == "main":
            repository.git("switch", "--quiet", "--detach", "root")
    repository.git("switch", "--quiet", "main")
    repository.git("merge", "--quiet", "--no-ff", "--message", "merge", "side")
    for number in range(3):
        repository.write(**{"main.txt": f"after {number}"})
        repository.commit(f"after {number}")
    return repository


def has(repository: Repository, sha: str, culprit: str) -> bool:
    return repository.git("merge-base", sha, culprit) == culprit


@pytest.mark.parametrize("culprit", ["main~2", "main~3", "side", "side~7", "main~3^1~7", "main"])
def test_it_finds_the_commit_that_git_bisect_finds(history: Repository, culprit: str) -> None:
    good, bad = history.git("rev-parse", "root"), history.git("rev-parse", "main")
    wanted = history.git("rev-parse", culprit)
    scores = {good: 0.7, bad: 0.5}
    runs = 0
    while (step := bisect(history.folder, good, bad, scores)).next:
        assert step.next not in scores
        scores[step.next] = 0.52 if has(history, step.next, wanted) else 0.69
        runs += 1
    assert step.bad == wanted
    assert step.left == (wanted,)
    assert runs <= 6  # of 20 commits
    # What git itself finds, asked in the same way.
    history.git("bisect", "start", bad, good)
    test = f"! git merge-base --is-ancestor {wanted} HEAD"
    found = history.git("bisect", "run", "sh", "-c", test)
    assert f"{wanted} is the first bad commit" in found


def test_runs_that_are_there_already_are_not_made_again(history: Repository) -> None:
    good, bad = history.git("rev-parse", "root"), history.git("rev-parse", "main")
    merge, before = history.git("rev-parse", "main~3"), history.git("rev-parse", "main~4")
    step = bisect(history.folder, good, bad, {good: 1.0, bad: 0.0, merge: 0.1, before: 0.9})
    assert step.bad == merge
    assert set(step.left) == {merge, *history.git("rev-list", "side", "^root").split()}


def test_ends_that_cannot_be_are_one_clear_line(history: Repository) -> None:
    good, bad = history.git("rev-parse", "root"), history.git("rev-parse", "main")
    with pytest.raises(UsageError, match="did not come after the first"):
        bisect(history.folder, bad, good, {good: 1.0, bad: 0.0})
    with pytest.raises(UsageError, match="both score 1"):
        bisect(history.folder, good, bad, {good: 1.0, bad: 1.0})


def test_a_commit_that_cannot_be_run_is_passed_over(history: Repository) -> None:
    good, bad = history.git("rev-parse", "main~3"), history.git("rev-parse", "main")
    one, two = history.git("rev-parse", "main~2"), history.git("rev-parse", "main~1")
    ends = {good: 1.0, bad: 0.0}
    first = bisect(history.folder, good, bad, ends).next
    assert {first, bisect(history.folder, good, bad, ends, [first]).next} == {one, two}
    step = bisect(history.folder, good, bad, ends, [one, two])
    assert (step.next, step.found) == ("", False)
    assert set(step.left) == {one, two, bad}
    # What the others say still counts.
    step = bisect(history.folder, good, bad, {**ends, two: 0.9}, [one])
    assert step.found
    assert step.bad == bad
