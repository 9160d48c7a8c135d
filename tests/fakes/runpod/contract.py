"""RunPod's OpenAPI document, where it is at hand: what it allows of bodies and of answers."""

import functools
import json
import os
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

_BESIDE = Path(__file__).parents[4] / "shared/specs/runpod-v2-openapi.json"
_URI = "urn:runpod"


def document() -> Path | None:
    """Return the document's file, from KAGGLEOPS_RUNPOD_OPENAPI or beside the repository."""
    file = Path(os.environ.get("KAGGLEOPS_RUNPOD_OPENAPI", _BESIDE))
    return file if file.is_file() else None


def violations(schema: str, content: Any) -> list[str]:
    """Return what is wrong with a body, one line each; nothing without the document.

    Args:
        schema: the name of one of the document's.
        content: what the body says.
    """
    validator = _validator(schema)
    if validator is None:
        return []
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(content)]


@functools.cache
def _validator(schema: str) -> Draft202012Validator | None:
    file = document()
    if file is None:
        return None
    resource = Resource(contents=json.loads(file.read_text()), specification=DRAFT202012)
    registry = Registry().with_resource(_URI, resource)
    return Draft202012Validator({"$ref": f"{_URI}#/components/schemas/{schema}"}, registry=registry)
