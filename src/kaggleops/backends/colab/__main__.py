"""A job's supervisor: `python -m kaggleops.backends.colab FOLDER`."""

import sys
from pathlib import Path

from kaggleops.backends.colab.supervisor import Job, main

if __name__ == "__main__":
    main(Job(Path(sys.argv[1])))
