"""What a service may answer one day: fields that are not there, words that are new, no answer."""

from collections.abc import Iterator
from typing import Any

from tests.fakes.wire import Response

HTML = b"<!doctype html><html><body><h1>Sign in to the network</h1></body></html>"
_JSON = [("Content-Type", "application/json")]
_GONE = object()


def whole(good: bytes = b"") -> Iterator[tuple[str, Response]]:
    """Yield answers that have nothing of what was asked for; with a good one, half of that."""
    bodies = {
        "nothing": b"",
        "null": b"null",
        "a list": b"[]",
        "a text": b'"text"',
        "a number": b"7",
        "an object": b"{}",
        "half": good[: len(good) // 2],
        "no UTF-8": b'{"id": "\xff\xfe"}',
    }
    for name, body in bodies.items():
        yield name, Response(200, _JSON, body)
    page = [("Content-Type", "text/html")]
    yield "a page", Response(200, page, HTML)
    yield "a page that is not found", Response(404, page, HTML)
    yield "a page that is forbidden", Response(403, page, HTML)
    yield "an odd refusal", Response(400, _JSON, b'{"title": null, "errors": 7, "detail": {}}')


def odd(content: Any, depth: int = 3) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yield JSON values with one place of it odd, and where that is.

    Args:
        content: how it should be.
        depth: how far down.
    """
    items: list[tuple[Any, Any]] = []
    if isinstance(content, dict):
        items = list(content.items())
    elif isinstance(content, list):
        items = list(enumerate(content))
    for name, value in items:
        for other in _others(value):
            yield (name,), _with(content, name, other)
        if depth > 1:
            for path, changed in odd(value, depth - 1):
                yield (name, *path), _with(content, name, changed)


def all_odd(content: Any) -> Iterator[Any]:
    """Yield the object with all of its fields odd at once, in each way."""
    for number in range(len(list(_others(None)))):
        made = {name: list(_others(value))[number] for name, value in content.items()}
        yield {name: value for name, value in made.items() if value is not _GONE}


def _others(value: Any) -> Iterator[Any]:
    yield _GONE
    yield None
    yield "RESUMING"
    yield "\0\n\x1b[2J" + "x" * 10_000
    yield -7
    yield 10**400
    yield float("nan")
    yield True
    yield []
    yield {}
    yield [[], None, 7, {"id": None}]


def _with(content: Any, name: Any, value: Any) -> Any:
    changed = content.copy()
    if value is _GONE:
        del changed[name]
    else:
        changed[name] = value
    return changed
