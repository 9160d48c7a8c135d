"""How a service can differ from what is assumed of it: one way for each assumption, by its name.

Each is a change of what the fake answers, on its way to the client (`HttpServer.change`).
"""

import json
import re
from collections.abc import Callable
from typing import Any

from tests.fakes.wire import Request, Response

Change = Callable[[Any, Response], Response]


def answered(was: int, status: int, body: bytes = b"", *headers: tuple[str, str]) -> Change:
    """Let another answer come in place of those with a status."""

    def change(request: Request, response: Response) -> Response:
        return Response(status, list(headers), body) if response.status == was else response

    return change


def _no_refusals(body: bytes) -> Change:
    """Let what is refused be done."""

    def change(request: Request, response: Response) -> Response:
        return Response(200, [], body) if response.status >= 400 else response

    return change


def reworded(old: str, new: str, status: int = 0) -> Change:
    """Let a pattern in the text of answers (of a status) be something else."""

    def change(request: Request, response: Response) -> Response:
        if status in (0, response.status):
            response.body = re.sub(old.encode(), new.encode(), response.body, flags=re.DOTALL)
        return response

    return change


def headed(name: str, value: str | None, status: int = 0) -> Change:
    """Let a header have another value, or none."""

    def change(request: Request, response: Response) -> Response:
        if status in (0, response.status):
            kept = [each for each in response.headers if each[0].lower() != name.lower()]
            response.headers = kept + ([] if value is None else [(name, value)])
        return response

    return change


def told(edit: Callable[[dict[str, Any]], object], op: str = "", status: int = 200) -> Change:
    """Let the JSON of answers (to an operation) be edited."""

    def change(request: Request, response: Response) -> Response:
        if response.status == status and op in ("", request.op) and response.body[:1] == b"{":
            content = json.loads(response.body)
            edit(content)
            response.body = json.dumps(content).encode()
        return response

    return change


_OBJECT = b'{"kind": "storage#object", "generation": "1", "size": "3"}'
_DONE = answered(412, 200, _OBJECT)
_CONTENT = ("X-Goog-Generation", "1")


def _in_lists(edit: Callable[[dict[str, Any]], object]) -> Change:
    return told(edit, "objects.list")


GCS: dict[str, Change] = {
    "create-refused": _DONE,
    "replace-at-version": told(lambda it: it.update(generation="1")),
    "replace-refused": _DONE,
    "replace-of-absent-refused": _DONE,
    "one-of-many-wins": _DONE,
    "unchanged-not-sent": answered(304, 200, b"one", _CONTENT),
    "absent-object": reworded("No such object", "Nothing here", 404),
    "absent-bucket": reworded("bucket does not exist", "name is unknown", 404),
    "content-headers": headed("X-Goog-Hash", None),
    "part-of-content": answered(206, 200, b"0123456789", _CONTENT),
    "part-beyond-end": answered(416, 200, b"0123456789", _CONTENT),
    "damaged-upload-refused": reworded("match calculated", "fit", 400),
    "upload-told": told(lambda it: it.pop("md5Hash", None)),
    "empty-object": answered(200, 404),
    "large-upload": headed("Range", None, 308),
    "large-upload-refused": _DONE,
    "listing-order": _in_lists(lambda it: it["items"].reverse()),
    "listing-pages": _in_lists(lambda it: it.pop("nextPageToken", None)),
    "listing-folders": _in_lists(lambda it: it.pop("prefixes", None)),
    "listing-glob": _in_lists(lambda it: it.pop("items", None)),
    "listing-fields": _in_lists(lambda it: it["items"][0].update(etag="x")),
    "seen-at-once": _in_lists(lambda it: it.pop("items", None)),
    "delete-refused": answered(412, 204),
    "delete-told": answered(404, 204),
    "rate-of-one-object": answered(200, 403, b'{"error": {"message": "Too often."}}'),
    "time-told": told(lambda it: it.update(updated=it.get("updated", "").rstrip("Z"))),
}

_JOINED = b"<CompleteMultipartUploadResult><ETag>1</ETag></CompleteMultipartUploadResult>"
_WRITTEN = answered(412, 200, b"", ("ETag", '"1"'))

S3: dict[str, Change] = {
    "create-refused": _WRITTEN,
    "replace-at-version": headed("ETag", '"1"'),
    "replace-refused": _WRITTEN,
    "replace-of-absent-refused": answered(404, 200, b"", ("ETag", '"1"')),
    "one-of-many-wins": _WRITTEN,
    "unchanged-not-sent": answered(304, 200, b"one", ("ETag", '"1"')),
    "absent-object": reworded("NoSuchKey", "NotFound", 404),
    "part-of-content": answered(206, 200, b"0123456789", ("ETag", '"1"')),
    "part-beyond-end": answered(416, 200, b"", ("ETag", '"1"')),
    "damaged-upload-refused": reworded("BadDigest", "InvalidDigest", 400),
    "empty-object": answered(200, 404),
    "upload-in-parts": answered(412, 200, _JOINED),
    "listing-order": reworded("/a0</Key>", "/zz</Key>"),
    "listing-pages": reworded("<NextContinuationToken>.*</NextContinuationToken>", ""),
    "listing-folders": reworded("<CommonPrefixes>.*</CommonPrefixes>", ""),
    "seen-at-once": reworded("<ETag>.*?</ETag>", "<ETag>1</ETag>"),
    "delete-told": answered(204, 404),
    "delete-refused": answered(412, 204),
}


def _notebook(**fields: Any) -> Change:
    return told(lambda it: it.get("metadata", {}).update(fields), "GetKernel")


KAGGLE: dict[str, Change] = {
    "version-told": _notebook(currentVersionNumber=7),
    "notebook-private": _notebook(isPrivate=False),
    "internet-on": _notebook(enableInternet=False),
    "shape-given": _notebook(machineShape="NvidiaTeslaP100"),
    "absent-notebook": _no_refusals(b'{"metadata": {"currentVersionNumber": 1}}'),
    "kept-log-is-json": told(lambda it: it.update(log="a line"), "ListKernelSessionOutput"),
    "output-sizes": told(lambda it: it["files"][0].update(size=1), "ListKernelFiles"),
    "quota-told": told(lambda it: it.pop("tpuQuota"), "GetAcceleratorQuotaStatistics"),
    "dataset-found": told(lambda it: it.pop("datasets", None), "ListDatasets"),
    "job-deleted": _no_refusals(b"{}"),
}

RUNPOD: dict[str, Change] = {
    "pod-gone": _no_refusals(b'{"id": "x", "status": "EXITED"}'),
    "absent-pod": _no_refusals(b'{"id": "x", "status": "EXITED"}'),
    "unknown-field-refused": answered(422, 201, b'{"id": "x"}'),
    "catalogue-told": reworded('"(HIGH|MEDIUM|LOW)"', '"PLENTY"'),
    "volumes-listed": reworded("networkVolumes", "volumes"),
    "wrong-key-refused": answered(401, 403, b"{}"),
}

_MADE = b'{"Id": "x", "Warnings": []}'

DOCKER: dict[str, Change] = {
    "exit-code-told": told(lambda it: it.get("State", {}).pop("ExitCode", None)),
    "engine-told": told(lambda it: it.pop("MemTotal", None)),
    "absent-refused": answered(404, 400, b'{"message": "no"}'),
    "name-is-unique": answered(409, 201, _MADE),
    "missing-mount-refused": answered(400, 201, _MADE),
    "job-deleted": _no_refusals(b'{"Id": "x"}'),
}
