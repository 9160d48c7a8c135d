"""Google's Colab CLI, driven as a process with a HOME of its own.

Read in google-colab-cli 0.7.5: its exit codes say little, and its debug log keeps the headers of
its requests. So what counts is what it prints and lists, and its files lie in a private folder.
"""

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from kaggleops.backends.answers import number
from kaggleops.backends.config import Count, KeyConfig
from kaggleops.backends.interface import Units
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.platforms.colab import Colab
from kaggleops.platforms.folders import write_private

_SECONDS = 1200.0  # for one answer: an allocation is tried four times, minutes each
_RATE = re.compile(r"Usage rate: ([\d.]+)/hr")
_LEFT = re.compile(r"Current balance: ([\d.]+)")
# Of a line that is not as it was, the name at least.
_LISTED = re.compile(
    r"^\[(?P<name>(?!colab\])[^]]+)\]"
    r"(?: (?P<endpoint>[^\s|]+))?(?:.*?Hardware: (?P<hardware>\S+))?",
    re.MULTILINE,
)
_NONE = "No active sessions"


@dataclass(frozen=True)
class Answer:
    """What the CLI printed, and its exit code."""

    code: int
    output: str

    @property
    def last_line(self) -> str:
        """The last line that says something."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        return lines[-1].removeprefix("[colab] ") if lines else "it said nothing"


@dataclass(frozen=True)
class Session:
    """A runtime as the CLI lists it."""

    name: str  # the session's; `?` for one that this configuration of the CLI did not make
    endpoint: str  # what Colab calls the runtime, "" where that cannot be read
    hardware: str  # its accelerator, or CPU; likewise


class ColabCli:
    """The CLI `program`, which signs in by `auth` and keeps who is signed in, and logs, in `home`.

    Jobs that run at once need a file for its `sessions` each; its processes inherit the `lock`.
    """

    def __init__(
        self, program: str, auth: str, home: Path, sessions: Path, lock: int | None = None
    ) -> None:
        self._command = [program, "--auth", auth, "--config", str(sessions)]
        self.home = home
        self._lock = lock

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start it; it cannot ask anybody anything. Raises UsageError if it is not installed."""
        settings = self.home / ".config/colab-cli/settings.json"
        if not settings.exists():
            # Else it looks for a newer version, and prints about that.
            write_private(settings, json.dumps({"enable_update_check": False}))
        gcloud = os.environ.get("CLOUDSDK_CONFIG") or str(Path.home() / ".config/gcloud")
        environment = {
            "HOME": str(self.home),
            "CLOUDSDK_CONFIG": gcloud,  # for --auth adc: HOME leads elsewhere now
            "COLAB_CLI_REQUEST_TIMEOUT": "300",  # seconds; an allocation may take as long
            "TMPDIR": str(self.home),  # where it saves pictures
            "COLUMNS": "1000",
        }
        try:
            return subprocess.Popen(
                [*self._command, *arguments],
                env=os.environ | environment,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                pass_fds=[] if self._lock is None else [self._lock],
            )
        except OSError as error:
            problem = f"the Colab CLI cannot be started ({error.strerror}: {self._command[0]})"
            hint = "Install it in an environment of its own: uv tool install google-colab-cli."
            raise UsageError("using Colab", problem, hint) from None

    def ask(self, *arguments: str) -> Answer:
        """Run it and return its answer; KaggleOpsError if it is not installed, or does not end."""
        process = self.start(*arguments)
        try:
            output, _ = process.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            problem = f"`{arguments[0]}` did not end within {_SECONDS / 60:.0f} minutes"
            raise KaggleOpsError("using Colab", problem) from None
        finally:
            process.kill()
            process.wait()
        return Answer(process.returncode, output)

    def sessions(self) -> list[Session] | None:
        """Return the runtimes that this account has, None where Colab does not say.

        Raises UsageError if the CLI is not installed, KaggleOpsError if it does not answer.
        """
        answer = self.ask("sessions")
        listed = [Session(*found.groups("")) for found in _LISTED.finditer(answer.output)]
        # A list that cannot be read is not one without any.
        if answer.code or (not listed and _NONE not in answer.output):
            return None
        return listed

    def usage(self) -> Units | None:
        """Return the account's compute units; None if they are not told, as without sign-in.

        Raises as `sessions` does.
        """
        answer = self.ask("usage")
        rate, left = (
            number(found[1]) if (found := each.search(answer.output)) else None
            for each in (_RATE, _LEFT)
        )
        if answer.code or rate is None:
            return None
        return Units("colab", left, rate)

    @property
    def sign_in(self) -> str:
        """The command with which a person signs in, once."""
        if self._command[2] == "adc":
            wanted = ("cloud-platform", "userinfo.email", "colaboratory")
            scopes = [f"https://www.googleapis.com/auth/{each}" for each in wanted]
            return f"gcloud auth application-default login --scopes=openid,{','.join(scopes)}"
        return f"HOME={self.home} {self._command[0]} --auth oauth2 usage"


MEMORY_GB = {
    **{"T4": 16.0, "L4": 24.0, "G4": 96.0, "A100": 40.0, "H100": 80.0},
    **{"v5e1": 16.0, "v6e1": 32.0},
}
"""Of each accelerator (secondary sources, 2026). The CLI would take any other for an A100."""

FREE = ("", "T4")
"""What may be had without compute units."""

LONGEST_HOURS = 24
"""What a session may last at most, with Colab Pro+ (secondary sources, 2026); 12 without."""


@dataclass(frozen=True)
class ColabConfig(KeyConfig):
    """The fields of config/backend/colab.yaml, where each is explained."""

    platform = Colab
    lasts = "session_hours"

    accelerator: Literal["", "T4", "L4", "G4", "A100", "H100", "v5e1", "v6e1"] = "T4"
    high_mem: bool = False
    session_hours: Annotated[float, Field(gt=0, le=LONGEST_HOURS)] = 12
    sessions: Count = 1
    auth: Literal["oauth2", "adc"] = "oauth2"
    cli: str = "colab"

    @property
    def memory_gb(self) -> float:
        """Of the accelerator, of the machine without (secondary sources, 2026)."""
        return MEMORY_GB.get(self.accelerator) or (51.0 if self.high_mem else 12.0)
