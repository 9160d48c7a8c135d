"""What the processes that serve one index tell each other, in a table of that index.

One of them refreshes it (leading.py) and posts how that goes; the others post that somebody looks.
"""

import json
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from kaggleops.index.database import BUSY, ENTITIES, SERVING
from kaggleops.index.tables import EXPERIMENT_TAGS, RUNS
from kaggleops.mlruns.changes import LOG_KEY
from kaggleops.project import views
from kaggleops.server.links import Shown


@dataclass(frozen=True)
class Notice:
    """How the refreshing goes. Times are in seconds since the epoch, 0 for never.

    Args:
        fresh: when the index was last as the bucket is.
        heard: when the bucket last answered.
        trouble: what has kept the index from being fresh since then; "" for nothing.
        pace: seconds from one look to the next.
    """

    fresh: float = 0.0
    heard: float = 0.0
    trouble: str = ""
    pace: float = 0.0


class NoticeBoard:
    """The notices of one index, and what it holds. Safe to use from several threads.

    Args:
        url: the index's database.
    """

    def __init__(self, url: str) -> None:
        # Not the index's engine, whose every transaction waits for who writes.
        waits = {"timeout": BUSY} if sa.make_url(url).get_backend_name() == "sqlite" else {}
        self._engine = sa.create_engine(url, pool_pre_ping=True, pool_size=1, connect_args=waits)

    def post(self, notice: Notice) -> None:
        """Say how the refreshing goes."""
        with self._engine.begin() as connection:
            connection.execute(SERVING.update().values(notice=json.dumps(asdict(notice))))

    def read(self) -> Notice:
        """Return how the refreshing goes."""
        with self._engine.connect() as connection:
            return Notice(
                **json.loads(connection.execute(sa.select(SERVING.c.notice)).scalar_one())
            )

    def post_look(self) -> None:
        """Say that somebody looks."""
        with self._engine.begin() as connection:
            connection.execute(SERVING.update().values(looks=SERVING.c.looks + 1))

    def looks(self) -> int:
        """Return a number that is another one whenever somebody has looked elsewhere."""
        with self._engine.connect() as connection:
            return int(connection.execute(sa.select(SERVING.c.looks)).scalar_one())

    # -- what the index holds -------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Return how many there are of what people ask for."""
        names = ("experiments", "runs", "registered_models", "trace_info")
        count = sa.select(sa.func.count())
        with self._engine.connect() as connection:
            return {
                name: connection.scalar(count.select_from(sa.table(name))) or 0 for name in names
            }

    def problems(self, at_most: int) -> list[str]:
        """Return why some of what is in the bucket cannot be seen as it is there.

        That of the change log comes first: it concerns everything.
        """
        query = (
            sa.select(ENTITIES.c.problem)
            .where(ENTITIES.c.problem != "")
            .order_by(sa.case((ENTITIES.c.key == LOG_KEY, 0), else_=1))
            .limit(at_most)
        )
        with self._engine.connect() as connection:
            return list(connection.scalars(query))

    def last_experiment(self) -> Shown | None:
        """Return the experiment of the run that was started last."""
        runs = RUNS.table
        query = (
            sa.select(runs.c.experiment_id)
            .where(runs.c.lifecycle_stage == "active")
            .order_by(runs.c.start_time.desc())
            .limit(1)
        )
        tags = EXPERIMENT_TAGS.table
        with self._engine.connect() as connection:
            found = connection.scalar(query)
            if found is None:
                return None
            view = sa.select(tags.c.key).where(
                tags.c.experiment_id == found, tags.c.key == views.TAG
            )
            return Shown(str(found), connection.scalar(view) is not None)
