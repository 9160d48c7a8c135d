"""Long answers in pages."""

import base64
import binascii
from collections.abc import Sequence
from typing import TypeVar

from tests.fakes.kaggle.store import bad_request

_Item = TypeVar("_Item")

_DEFAULT = 20
_MOST = 200


def page_of(
    items: Sequence[_Item], size: int | None, token: str | None, page: int | None = None
) -> tuple[Sequence[_Item], str]:
    """Return one page and the token of the next, "" behind the last.

    Args:
        items: everything.
        size: how many a page has.
        token: of which page; it counts before `page`.
        page: its number, from 1.

    Raises:
        ApiError: there is no such page.
    """
    size = size or _DEFAULT
    if not 1 <= size <= _MOST:
        raise bad_request(f"The page size is between 1 and {_MOST}, not {size}")
    # Clients up to 2.2.3 ask for page -1 and mean the first.
    first = _first(token) if token else (max(page or 1, 1) - 1) * size
    rest = first + size
    return items[first:rest], _token(rest) if rest < len(items) else ""


def _token(first: int) -> str:
    return base64.urlsafe_b64encode(f"from {first}".encode()).decode()


def _first(token: str) -> int:
    try:
        words = base64.urlsafe_b64decode(token.encode()).decode().split()
        return int(words[1])
    except (binascii.Error, ValueError, IndexError):
        raise bad_request(f"Invalid page token: {token!r}") from None
