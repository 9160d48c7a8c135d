"""How far an index has read the change log: the next process goes on there, without a listing.

A mark is only ever written when all that it claims is in the index, so an old one, or none, costs
requests and misses nothing.
"""

import json

import sqlalchemy as sa

from kaggleops.index.database import MARK
from kaggleops.mlruns import Mark

ONE_LISTING = 1000
"""Objects that one request lists. A process that begins lists so few whatever was kept: that finds
what was written and not announced."""

LISTING_EVERY = 24 * 3600.0
"""Seconds after which it lists any number of them, for the same reason."""


class Marks:
    """The mark of one index, as one process reads and moves it.

    Args:
        engine: the index's database.
        few: entities, up to which a bucket is listed at first.
    """

    def __init__(self, engine: sa.Engine, few: int) -> None:
        self._engine = engine
        self._few = few
        self._kept: Mark | None = None
        self._listed = 0.0

    def begin(self, entities: int, now: float) -> Mark | None:
        """Return from where to go on without listing the bucket; None where it is to be listed.

        Args:
            entities: how many are in the index.
            now: seconds since the epoch.
        """
        with self._engine.begin() as connection:
            row = connection.execute(sa.select(MARK)).first()
        if row is None:
            return None
        self._kept = Mark(row.log_id, row.sequence, json.loads(row.open))
        self._listed = row.listed
        # A clock that was set back is no reason to wait for longer.
        recently = 0 <= now - row.listed < LISTING_EVERY
        return self._kept if recently and entities > self._few else None

    def keep(self, connection: sa.Connection, mark: Mark | None, listed: float | None) -> None:
        """Keep a mark in the place of the one before, where it says something else.

        Args:
            connection: to the index.
            mark: None keeps the one before.
            listed: when the bucket was listed (seconds since the epoch), if it was just now.
        """
        if mark is None or (listed is None and mark.same_place(self._kept)):
            return
        self._kept = mark
        self._listed = self._listed if listed is None else listed
        kept = json.dumps({key: dict(writers) for key, writers in mark.open.items()})
        values = {"log_id": mark.log_id, "sequence": mark.sequence, "open": kept}
        connection.execute(MARK.delete())
        connection.execute(MARK.insert().values(listed=self._listed, **values))
