"""The process of a job on this machine, which says on its run's page what that came to."""

import gc
import sys
from pathlib import Path

from kaggleops.backends.local import Job, main
from kaggleops.reports.outcome import tell_outcome

if __name__ == "__main__":
    main(Job(Path(sys.argv[1])), tell_outcome)
    # The next job waits for this process's end: collecting all of MLflow takes a fifth of a second.
    gc.freeze()
