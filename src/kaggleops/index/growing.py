"""How far the metric points of a long run are in the index, so that only new ones are written.

A live run comes anew with every flush, and hardly anything of it is new. Metric files grow at their
end. Where each still begins with what is in the index already, told by a digest, what follows is
all that has to be written; where one does not, all of the run's points are compared.
"""

import hashlib
import json
from dataclasses import replace

from kaggleops.mlruns import Entity, Kind

_LONG = 64 << 10  # bytes of points, which are compared faster than their digests are kept
_POINTS = "metrics/"


def digests_of(entity: Entity) -> str:
    """Return what to keep of a run so that `new_points` knows it again; "" where it is short."""
    if entity.id.kind is not Kind.RUN:
        return ""
    files = {path: data for path, data in entity.files.items() if path.startswith(_POINTS)}
    if sum(map(len, files.values())) < _LONG:
        return ""
    return json.dumps({path: [len(data), _digest(data)] for path, data in files.items()})


def new_points(entity: Entity, digests: str) -> Entity | None:
    """Return the run with those of its points only that were added since.

    Args:
        entity: the run as it is now.
        digests: what was kept of it as it is in the index.

    Returns:
        None where something else has happened to its points.
    """
    files = dict(entity.files)
    for path, (size, digest) in json.loads(digests).items():
        data = files.pop(path, b"")
        if _digest(data[:size]) != digest:
            return None
        if added := data[size:]:
            files[path] = added
    return replace(entity, files=files)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
