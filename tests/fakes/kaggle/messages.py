"""Requests and answers as Kaggle's own message types have them, and nothing that they lack.

The types come from `kagglesdk`, which is generated from the service's definition: their fields are
what the real service knows.
"""

import enum
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from kagglesdk.kaggle_object import FieldMetadata, KaggleObject, ListSerializer

from tests.fakes.kaggle.store import ApiError, bad_request
from tests.fakes.wire import Response

_Message = TypeVar("_Message", bound=KaggleObject)


def parse(kind: type[_Message], body: bytes) -> _Message:
    """Return a request.

    Raises:
        ApiError: it is no JSON, or not of this type.
    """
    try:
        content = json.loads(body)
    except ValueError:
        raise bad_request("The body is not JSON.") from None
    _check(kind, content)
    message: _Message = kind.from_dict(content)
    return message


def json_response(content: Mapping[str, Any], status: int = 200) -> Response:
    body = json.dumps(content).encode()
    return Response(status, [("Content-Type", "application/json; charset=utf-8")], body)


def error_response(error: ApiError, *, storage: bool) -> Response:
    """Return the service's JSON of an error; output files come from Cloud Storage, with XML."""
    if storage:
        text = f"<Error><Code>{error.status}</Code><Message>{error.message}</Message></Error>"
        kind = ("Content-Type", "application/xml; charset=UTF-8")
        response = Response(error.status, [kind], f"<?xml version='1.0'?>{text}".encode())
    else:
        response = json_response({"code": error.status, "message": error.message}, error.status)
    response.headers += error.headers
    return response


def checked(kind: type[KaggleObject], content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an answer of that type.

    Raises:
        TypeError: the fake has a bug: the type has no such fields.
    """
    fields = {each.json_name for each in kind._fields}
    if unknown := content.keys() - fields:
        raise TypeError(f"{kind.__name__} has no {sorted(unknown)}")
    return content


def _check(kind: type[KaggleObject], content: Any) -> None:
    if not isinstance(content, dict):
        raise bad_request(f"{kind.__name__} is a JSON object")
    fields: dict[str, FieldMetadata] = {each.json_name: each for each in kind._fields}
    if unknown := content.keys() - fields.keys():
        raise bad_request(f"Unknown fields of {kind.__name__}: {sorted(unknown)}")
    for name, value in content.items():
        field = fields[name]
        if not isinstance(field.serializer, ListSerializer):
            _check_value(name, field.field_type, value)
        elif isinstance(value, list):
            for each in value:
                _check_value(name, field.field_type, each)
        else:
            raise bad_request(f"{name} is a list")


def _check_value(name: str, kind: type, value: Any) -> None:
    if issubclass(kind, KaggleObject):
        _check(kind, value)
    elif issubclass(kind, enum.Enum):
        if value not in kind.__members__:
            raise bad_request(f"{name} is one of {list(kind.__members__)}, not {value!r}")
    elif type(value) is not kind:
        raise bad_request(f"{name} is of type {kind.__name__}, not {value!r}")
