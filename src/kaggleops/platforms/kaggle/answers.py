"""Kaggle's answers, read for what they are worth: what is missing or odd counts as not there.

The message types of Kaggle's own client end with a trace at the first word that they do not know,
and so one odd item hides the whole list.
"""

import contextlib
import enum
from dataclasses import dataclass
from typing import Any

import requests
from kagglesdk.kaggle_object import KaggleObject, ListSerializer, PredefinedSerializer

_LONGEST = 100  # characters of a word


@dataclass(frozen=True)
class Word:
    """One of Kaggle's words that its client does not know; it has a name as those that it does."""

    name: str


def read_leniently(http: Any) -> None:
    """Let a connection of Kaggle's client read what can be read of each answer.

    Args:
        http: a `KaggleHttpClient`.
    """
    strict = http._prepare_response

    def prepare(kind: Any, answer: requests.Response) -> Any:
        file = kind is not None and (
            kind.prepare_from.__func__ is not KaggleObject.prepare_from.__func__
        )
        if "text/html" in answer.headers.get("Content-Type", "") and not (file and answer.ok):
            raise requests.ConnectionError("a page came from whoever stands between")
        try:
            strict(None, answer)  # raises what the answer says is wrong
        except TypeError:  # it says so in no way that the client knows
            answer.raise_for_status()
        if kind is None:
            return None
        if file:
            return kind.prepare_from(answer)
        return read(kind, answer.json() if answer.content or kind._fields else {})

    http._prepare_response = prepare


def read(kind: Any, content: Any) -> Any:
    """Return a message of that type with all that can be read of a JSON value."""
    made = kind()
    for field in kind._fields:
        value = content.get(field.json_name) if isinstance(content, dict) else None
        if value is not None:
            # Whatever it is, it is not what the field should be.
            with contextlib.suppress(Exception):
                setattr(made, field.private_field_name, _value(field, value))
    return made


def _value(field: Any, value: Any) -> Any:
    if not isinstance(field.serializer, ListSerializer):
        return _one(field, field.serializer, value)
    found = []
    for each in list(value):
        # The serializer of a list's items is known to the list's alone.
        with contextlib.suppress(Exception):
            found.append(_one(field, None, each))
    return found


def _one(field: Any, serializer: Any, value: Any) -> Any:
    kind = field.field_type
    if isinstance(kind, type) and issubclass(kind, KaggleObject):
        return read(kind, value)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        try:
            return field.serializer.from_dict_value(kind, value)
        except KeyError:
            return Word(str(value)[:_LONGEST])
    if isinstance(serializer, PredefinedSerializer) or kind in (str, int, float, bool):
        return _plain(kind, value)
    return serializer.from_dict_value(kind, value)


def _plain(kind: Any, value: Any) -> Any:
    if isinstance(value, bool) is not (kind is bool):
        raise TypeError(value)
    if kind in (int, float):
        return kind(value)  # long ones come as texts
    if not isinstance(value, kind):
        raise TypeError(value)
    return value
