"""Programs that are not ours, on a PATH of a test's own: strict about their words, with a memory.

programs = Programs(tmp_path)  # the folder to put in front of PATH is programs.path
programs.state("gcloud")       # what it made
programs.fail("gcloud", "iam service-accounts create", "Quota exceeded.")
"""

import json
import stat
import sys
from pathlib import Path
from typing import Any

_SOURCES = Path(__file__).parent


class Programs:
    """`gcloud`, installed into a folder of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "programs"
        self.path.mkdir()
        program = self.path / "gcloud"
        program.write_text(f"#!{sys.executable}\n{(_SOURCES / 'gcloud.py').read_text()}")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def state(self, name: str) -> dict[str, Any]:
        """Return what a program has made so far, and in `commands` what it was asked to make."""
        file = self.path / f"{name}.json"
        return json.loads(file.read_text()) if file.is_file() else {"commands": []}

    def remember(self, name: str, **state: Any) -> None:
        """Let a program know of what somebody made before."""
        (self.path / f"{name}.json").write_text(json.dumps(self.state(name) | state))

    def fail(self, name: str, command: str, message: str) -> None:
        """Let a program's next command that begins so fail."""
        (self.path / f"{name}.fails").write_text(json.dumps([command, message]))

    def sign_out(self) -> None:
        """Let nobody be signed in with gcloud."""
        (self.path / "gcloud.signed-out").touch()

    def sign_in(self) -> None:
        """Let somebody be."""
        (self.path / "gcloud.signed-out").unlink()
