"""Files on their way in: announced to the API, then sent to an address of their own."""

import re
import secrets
from collections.abc import Mapping
from typing import Any

from kagglesdk.blobs.types.blob_api_service import ApiBlobType, ApiStartBlobUploadRequest
from kagglesdk.competitions.types.competition_api_service import ApiStartSubmissionUploadRequest

from tests.fakes.kaggle.store import ApiError, Blob, Store, User, bad_request
from tests.fakes.wire import Request, Response

PATH = re.compile(r"/upload/([0-9a-f]+)")


class Blobs:
    """Takes files.

    Args:
        store: where they go.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def start(self, user: User, request: ApiStartBlobUploadRequest) -> Mapping[str, Any]:
        if request.type is not ApiBlobType.DATASET:
            raise bad_request("The fake takes files of datasets only")
        return self._announce(request.name, request.content_length)

    def start_submission(
        self, user: User, request: ApiStartSubmissionUploadRequest
    ) -> Mapping[str, Any]:
        self._store.competition(request.competition_name)
        return self._announce(request.file_name, request.content_length)

    def _announce(self, name: str, size: int) -> Mapping[str, Any]:
        if not name or "/" in name:
            raise bad_request(f"Invalid file name: {name!r}")
        token = secrets.token_hex(8)
        self._store.blobs[token] = Blob(name, size)
        return {"token": token, "createUrl": f"{self._store.url}/upload/{token}"}

    def receive(self, request: Request) -> Response:
        """Take the file itself; whoever knows the address may send it."""
        match = PATH.fullmatch(request.path)
        blob = self._store.blobs.get(match[1] if match else "")
        if blob is None:
            raise ApiError(404, "No such upload")
        if request.headers.get("Content-Range", "").startswith("bytes */"):
            return Response(308 if blob.content is None else 200)
        if "Content-Range" in request.headers:
            raise bad_request("The fake keeps no halves of uploads")
        if len(request.body) != blob.size:
            raise bad_request(f"{len(request.body)} bytes came, and {blob.size} were announced")
        blob.content = request.body
        return Response(200)
