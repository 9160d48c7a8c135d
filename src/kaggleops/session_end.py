"""What a training has to know of its session: when it ends, and how to say that it is not done."""

import os
import time

TO_BE_CONTINUED = 42
"""The exit code of a training that saved what it has, and goes on in another session."""

SESSION_ENDS = "KAGGLEOPS_SESSION_ENDS"
"""The environment variable that tells a training when its session ends: seconds since the epoch."""


def time_left() -> float | None:
    """Return the seconds until this session ends, 0 once it should have; None if nothing ends it.

    A training that is not done saves a checkpoint in time, and exits with `TO_BE_CONTINUED`
    (docs/long.md).
    """
    try:
        ends = float(os.environ[SESSION_ENDS])
    except (KeyError, ValueError):
        return None
    return max(0.0, ends - time.time())
