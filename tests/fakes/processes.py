"""The processes of a simulated machine: those whose KAGGLEOPS_ROOT is its folder."""

from contextlib import suppress
from pathlib import Path

import psutil


def end_processes_of(root: Path, variable: str = "KAGGLEOPS_ROOT") -> None:
    """End every process of a machine at once, also those that nobody waits for any more."""
    while processes := [
        each for each in psutil.process_iter() if _value_of(each, variable) == str(root)
    ]:
        for each in processes:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(processes, timeout=5)


def _value_of(process: psutil.Process, variable: str) -> str | None:
    with suppress(psutil.Error):
        if process.status() != psutil.STATUS_ZOMBIE:
            return process.environ().get(variable)
    return None
