"""How long a pod and its parts may take, at the most."""

LONGEST_HOURS = 168.0
"""What a job may be given: a week. RunPod has no limit of its own, and a pod that is forgotten is
paid for until its hours are over."""

GRACE = 60.0
"""Seconds that a job has to send what it logged, once it is told to end."""

PATIENCE = 300.0
"""Seconds that the bucket then has to take the exit code and the log."""

LATE = 2 * (GRACE + PATIENCE)
"""Seconds behind the deadline at which a pod deletes itself if all else hangs, as in
infra/runpod/start.py. Until then it is paid for."""

BEGINS_WITHIN = 3600.0
"""Seconds from a pod's creation by which its job has begun, however large its image: it is pulled
in minutes, and packages are installed in minutes more."""
