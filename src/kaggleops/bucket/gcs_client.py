"""The connections to Cloud Storage."""

import logging
import os
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, BinaryIO
from urllib.parse import quote

_PIECE = 1 << 20


def connect() -> Any:
    """Return a `google.cloud.storage.Client` with the machine's own credentials.

    With `STORAGE_EMULATOR_HOST` set, the client goes there, without any.

    Raises:
        google.auth.exceptions.DefaultCredentialsError: there are none.
    """
    # Else the client asks for the bucket's own metadata in a thread behind our backs, for traces
    # that nobody collects: one request more, and a 403 for whoever may only use the objects.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    # Half a second, which whoever only opens a bucket need not wait for.
    from google.cloud import storage

    from kaggleops.bucket.gcs_answers import CloudStorageAdapter, GoogleAdapter

    # Without a project, which only creating buckets needs: a Colab login has none, and the client
    # would refuse it.
    client = storage.Client(project=None)
    session = client._http
    # More connections than requests keeps by itself: a thread more would open and close its own.
    # (With client certificates, the session has an adapter of its own that must stay.)
    if not getattr(session, "is_mtls", False):
        session.mount("https://", CloudStorageAdapter(pool_maxsize=32))
        session.mount("http://", CloudStorageAdapter(pool_maxsize=32))
        tokens = session._auth_request.session
        tokens.mount("https://", GoogleAdapter(max_retries=3))
        tokens.mount("http://", GoogleAdapter(max_retries=3))
    return client


def download(
    client: Any,
    bucket: str,
    name: str,
    into: BinaryIO,
    *,
    timeout: tuple[float, float],
    generation: int | None = None,
    unless: int | None = None,
    span: tuple[int, int | None] | None = None,
    begun: Callable[[Mapping[str, str]], object] = lambda headers: None,
) -> None:
    """Write an object's content, as it is stored, to where a stream stands.

    Args:
        client: as `connect` returns it.
        bucket: the bucket's name.
        name: the object's.
        into: where to; what came before an error stays in it.
        timeout: seconds to connect, and between two bytes.
        generation: which; None for the live one.
        unless: the generation that is not to be sent.
        span: the first byte and the last, None for all that follow.
        begun: called with the answer's headers before anything is written.

    Raises:
        google.api_core.exceptions.GoogleAPICallError: Cloud Storage refuses, or (NotModified) has
            nothing else than that generation.
    """
    from google.api_core.exceptions import from_http_response

    from kaggleops.bucket.gcs_answers import ForeignAnswerError

    headers = {"Accept-Encoding": "gzip"}  # else what is stored so would come otherwise
    if span is not None:
        headers["Range"] = f"bytes={span[0]}-{'' if span[1] is None else span[1]}"
    params = {"alt": "media", "generation": generation, "ifGenerationNotMatch": unless}
    # Not by `download_to_file`: it reads pieces of 8 kB, and takes three times as long.
    with client._http.get(
        f"{client.api_endpoint}/download/storage/v1/b/{bucket}/o/{quote(name, safe='')}",
        params={key: value for key, value in params.items() if value is not None},
        headers=headers,
        stream=True,
        timeout=timeout,
    ) as answer:
        if not answer.ok or answer.status_code == HTTPStatus.NOT_MODIFIED:
            raise from_http_response(answer)
        if span is not None and answer.status_code != 206:
            raise ForeignAnswerError("a whole for a part", response=answer)
        begun(answer.headers)
        for piece in answer.raw.stream(_PIECE, decode_content=False):
            into.write(piece)


def settle_gcsfs() -> None:
    """Let gcsfs go the ordinary way, and say nothing; before it is first imported."""
    # Else it tries gRPC first, for a minute where that leads nowhere.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    # What it has to say it also raises; the rest would be stack traces for a mistyped address.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
