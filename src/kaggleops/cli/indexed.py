"""The index that a command reads: the one that `kaggleops serve` keeps, or one of its own."""

import hashlib
import importlib.util
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from kaggleops.cli import options
from kaggleops.cli.output import name_as_typed, progress_bar
from kaggleops.errors import KaggleOpsError, UsageError, first_line
from kaggleops.platforms.folders import private_file, private_folder

if TYPE_CHECKING:
    from kaggleops.reports.history import History

_FRESH_FOR = 10.0  # seconds; then the bucket is asked what has changed

_Answer = TypeVar("_Answer")


def ask_index(
    place: str,
    index: str | None,
    question: "Callable[[History], _Answer]",
    *,
    fresh_for: float = _FRESH_FOR,
) -> "_Answer":
    """Return the answer of an index; if it has none, bring it up to date and ask again.

    The question raises UsageError if what it is about is not there.
    """
    with history_of(place, index, fresh_for=fresh_for) as history, suppress(UsageError):
        return question(history)
    with history_of(place, index, anew=True) as history:
        return question(history)


_WHOLE_ID = re.compile(r"[0-9a-f]{32}")


def runs_named(place: str, words: Iterable[str], index: str | None = None) -> list[str]:
    """Return the ids of the runs that people name: by id, the beginning of one, or a name.

    A whole id is taken as it is, whether or not there is such a run. Raises UsageError, with the
    candidates, if a word stands for no run or for several.
    """
    chosen = []
    for word in dict.fromkeys(words):
        chosen.append(word if _WHOLE_ID.fullmatch(word) else _run_named(place, word, index))
        name_as_typed(chosen[-1], word)
    return list(dict.fromkeys(chosen))


def _run_named(place: str, word: str, index: str | None) -> str:
    from kaggleops.mlruns import EntityStore, Kind

    if can_index():
        from kaggleops.reports.selection import the_run_called

        return ask_index(
            place, index, lambda history: the_run_called(history, word, place), fresh_for=0
        )
    store = EntityStore(options.bucket_at(place))
    homes = [home.experiment_id for home, _ in store.list(Kind.EXPERIMENT)]
    runs = (run.name for home in homes for run, _ in store.list(Kind.RUN, home))
    ids = [run_id for run_id in runs if run_id.startswith(word)]
    if len(ids) != 1:
        problem = f"{len(ids) or 'no'} runs in {place} have this id prefix"
        hint = "Name one by its id; names need SQLAlchemy: pip install 'kaggleops[server]'."
        raise UsageError(f"looking for run {word!r}", problem, hint)
    return ids[0]


def run_named(place: str, word: str, index: str | None = None) -> str:
    """Return the id of one run; see `runs_named`."""
    return runs_named(place, [word], index)[0]


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
    """Yield the runs of a bucket from an index, by default the one on this machine, as current.

    It needs no refreshing for `fresh_for` seconds; `anew` refreshes it however fresh it is, with
    what was not announced too. Raises UsageError if no index can be there, or it holds something
    else; KaggleOpsError if the bucket or the database cannot be reached.
    """
    require_index()
    import sqlalchemy as sa

    from kaggleops.mlruns import EntityStore
    from kaggleops.reports.history import History
    from kaggleops.server.settings import default_index, server_folder

    url = index or default_index(place)
    # Of this index: another one of the same bucket may be days old.
    marker = server_folder(place) / f"fresh-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    store = EntityStore(options.bucket_at(place))
    if anew or time.time() - _fresh_at(url, place, marker) > fresh_for:
        from kaggleops.index.refresh import Index

        with progress_bar("Updating the index") as progress, closing(Index(url, store)) as opened:
            opened.refresh(progress, full=anew)
        private_folder(marker.parent)
        private_file(marker).touch()
    engine = sa.create_engine(url)
    try:
        yield History(engine, lambda: store)
    except sa.exc.SQLAlchemyError as error:
        doing = f"reading the index {url}"
        raise KaggleOpsError(doing, first_line(error), "Name another --index.") from error
    finally:
        engine.dispose()


def _fresh_at(url: str, place: str, marker: Path) -> float:
    """Return when an index was last up to date with its bucket; 0 if it is not of this bucket."""
    import sqlalchemy as sa

    # What is wrong with it is said when it is opened to be refreshed.
    with suppress(sa.exc.SQLAlchemyError, ImportError, ValueError):
        engine = sa.create_engine(url)
        try:
            with engine.connect() as connection:
                if connection.scalar(sa.text("SELECT bucket FROM kaggleops_index")) != place:
                    return 0.0
                with suppress(OSError):
                    return marker.stat().st_mtime
        finally:
            engine.dispose()
    return 0.0
