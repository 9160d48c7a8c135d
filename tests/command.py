"""The `kaggleops` command: as a user runs it, in a process of its own; or in this one, faster."""

import json
import os
import subprocess
import sys
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner


@dataclass
class Done:
    """How a command ended."""

    code: int
    output: str
    errors: str

    @property
    def json(self) -> Any:
        """What it printed with `--json`."""
        return json.loads(self.output)

    @property
    def error(self) -> str:
        """Its one line of error; anything else fails the test."""
        assert "Traceback" not in self.errors, self.errors
        lines = [line for line in self.errors.splitlines() if line.startswith("error:")]
        assert len(lines) == 1, self.errors
        return lines[0]


def kaggleops(*arguments: object, cwd: Path, **environment: str) -> Done:
    """Run the command in a folder."""
    done = subprocess.run(
        [sys.executable, "-m", "kaggleops", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "80", **environment},
        capture_output=True,
        text=True,
        timeout=280,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def kaggleops_here(*arguments: object, cwd: Path | None = None, **environment: str) -> Done:
    """Run the command in this process."""
    from kaggleops.cli import main

    with chdir(cwd or Path.cwd()):
        done = CliRunner(env=environment).invoke(
            main, list(map(str, arguments)), catch_exceptions=False
        )
    return Done(done.exit_code, done.stdout, done.stderr)
