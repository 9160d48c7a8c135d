"""An experiment's id is made from its name, so that nobody has to be asked for one.

Two notebooks that create the same experiment at the same moment make the same one.
"""

import hashlib
from collections.abc import Iterator
from itertools import count

DEFAULT_ID = "0"
DEFAULT_NAME = "Default"

_LARGEST = 2**31 - 1  # experiments.experiment_id is a 32-bit INTEGER in MLflow's SQL schema


def experiment_ids(name: str) -> Iterator[str]:
    """Yield the ids that an experiment of this name may have, in the order in which to try them.

    The next is for where an id is taken by an experiment that was renamed since.
    """
    if name == DEFAULT_NAME:
        yield DEFAULT_ID
    for attempt in count():
        digest = hashlib.sha256(f"{name}\0{attempt}".encode()).digest()
        yield str(1 + int.from_bytes(digest[:8]) % _LARGEST)
