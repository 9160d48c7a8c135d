"""What `gcloud` is started for in the user's place, one step after the other.

Each step can be repeated: it first looks whether it was done, or does no harm when done twice.
"""

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from kaggleops.errors import KaggleOpsError, UsageError


class CommandFailedError(KaggleOpsError):
    """A program that was started for the user ended with an error."""


@dataclass(frozen=True)
class Step:
    """A command, and how to see that it is not needed any more.

    Args:
        about: what it makes.
        command: its words.
        done: the words of a command that prints something where that is there already; empty for
            a step that may be done twice.
        hint: what to do where it fails.
    """

    about: str
    command: Sequence[str]
    done: Sequence[str] = ()
    hint: str = ""

    @property
    def line(self) -> str:
        """The command as a shell takes it."""
        return shlex.join(self.command)


def is_done(step: Step) -> bool:
    """Tell whether what a step makes is there already."""
    return bool(step.done and (answer_of(step.done) or "").strip())


def answer_of(command: Sequence[str]) -> str | None:
    """Return what a command prints, None where it fails.

    Raises:
        UsageError: the program is not installed.
    """
    done = _run(command)
    return None if done.returncode else done.stdout


def output_of(command: Sequence[str], doing: str, hint: str = "") -> str:
    """Return what a command prints.

    Args:
        command: its words.
        doing: what it is started for.
        hint: what to do where it fails; where nobody is signed in, that is said instead.

    Raises:
        UsageError: the program is not installed.
        CommandFailedError: it failed, with what it says.
    """
    done = _run(command)
    if done.returncode:
        if sign_in := re.search(r"^\s*\$ (gcloud auth [a-z -]+)$", done.stderr, re.MULTILINE):
            hint = f"Sign in: {sign_in[1]}"
        raise CommandFailedError(doing, f"{command[0]}: {_message(done.stderr)}", hint)
    return done.stdout


def _run(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    _require(command[0])
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def _message(stderr: str) -> str:
    """Return the error in what a program wrote, without the advice and the details behind it."""
    lines = [line.strip() for line in stderr.splitlines()]
    begin = next((n for n, line in enumerate(lines) if re.match("error:", line, re.I)), None)
    if begin is None:
        return next((line for line in reversed(lines) if line), "it said nothing")
    said = []
    for line in lines[begin:]:
        if not line or _NO_MESSAGE.match(line):
            break
        said.append(line)
    return re.sub(r"(?i)^error:\s*(\(gcloud[\w.-]*\)\s*)?", "", " ".join(said))


_NO_MESSAGE = re.compile(r"Please run:|Usage:|Help Token:|- ")


def _require(program: str) -> None:
    if shutil.which(program) is None:
        where = "https://cloud.google.com/sdk/docs/install"
        hint = f"Install it ({where}), or use a folder: --bucket FOLDER."
        raise UsageError(f"starting {program}", "it is not on this machine", hint)
