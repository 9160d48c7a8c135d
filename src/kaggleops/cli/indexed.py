"""The index that a command reads: the one that `kaggleops serve` keeps, or one of its own."""

import hashlib
import importlib.util
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from kaggleops.cli.options import bucket_at
from kaggleops.cli.output import progress_bar
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.platforms.folders import private_file, private_folder

if TYPE_CHECKING:
    from kaggleops.reports.history import History

_FRESH_FOR = 10.0  # seconds; then the bucket is asked what has changed

_Answer = TypeVar("_Answer")


def ask_index(place: str, index: str | None, question: "Callable[[History], _Answer]") -> "_Answer":
    """Return the answer of an index; if it has none, bring it up to date and ask again.

    Args:
        place: the bucket's address.
        index: the index's, as `index_option` gives it.
        question: raises UsageError if what it is about is not there.
    """
    with history_of(place, index) as history, suppress(UsageError):
        return question(history)
    with history_of(place, index, anew=True) as history:
        return question(history)


def can_index() -> bool:
    """Return whether the packages that an index needs are installed: mlflow-skinny has none."""
    return importlib.util.find_spec("sqlalchemy") is not None


def require_index() -> None:
    """Raise UsageError where the packages that an index needs are not installed."""
    if not can_index():
        hint = "Install it: pip install 'kaggleops[server]'."
        raise UsageError("reading the index of runs", "SQLAlchemy is not installed", hint)


@contextmanager
def history_of(
    place: str, index: str | None, *, fresh_for: float = _FRESH_FOR, anew: bool = False
) -> Iterator["History"]:
    """Yield the runs of a bucket from an index that is up to date.

    Args:
        place: the bucket's address.
        index: the index's, as `index_option` gives it; by default the one on this machine.
        fresh_for: seconds for which it needs no refreshing.
        anew: refresh it however fresh it is, with what was not announced too.

    Raises:
        UsageError: no index can be there, or it holds something else.
        KaggleOpsError: the bucket or the database cannot be reached.
    """
    require_index()
    import sqlalchemy as sa

    from kaggleops.mlruns import EntityStore
    from kaggleops.reports.history import History
    from kaggleops.server.settings import default_index, server_folder

    url = index or default_index(place)
    # Of this index: another one of the same bucket may be days old.
    marker = server_folder(place) / f"fresh-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    if anew or time.time() - _fresh_at(url, place, marker) > fresh_for:
        _refresh(url, place, full=anew)
        private_folder(marker.parent)
        private_file(marker).touch()
    engine = sa.create_engine(url)
    try:
        yield History(engine, lambda: EntityStore(bucket_at(place)))
    except sa.exc.SQLAlchemyError as error:
        doing = f"reading the index {url}"
        raise KaggleOpsError(doing, str(error).splitlines()[0], "Name another --index.") from error
    finally:
        engine.dispose()


def _fresh_at(url: str, place: str, marker: Path) -> float:
    """Return when an index was last up to date with its bucket; 0 if it is not of this bucket."""
    import sqlalchemy as sa

    found = 0.0
    # What is wrong with it is said when it is opened to be refreshed.
    with suppress(sa.exc.SQLAlchemyError, ImportError, ValueError):
        engine = sa.create_engine(url)
        try:
            with engine.connect() as connection:
                if connection.scalar(sa.text("SELECT bucket FROM kaggleops_index")) != place:
                    return 0.0
                with suppress(OSError):
                    found = marker.stat().st_mtime
                # When a server last refreshed it (server/health.py).
                notice = connection.scalar(sa.text("SELECT notice FROM kaggleops_serving"))
                return max(found, float(json.loads(notice or "{}").get("fresh", 0.0)))
        finally:
            engine.dispose()
    return found


def _refresh(url: str, place: str, *, full: bool) -> None:
    from kaggleops.index.refresh import Index
    from kaggleops.mlruns import EntityStore

    with progress_bar("Updating the index") as progress:
        index = Index(url, EntityStore(bucket_at(place)))
        try:
            index.refresh(progress, full=full)
        finally:
            index.close()
