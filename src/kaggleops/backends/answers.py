"""What a platform answered, read for what it is worth: what is missing or odd is unknown.

No answer is taken apart anywhere but through these.
"""

import math
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

_LONGEST = 1_000  # characters of a text: an address, an explanation


def text(found: Any, *path: str) -> str:
    """Return the text that lies there, "" where none does; of a very long one its beginning."""
    value = _at(found, path)
    return value[:_LONGEST] if isinstance(value, str) else ""


def number(found: Any, *path: str) -> float | None:
    """Return the number that lies there, finite and not negative; None where none does."""
    value = _at(found, path)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    with suppress(ValueError, OverflowError):
        if math.isfinite(read := float(value)) and read >= 0:
            return read
    return None


def moment(found: Any, *path: str) -> float | None:
    """Return the time that lies there (UTC without a zone), in seconds since the epoch, or None."""
    with suppress(ValueError, OverflowError):
        read = datetime.fromisoformat(text(found, *path))
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
    return None


def objects(found: Any, *path: str) -> list[Mapping[str, Any]] | None:
    """Return the objects of the list that lies there, None where there is no list.

    What is no object counts as one of which nothing is known: nobody may think it is not there.
    """
    value = _at(found, path)
    if not isinstance(value, list):
        return None
    return [each if isinstance(each, dict) else {} for each in value]


def _at(found: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
