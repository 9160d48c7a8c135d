"""The connections to Cloud Storage."""

import logging
import os
from typing import Any


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
    from requests.adapters import HTTPAdapter

    # Without a project, which only creating buckets needs: a Colab login has none, and the client
    # would refuse it.
    client = storage.Client(project=None)
    session = client._http
    # More connections than requests keeps by itself: a thread more would open and close its own.
    # (With client certificates, the session has an adapter of its own that must stay.)
    if not getattr(session, "is_mtls", False):
        session.mount("https://", HTTPAdapter(pool_maxsize=32))
        session.mount("http://", HTTPAdapter(pool_maxsize=32))
    return client


def settle_gcsfs() -> None:
    """Let gcsfs go the ordinary way, and say nothing; before it is first imported."""
    # Else it tries gRPC first, for a minute where that leads nowhere.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    # What it has to say it also raises; the rest would be stack traces for a mistyped address.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
