"""The index that a command reads: the one that `kaggleops serve` keeps, or a copy of its own."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import Progress

from kaggleops.cli.options import bucket_at
from kaggleops.cli.output import err

if TYPE_CHECKING:
    from kaggleops.reports.history import History

_FRESH_FOR = 30.0  # seconds: then the bucket is asked what has changed


@contextmanager
def history_of(place: str) -> Iterator["History"]:
    """Yield the runs of a bucket, as its index on this machine has them, brought up to date.

    Args:
        place: the bucket's address.

    Raises:
        KaggleOpsError: the bucket or the database cannot be reached.
    """
    import sqlalchemy as sa

    from kaggleops.reports.history import History
    from kaggleops.server.settings import default_index, server_folder

    url = os.environ.get("KAGGLEOPS_INDEX") or default_index(place)
    marker = server_folder(place) / "fresh"
    if time.time() - max(_served_at(url), _touched_at(marker)) > _FRESH_FOR:
        _refresh(url, place)
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


def _refresh(url: str, place: str) -> None:
    from kaggleops.index import Index
    from kaggleops.mlruns import EntityStore

    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("Bringing the bucket into the index", total=None)
        index = Index(url, EntityStore(bucket_at(place)))
        try:
            index.refresh(lambda done, due: bar.update(task, completed=done, total=due))
        finally:
            index.close()
