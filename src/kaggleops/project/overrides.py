"""`key=value` as the user types it, and as an entry point of an MLproject takes it.

A key that the entry point declares is passed as that parameter. All others travel together in the
parameter `overrides`, quoted as for a shell, because MLflow quotes each parameter as one word.
"""

import difflib
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kaggleops.errors import UsageError

OVERRIDES = "overrides"
_PATH_LIKE = re.compile(r"(\.{1,2}|~)(/.*)?")
_PLAIN = re.compile(r"[\w./@%+-]+")


@dataclass(frozen=True)
class Overrides:
    """What the user set, in order.

    Args:
        items: `key=value` each, in Hydra's own syntax (`+key=value`, `~key`, `key=[1,2]`).
        directory: what a relative path in a value is relative to. The run's own working directory
            is a fresh clone, so a path like `../data` is made absolute before it gets there. None
            for a run on another machine, where this one's folders are not.
    """

    items: Sequence[str] = ()
    directory: Path | None = Path()

    def as_parameters(self, declared: Mapping[str, object], doing: str) -> dict[str, str]:
        """Return the parameters to run an entry point with.

        Args:
            declared: the parameters that the entry point declares.
            doing: what is being done, for the error.

        Raises:
            UsageError: it does not take one of them.
        """
        parameters: dict[str, str] = {}
        free: list[str] = []
        for item in self.items:
            key, equals, value = item.partition("=")
            if equals and key in declared and key != OVERRIDES:
                parameters[key] = value
            elif OVERRIDES in declared:
                free.append(self._absolute(item))
            else:
                takes = f"It takes: {', '.join(declared) or 'no parameters'}."
                hint = f"{did_you_mean(key, declared)} {takes}".lstrip()
                raise UsageError(doing, f"it does not take {item!r}", hint)
        if free:
            parameters[OVERRIDES] = shlex.join(free)
        return parameters

    def _absolute(self, item: str) -> str:
        key, equals, value = item.partition("=")
        bare = value[1:-1] if value[:1] == value[-1:] and value[:1] in ("'", '"') else value
        if self.directory is None or not equals or not _PATH_LIKE.fullmatch(bare):
            return item
        path = os.path.normpath(self.directory.absolute() / Path(bare).expanduser())
        if _PLAIN.fullmatch(path):
            return f"{key}={path}"
        escaped = path.replace("\\", "\\\\").replace("'", "\\'")
        return f"{key}='{escaped}'"


def did_you_mean(key: str, known: Iterable[str]) -> str:
    """Return a question that names what is known and spelled nearly so; "" if nothing is."""
    names = list(known)
    above, dot, last = key.rpartition(".")
    beside = [name[len(above + dot) :] for name in names if name.rpartition(".")[0] == above]
    near = [f"{above}{dot}{name}" for name in difflib.get_close_matches(last, beside, cutoff=0.7)]
    near = near or difflib.get_close_matches(key, names, cutoff=0.7)
    return f"Did you mean {' or '.join(near)}?" if near else ""
