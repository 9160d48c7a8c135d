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


def sample(schema: str) -> Any:
    """Return a body as the document has it, with everything in it that may be there.

    Args:
        schema: the name of one of the document's, which is at hand.
    """
    file = document()
    assert file is not None
    schemas = json.loads(file.read_text())["components"]["schemas"]

    def of(what: dict[str, Any]) -> Any:
        if "$ref" in what:
            return of(schemas[what["$ref"].rpartition("/")[2]])
        if "allOf" in what:
            made: dict[str, Any] = {}
            parts = [of(each) for each in what["allOf"]]
            for part in parts:
                if not isinstance(part, dict):
                    return part
                made |= part
            return made | (of({**what, "allOf": []}) if "properties" in what else {})
        for name in ("anyOf", "oneOf"):
            if name in what:
                return of(what[name][0])
        if "enum" in what:
            return what["enum"][0]
        if what.get("examples") and what["examples"][0] is not None:
            return what["examples"][0]
        kind = what.get("type", "object")
        kind = kind[0] if isinstance(kind, list) else kind
        if kind == "array":
            return [of(what.get("items", {}))]
        if kind == "object":
            return {name: of(each) for name, each in what.get("properties", {}).items()}
        return {"string": "a text", "boolean": True}.get(kind, 1)

    return of(schemas[schema])


@functools.cache
def _validator(schema: str) -> Draft202012Validator | None:
    file = document()
    if file is None:
        return None
    resource = Resource(contents=json.loads(file.read_text()), specification=DRAFT202012)
    registry = Registry().with_resource(_URI, resource)
    return Draft202012Validator({"$ref": f"{_URI}#/components/schemas/{schema}"}, registry=registry)
