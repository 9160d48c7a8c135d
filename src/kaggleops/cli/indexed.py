"""The index that a command reads: the one that `kaggleops serve` keeps, or a copy of its own."""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.progress import Progress

from kaggleops.cli.options import bucket_at
from kaggleops.cli.output import err
from kaggleops.errors import UsageError

if TYPE_CHECKING:
    from kaggleops.reports.history import History

_FRESH_FOR = 10.0  # seconds: then the bucket is asked what has changed

_Answer = TypeVar("_Answer")


def asked(place: str, question: "Callable[[History], _Answer]") -> "_Answer":
    """Return what an index answers; one that does not know is brought up to date and asked again.

    Args:
        place: the bucket's address.
        question: raises UsageError where it is about something that is not there.
    """
    try:
        with history_of(place) as history:
            return question(history)
    except UsageError:
        with history_of(place, anew=True) as history:
            return question(history)


@contextmanager
def history_of(place: str, *, anew: bool = False) -> Iterator["History"]:
    """Yield the runs of a bucket, as its index on this machine has them, brought up to date.

    Args:
        place: the bucket's address.
        anew: bring it up to date however fresh it is, with what nobody has announced, too.

    Raises:
        KaggleOpsError: the bucket or the database cannot be reached.
    """
    import sqlalchemy as sa

    from kaggleops.reports.history import History
    from kaggleops.server.settings import default_index, server_folder

    url = os.environ.get("KAGGLEOPS_INDEX") or default_index(place)
    marker = server_folder(place) / "fresh"
    if anew or time.time() - max(_served_at(url), _touched_at(marker)) > _FRESH_FOR:
        _refresh(url, place, full=anew)
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    engine = sa.create_engine(url)
    try:
        yield History(engine)
    finally:
        engine.dispose()


def _touched_at(marker: Path) -> float:
    with suppress(OSError):
        return marker.stat().st_mtime
    return 0.0


def _served_at(url: str) -> float:
    """Return when a server last refreshed the index (server/notices.py); 0 for never."""
    import sqlalchemy as sa

    engine = sa.create_engine(url)
    with suppress(sa.exc.SQLAlchemyError, ValueError), engine.connect() as connection:
        notice = connection.execute(sa.text("SELECT notice FROM kaggleops_serving")).scalar()
        engine.dispose()
        return float(json.loads(notice or "{}").get("fresh", 0.0))
    return 0.0


def _refresh(url: str, place: str, *, full: bool) -> None:
    from kaggleops.index import Index
    from kaggleops.mlruns import EntityStore

    # It says that it makes its tables, whoever asked for them.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("Bringing the bucket into the index", total=None)
        index = Index(url, EntityStore(bucket_at(place)))
        try:
            index.refresh(lambda done, due: bar.update(task, completed=done, total=due), full=full)
        finally:
            index.close()
