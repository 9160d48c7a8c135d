"""An assumption about a service, and what came of checking it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from kaggleops.backends.interface import Finding
from kaggleops.errors import KaggleOpsError, explained
from kaggleops.platforms.http import NotTakenError
from kaggleops.printable import printable
from kaggleops.redaction import redacted

Seen = TypeVar("Seen")
"""What a service's assumptions are checked on: a connection, or what a job was seen to do."""

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
    verdict: Literal["ok", "differs", "not checked"]
    seen: str  # what was seen, or why nothing was

    @property
    def finding(self) -> Finding:
        """The same as a line of `kaggleops doctor`."""
        if self.verdict == "not checked":
            return Finding(self.id, "skipped", f"not checked: {self.seen}")
        hint = f"Assumed: {self.assumed} Otherwise {self.breaks}."
        return Finding(self.id, "error" if self.verdict == "differs" else "ok", self.seen, hint)


class Assumptions(Generic[Seen]):
    """The assumptions about one service, in the order in which they are checked."""

    def __init__(self) -> None:
        self._checks: dict[str, tuple[Callable[[Seen], str], str]] = {}

    def otherwise(self, breaks: str) -> Callable[[Callable[[Seen], str]], Callable[[Seen], str]]:
        """List a check, which returns what it saw, with what happens here if it fails.

        It raises DiffersError with what it saw instead, or NotCheckedError with why it cannot look.
        """

        def listed(check: Callable[[Seen], str]) -> Callable[[Seen], str]:
            self._checks[check.__name__.replace("_", "-")] = (check, breaks)
            return check

        return listed

    @property
    def ids(self) -> list[str]:
        """The names of all of them."""
        return list(self._checks)

    def tried(self, on: Callable[[str], Seen]) -> Iterator[Line]:
        """Check each, whatever comes of the others; `on` returns what one of a name looks at."""
        for name, (check, breaks) in self._checks.items():
            verdict: Literal["ok", "differs", "not checked"] = "ok"
            try:
                seen = check(on(name))
            except DiffersError as error:
                verdict, seen = "differs", str(error)
            except NotCheckedError as error:
                verdict, seen = "not checked", str(error)
            except NotTakenError as error:
                verdict, seen = "differs", error.problem
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                # An answer of another shape than the one that is assumed.
                verdict, seen = "differs", f"an answer of another shape: {error!r}"
            except Exception as error:  # noqa: BLE001 - no answer, of whatever client
                said = explained(error) or error
                problem = said.problem if isinstance(said, KaggleOpsError) else repr(said)
                verdict, seen = "not checked", problem
            assumed = " ".join((check.__doc__ or "").split())
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
