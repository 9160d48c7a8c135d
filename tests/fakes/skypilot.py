"""SkyPilot: a `sky` whose managed jobs wait until a test lets a machine take them.

    sky = SkyPilot(tmp_path)
    sky.program                # what to call
    sky.start(name); sky.wait(name)

A machine is a folder. What the task says (`setup` and `run`) is truly executed there by a shell,
with a `uv` that makes an environment of this interpreter and installs nothing.
"""

import json
import shlex
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.fakes import platforms
from tests.fakes.processes import end_processes_of

_PROGRAM = Path(__file__).parent / "programs/sky.py"
_UV = f"""#!/bin/sh -e
case "$1 $2" in
"venv --quiet")
    for last; do :; done
    mkdir -p "$last/bin"
    printf '#!/bin/sh\\nexec {shlex.quote(sys.executable)} "$@"\\n' >"$last/bin/python"
    chmod +x "$last/bin/python" ;;
"pip install") test -x "$HOME/kaggleops-job/bin/python" ;;
*) echo "uv: $*" >&2; exit 2 ;;
esac
"""


class SkyPilot:
    """The command, what it launched, and the machines.

    Args:
        folder: for all of it; it is made.
        outside: environment variables that lead the machines to other services.
    """

    def __init__(self, folder: Path, outside: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.program = folder / "sky"
        self._outside = outside or {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        folder.mkdir()
        _executable(self.program, f"#!{sys.executable}\n{_PROGRAM.read_text()}")

    def jobs(self, name: str) -> list[Path]:
        """Return the folders of the jobs of a name, the oldest first."""
        found = sorted((self.folder / "jobs").glob("*"), key=lambda each: int(each.name))
        return [each for each in found if _read(each)["name"] == name]

    def task(self, name: str) -> dict[str, Any]:
        """Return what the newest job of a name was launched with."""
        task: dict[str, Any] = _read(self.jobs(name)[-1])["task"]
        return task

    def start(self, name: str) -> None:
        """Let a machine take the newest job of a name, if none has; or the next, after the last."""
        job = self.jobs(name)[-1]
        if (job / "begun").exists() and not (job / "ended").exists():
            return
        (job / "ended").unlink(missing_ok=True)
        root = self.folder / "machines" / f"{job.name}-{len(list(job.glob('machine-*')))}"
        (job / f"machine-{root.name}").touch()
        _executable(root / "root" / ".local/bin/uv", _UV)
        task = _read(job)["task"]
        secrets = json.loads((job / "secrets.json").read_text())
        environment = platforms.skypilot(root, **self._outside, **secrets)
        (job / "begun").touch()
        inner = f"set -e\n{task['setup']}\n{task['run']}"
        ended = shlex.quote(str(job / "ended"))
        # Whole as soon as it is there.
        outer = f'bash -c "$1"; echo $? >{ended}.part; mv {ended}.part {ended}'
        with (job / "log").open("ab") as log:
            self._running[job.name] = subprocess.Popen(
                ["bash", "-c", outer, "job", inner],
                cwd=root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait(self, name: str) -> None:
        """Return when nothing of it runs any more."""
        self._running[self.jobs(name)[-1].name].wait(timeout=280)

    def close(self) -> None:
        """Leave nothing running."""
        for root in (self.folder / "machines").glob("*"):
            end_processes_of(root)
        for process in self._running.values():
            process.kill()
            process.wait()


def _read(job: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((job / "job.json").read_text())
    return found


def _executable(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
