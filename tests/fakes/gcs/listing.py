"""Listing objects: prefix, delimiter, offsets, globs, pages; and the `fields` mask."""

import base64
import re
from collections.abc import Mapping
from typing import Any

from tests.fakes.gcs.store import FakeObject, bad_request, whole_number

PAGE = 1000


def select(
    objects: Mapping[str, FakeObject], query: Mapping[str, str]
) -> tuple[list[FakeObject], list[str], str | None]:
    """Return a page's objects and prefixes, and the token of the next page."""
    delimiter = query.get("delimiter", "")
    if query.get("matchGlob") and delimiter not in ("", "/"):
        raise bad_request("matchGlob can only be used with the delimiter '/'.")
    found = _names_and_prefixes(sorted(objects, key=str.encode), query)
    start = _resume(query.get("pageToken"))
    rest = [name for name in found if start is None or name.encode() > start]
    wanted = whole_number("maxResults", query.get("maxResults"))
    size = min(PAGE if wanted is None else wanted, PAGE)
    if size == 0:
        raise bad_request("maxResults must be positive")
    page, more = rest[:size], len(rest) > size
    token = base64.urlsafe_b64encode(page[-1].encode()).decode() if more else None
    items = [objects[name] for name in page if not found[name]]
    return items, [name for name in page if found[name]], token


def _names_and_prefixes(names: list[str], query: Mapping[str, str]) -> dict[str, bool]:
    """Return what is to be listed, in order, each with whether it is a prefix."""
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    start, end = query.get("startOffset"), query.get("endOffset")
    glob = _glob(query["matchGlob"]) if query.get("matchGlob") else None
    found: dict[str, bool] = {}
    for name in names:
        if not name.startswith(prefix):
            continue
        if (start and name.encode() < start.encode()) or (end and name.encode() >= end.encode()):
            continue
        head, cut, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
        shown = prefix + head + cut if cut else name
        if glob is None or glob.fullmatch(shown):
            found.setdefault(shown, bool(cut))
    return found


def _resume(token: str | None) -> bytes | None:
    if not token:
        return None
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True)
    except ValueError:
        raise bad_request("Invalid pageToken") from None


_GLOB_TOKEN = re.compile(r"\*\*|\*|\?|\[[!^]?\]?[^\]]*\]|\{[^{}]*\}|\\.|[^*?\[\]{}\\]+")


def _glob(glob: str) -> re.Pattern[str]:
    """Translate a matchGlob.

    https://cloud.google.com/storage/docs/json_api/v1/objects/list#list-objects-and-prefixes-using-glob
    """
    tokens = _GLOB_TOKEN.findall(glob)
    if "".join(tokens) != glob:
        raise bad_request(f"Invalid glob: {glob!r}")
    return re.compile("".join(map(_glob_part, tokens)), re.DOTALL)


def _glob_part(token: str) -> str:
    if token in ("**", "*", "?"):
        return {"**": ".*", "*": "[^/]*", "?": "[^/]"}[token]
    if token[0] == "[":
        inner = token[1:-1].replace("\\", r"\\")
        return f"[^/{inner[1:]}]" if inner[:1] in ("!", "^") else f"[{inner}]"
    if token[0] == "{":
        return "(?:" + "|".join(_glob(part).pattern for part in token[1:-1].split(",")) + ")"
    return re.escape(token[1] if token[0] == "\\" else token)


def mask(content: Mapping[str, Any], fields: str | None, known: frozenset[str]) -> Any:
    """Return what the `fields` of a request leave of `content`.

    Raises:
        ApiError: they name something that is in no resource, or cannot be understood.
    """
    if not fields:
        return content
    parser = _FieldsParser(fields, known)
    return _apply(content, parser.parse())


Mask = dict[str, "Mask"]


def _apply(content: Any, wanted: Mask) -> Any:
    if not wanted or "*" in wanted:
        return content
    if isinstance(content, list):
        return [_apply(item, wanted) for item in content]
    return {name: _apply(content[name], inner) for name, inner in wanted.items() if name in content}


class _FieldsParser:
    def __init__(self, text: str, known: frozenset[str]) -> None:
        self._tokens = re.findall(r"[A-Za-z0-9_*]+|[(),/]|.", text)
        self._known = known
        self._text = text

    def parse(self) -> Mask:
        wanted = self._list()
        if self._tokens:
            raise self._error(self._tokens[0])
        return wanted

    def _list(self) -> Mask:
        wanted: Mask = {}
        while True:
            name = self._tokens.pop(0) if self._tokens else ""
            if name != "*" and name not in self._known:
                raise self._error(name)
            wanted[name] = self._below()
            if not self._tokens or self._tokens[0] != ",":
                return wanted
            self._tokens.pop(0)

    def _below(self) -> Mask:
        if self._tokens[:1] == ["/"]:
            self._tokens.pop(0)
            name = self._tokens.pop(0) if self._tokens else ""
            return {name: self._below()}
        if self._tokens[:1] == ["("]:
            self._tokens.pop(0)
            inner = self._list()
            if self._tokens[:1] != [")"]:
                raise self._error("(")
            self._tokens.pop(0)
            return inner
        return {}

    def _error(self, near: str) -> Exception:
        return bad_request(f"Invalid field selection {near!r} in {self._text!r}")
