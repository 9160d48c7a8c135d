"""Which commit did it: `git bisect`, with scores for answers and the runs that are there already.

A commit counts as bad where its score is nearer to the bad one's than to the good one's.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from kaggleops.errors import UsageError
from kaggleops.git.history import halfway, suspects


@dataclass(frozen=True)
class Step:
    """How far it has come.

    Args:
        good: the commits known to be good that matter.
        bad: the earliest commit known to be bad.
        left: the commits that it may be, `bad` among them.
        next: the commit to run next; "" when `bad` did it, or the others cannot be run.
    """

    good: tuple[str, ...]
    bad: str
    left: tuple[str, ...]
    next: str

    @property
    def found(self) -> bool:
        """Whether `bad` did it."""
        return self.left == (self.bad,)


def bisect(
    repository: Path,
    good: str,
    bad: str,
    scores: Mapping[str, float],
    skipped: Collection[str] = (),
) -> Step:
    """Return what the scores that are known leave.

    Args:
        repository: a folder of the repository.
        good: a commit that has a score.
        bad: one that came after it and has another.
        scores: of each commit that has runs.
        skipped: the commits that cannot get a score.

    Raises:
        UsageError: the bad one did not come after the good one, or their scores do not differ.
    """
    doing = f"looking for what came between {good[:10]} and {bad[:10]}"
    left = suspects(repository, [good], bad)
    if not left or good in left:
        raise UsageError(doing, "the second did not come after the first", "Swap them.")
    if scores[good] == scores[bad]:
        problem = f"both score {scores[good]:g}"
        raise UsageError(doing, problem, "Name a commit that is better and one that is worse.")

    def is_bad(sha: str) -> bool:
        return abs(scores[sha] - scores[bad]) < abs(scores[sha] - scores[good])

    goods, earliest = [good], bad
    while known := [sha for sha in left if sha in scores and sha != earliest]:
        sha = known[len(known) // 2]
        if is_bad(sha):
            earliest = sha
        else:
            goods.append(sha)
        left = suspects(repository, goods, earliest)
    following = halfway(repository, goods, earliest, skipped) if len(left) > 1 else ""
    return Step(tuple(goods), earliest, tuple(left), following)
