"""Indexes of the database's tables besides MLflow's primary keys.

MLflow's own on metric points are set aside during the first import of a large bucket: made anew at
its end, they take a third of the time. A first import that dies leaves them missing, which only
makes reading slower, until the next one that lists the bucket makes them.
"""

import sqlalchemy as sa

from kaggleops.index.tables import METRICS


def set_indexes_aside(engine: sa.Engine) -> None:
    """Drop MLflow's secondary indexes on metric points."""
    with engine.begin() as connection:
        for index in METRICS.table.indexes:
            index.drop(connection, checkfirst=True)


def make_indexes(engine: sa.Engine) -> None:
    """Make those that are not there."""
    with engine.begin() as connection:
        for index in METRICS.table.indexes:
            index.create(connection, checkfirst=True)
