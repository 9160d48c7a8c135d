"""What is assumed of a service (assumptions.md), and what came of checking it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kaggleops.backends.interface import Finding
from kaggleops.errors import KaggleOpsError, explained
from kaggleops.platforms.http import NotTakenError
from kaggleops.printable import printable
from kaggleops.redaction import redacted

Verdict = Literal["ok", "differs", "not checked"]
_LONGEST = 300  # characters of what was seen


class DiffersError(Exception):
    """The service does something else than is assumed; the message says what was seen."""


class NotCheckedError(Exception):
    """It could not be checked; the message says why."""


@dataclass(frozen=True)
class Line:
    """What came of one assumption."""

    id: str
    assumed: str  # what is assumed, a sentence
    breaks: str  # what happens here if it is false
    verdict: Verdict
    seen: str  # what was seen, or why nothing was

    @property
    def finding(self) -> Finding:
        """The same as a line of `kaggleops doctor`."""
        if self.verdict == "not checked":
            return Finding(self.id, "skipped", f"not checked: {self.seen}")
        hint = f"Assumed: {self.assumed} Otherwise {self.breaks}."
        return Finding(self.id, "error" if self.verdict == "differs" else "ok", self.seen, hint)


def assumed_of(service: str) -> dict[str, tuple[str, str]]:
    """Return what is assumed of a service and what breaks otherwise, by the assumption's name."""
    table = Path(__file__).with_name("assumptions.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return {row[0]: (row[2], row[3]) for row in rows if service in row[1].split(", ")}


def tried(service: str, on: Callable[[str], Any]) -> Iterator[Line]:
    """Check each assumption, whatever comes of the others.

    Args:
        service: which.
        on: returns where the check of a name is a method, which returns what it saw. It raises
            DiffersError with what it saw instead, or NotCheckedError with why it cannot look.
    """
    for name, (assumed, breaks) in assumed_of(service).items():
        verdict: Verdict = "ok"
        try:
            seen = getattr(on(name), name.replace("-", "_"))()
        except DiffersError as error:
            verdict, seen = "differs", str(error)
        except NotCheckedError as error:
            verdict, seen = "not checked", str(error)
        except NotTakenError as error:
            verdict, seen = "differs", error.problem
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            verdict, seen = "differs", f"an answer of another shape: {error!r}"
        except Exception as error:  # noqa: BLE001 - no answer, of whatever client
            said = explained(error) or error
            verdict = "not checked"
            seen = said.problem if isinstance(said, KaggleOpsError) else repr(said)
        yield Line(name, assumed, breaks, verdict, shown(seen))


def shown(text: str) -> str:
    """Return what was seen as one line that can be shown to anybody."""
    line = " ".join(printable(redacted(text)).split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


def expect(holds: object, seen: str) -> str:
    """Return what was seen if it is as assumed; DiffersError if not."""
    if not holds:
        raise DiffersError(seen)
    return seen
