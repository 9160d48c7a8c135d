"""The one shape of every error a user can cause or meet.

A message says, on one line, what was being done, to what, what is wrong, and what to do now. The
command line prints it and nothing else; a stack trace is for our mistakes, not for the user's.
Whatever secret an address in it carries is hidden (redaction.py).
"""

from kaggleops.printable import printable
from kaggleops.redaction import redacted


class KaggleOpsError(Exception):
    """Something the user can understand and act on.

    Args:
        doing: what was being done, in the -ing form and with its object ("reading gs://b/x").
        problem: what is wrong.
        hint: what to do now; may be empty where nothing can be done.
    """

    def __init__(self, doing: str, problem: str, hint: str = "") -> None:
        self.doing = redacted(doing)
        self.problem = redacted(problem)
        self.hint = redacted(hint)
        super().__init__(self.doing, self.problem, self.hint)

    def __str__(self) -> str:
        message = f"{self.doing}: {self.problem.rstrip('.')}."
        return printable(f"{message} {self.hint}".replace("\n", " ").strip())

    def _render_traceback_(self) -> list[str]:
        return [f"error: {self}"]  # what IPython shows in place of a stack trace


class UsageError(KaggleOpsError):
    """It was called wrongly: exit code 2 on the command line."""


def explained(raised: BaseException | None) -> KaggleOpsError | None:
    """Return the error a user can understand behind another one, if there is one.

    MLflow's interface wraps our errors in its own.
    """
    while raised is not None and not isinstance(raised, KaggleOpsError):
        raised = raised.__cause__ or raised.__context__
    return raised


def first_line(error: BaseException) -> str:
    """Return an error's message without what follows its first line; its kind where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
