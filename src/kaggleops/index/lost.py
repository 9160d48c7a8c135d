"""Runs whose machine has fallen silent: RUNNING in the bucket, and shown as FAILED with a tag.

The bucket is not changed: a machine that was only cut off writes again, its run comes in anew and
is RUNNING again. How long a run has been silent is counted from when this index last saw a new
version of it, by this machine's own clock; no two machines' clocks are compared.
"""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from mlflow.entities import RunStatus

from kaggleops.index.database import ENTITIES
from kaggleops.index.preparation import Prepared
from kaggleops.index.tables import RUNS, TAGS
from kaggleops.mlruns.layout import parse_key
from kaggleops.tags import LOST

# Further apart than clocks are wrong: then what a run says of its own last beat is believed.
_SURELY_LONG_AGO_MS = 2 * 86_400_000

_STATUS = {name: RunStatus.to_string(getattr(RunStatus, name)) for name in ("RUNNING", "FAILED")}


def vital_signs(change: Prepared, now_ms: int) -> dict[str, Any]:
    """Return what to keep of a change: when it was heard, and how long it may be silent (s)."""
    long_ago = 0 < change.heartbeat < now_ms - _SURELY_LONG_AGO_MS
    heard_ms = change.heartbeat if long_ago else now_ms
    return {"heard_ms": heard_ms, "may_be_silent": change.may_be_silent}


def mark_lost(connection: sa.Connection, now_ms: int) -> int:
    """Show as lost what has been silent for too long; return how many runs that newly is.

    Args:
        connection: in whose transaction.
        now_ms: the time, in milliseconds since the epoch.
    """
    silent = sa.select(ENTITIES.c.key, ENTITIES.c.heard_ms).where(
        ENTITIES.c.may_be_silent.is_not(None),
        ENTITIES.c.heard_ms + 1000 * ENTITIES.c.may_be_silent < now_ms,
    )
    found = [(parse_key(key), key, heard_ms) for key, heard_ms in connection.execute(silent).all()]
    runs, tags = RUNS.table, TAGS.table
    for run, key, heard_ms in found:
        if run is None:
            continue
        heard = datetime.fromtimestamp(heard_ms / 1000, UTC).isoformat(" ", "seconds")
        mine = tags.c.run_uuid == run.name, tags.c.key == LOST
        connection.execute(tags.delete().where(*mine))
        shown = connection.execute(
            runs.update()
            .where(runs.c.run_uuid == run.name, runs.c.status == _STATUS["RUNNING"])
            .values(status=_STATUS["FAILED"])
        )
        if shown.rowcount:
            text = f"last heard at {heard}"
            connection.execute(tags.insert().values(run_uuid=run.name, key=LOST, value=text))
        # Looked at again when it writes again.
        connection.execute(
            ENTITIES.update().where(ENTITIES.c.key == key).values(may_be_silent=None)
        )
    return len(found)
