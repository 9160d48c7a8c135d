"""Plain tags for runs that a script starts by itself.

MLflow's plugin group is `mlflow.run_context_provider`.

MLflow's UI hides `mlflow.*` tags from its columns and from grouping, so the commit is there once
more, with the platform and the accelerator. MLflow loads this module whenever it is imported, so
everything behind it is imported when it is first used.
"""

import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

from mlflow.tracking.context.abstract_context import RunContextProvider


class BucketContext(RunContextProvider):
    """Tags of runs in a bucket; other stores' runs get none."""

    def in_context(self) -> bool:
        """Whether runs go to a bucket."""
        import mlflow

        from kaggleops.bucket.location import is_bucket

        uri: str = mlflow.get_tracking_uri()
        return is_bucket(uri)

    def tags(self) -> dict[str, str]:
        """Return what is known of the code and of the machine."""
        from kaggleops.platforms import detect
        from kaggleops.tags import of_machine

        # A script's code is that of the commit it began with, whatever is committed meanwhile.
        if main := getattr(sys.modules.get("__main__"), "__file__", None):
            return of_machine(detect()) | _tags_of_commit(Path(main).parent)
        return of_machine(detect()) | _tags_of_commit.__wrapped__(Path.cwd())


@cache
def _tags_of_commit(folder: Path) -> dict[str, str]:
    from kaggleops.errors import KaggleOpsError
    from kaggleops.git.commits import find_commit
    from kaggleops.git.project_files import declared_score
    from kaggleops.tags import SCORE, of_commit

    try:
        commit = find_commit(folder)
    except (KaggleOpsError, OSError):
        return {}  # no repository, or no git
    tags = of_commit(commit)
    with suppress(KaggleOpsError):  # its MLproject declares it wrongly
        if score := declared_score(commit.repository, commit.sha):
            tags[SCORE] = score
    return tags
