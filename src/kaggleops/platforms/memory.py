"""How much memory this process may take."""

import os
import resource
from contextlib import suppress
from functools import cache
from pathlib import Path

_OF_CONTAINER = Path("/sys/fs/cgroup/memory.max")


@cache
def memory() -> int:
    """Return the bytes of memory that this machine, its container and its limits leave a process.

    What others take of them is not counted.
    """
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        sizes.append(limit)
    with suppress(OSError, ValueError):  # none, or "max"
        sizes.append(int(_OF_CONTAINER.read_text()))
    return min(sizes)
