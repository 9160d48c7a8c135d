"""The index that a command reads: the one that `kaggleops serve` keeps, or a copy of its own."""

import hashlib
import importlib.util
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.progress import Progress

from kaggleops.cli.options import bucket_at
from kaggleops.cli.output import err
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.platforms.folders import private_file, private_folder

if TYPE_CHECKING:
    import sqlalchemy as sa

    from kaggleops.reports.history import History

_FRESH_FOR = 10.0  # seconds: then the bucket is asked what has changed

_Answer = TypeVar("_Answer")


def asked(place: str, index: str | None, question: "Callable[[History], _Answer]") -> "_Answer":
    """Return what an index answers; one that does not know is brought up to date and asked again.

    Args:
        place: the bucket's address.
        index: the index's, as `index_option` gives it.
        question: raises UsageError where it is about something that is not there.
    """
    with history_of(place, index) as history, suppress(UsageError):
        return question(history)
    with history_of(place, index, anew=True) as history:
        return question(history)


def require_index() -> None:
    """Raise UsageError where what an index is made with is not installed."""
    if importlib.util.find_spec("sqlalchemy") is None:  # mlflow-skinny has none
        hint = "Install it: pip install 'kaggleops[server]'."
        raise UsageError("reading the index of runs", "what it is made with is not installed", hint)


@contextmanager
def history_of(place: str, index: str | None, *, anew: bool = False) -> Iterator["History"]:
    """Yield the runs of a bucket, as an index has them, brought up to date.

    Args:
        place: the bucket's address.
        index: the index's, as `index_option` gives it; by default that on this machine.
        anew: bring it up to date however fresh it is, with what nobody has announced, too.

    Raises:
        UsageError: no database can lie there, or it holds something else.
        KaggleOpsError: the bucket or the database cannot be reached.
    """
    require_index()
    import sqlalchemy as sa

    from kaggleops.reports.history import History
    from kaggleops.server.settings import default_index, server_folder

    url = index or default_index(place)
    # Of this index: another one of the same bucket may be days old.
    marker = server_folder(place) / f"fresh-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    if anew or time.time() - _fresh_at(url, place, marker) > _FRESH_FOR:
        _refresh(url, place, full=anew)
        private_folder(marker.parent)
        private_file(marker).touch()
    engine = sa.create_engine(url)
    try:
        yield History(engine)
    except sa.exc.SQLAlchemyError as error:
        doing = f"reading the index {url}"
        raise KaggleOpsError(doing, str(error).splitlines()[0], "Name another --index.") from error
    finally:
        engine.dispose()


def _fresh_at(url: str, place: str, marker: Path) -> float:
    """Return when an index was last as its bucket is; 0 where it is no index of that bucket."""
    import sqlalchemy as sa

    # What is wrong with it is told by who opens it to bring it up to date.
    with suppress(sa.exc.SQLAlchemyError, ImportError):
        engine = sa.create_engine(url)
        try:
            with engine.connect() as connection:
                bucket = connection.scalar(sa.text("SELECT bucket FROM kaggleops_index"))
            return max(_touched_at(marker), _served_at(engine)) if bucket == place else 0.0
        finally:
            engine.dispose()
    return 0.0


def _touched_at(marker: Path) -> float:
    with suppress(OSError):
        return marker.stat().st_mtime
    return 0.0


def _served_at(engine: "sa.Engine") -> float:
    """Return when a server last refreshed the index (server/health.py); 0 for never."""
    import sqlalchemy as sa

    with suppress(sa.exc.SQLAlchemyError, ValueError), engine.connect() as connection:
        notice = connection.scalar(sa.text("SELECT notice FROM kaggleops_serving"))
        return float(json.loads(notice or "{}").get("fresh", 0.0))
    return 0.0


def _refresh(url: str, place: str, *, full: bool) -> None:
    from kaggleops.index.refresh import Index
    from kaggleops.mlruns import EntityStore

    # In a notebook rich would ask for ipywidgets.
    with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("Bringing the bucket into the index", total=None)
        index = Index(url, EntityStore(bucket_at(place)))
        try:
            index.refresh(lambda done, due: bar.update(task, completed=done, total=due), full=full)
        finally:
            index.close()
