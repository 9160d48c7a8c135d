"""On which kinds of bucket a test runs."""

import os

import pytest

from kaggleops.bucket import Bucket
from tests.fakes.object_server import ObjectServer

NAMED = os.environ.get("KAGGLEOPS_TEST_BUCKET", "")
"""A bucket on a service that somebody has started, or pays for: a second opinion on ours."""

FOLDER_SELDOM = pytest.param("directory", marks=pytest.mark.slow)
S3_SELDOM = pytest.param("s3", marks=pytest.mark.slow)
"""The turn of two kinds at what is written over `Bucket`, and cannot tell one from the other:
seldom. In the default suite it has Cloud Storage's; all of tests/bucket is for each kind, and what
asks for one, for `EVERY_KIND`, or has a kind in its name."""

ON_SERVICES = pytest.mark.parametrize(
    "bucket", ["gcs", S3_SELDOM, pytest.param("directory", marks=pytest.mark.slow)], indirect=True
)
"""For a test that starts processes, and takes seconds: a folder's turn is among the slow ones."""

ON_BOTH_SERVICES = pytest.mark.parametrize("bucket", ["gcs", "s3"], indirect=True)

EVERY_DIALECT = pytest.mark.parametrize(
    "bucket",
    ["directory", "gcs", "testbench", "s3", "s3-versioned", *(["named"] if NAMED else [])],
    indirect=True,
)

EVERY_KIND = pytest.mark.parametrize("bucket", ["directory", "gcs", "s3"], indirect=True)

EACH_KIND = pytest.mark.parametrize("bucket", ["directory", "gcs", S3_SELDOM], indirect=True)

BOTH_DIALECTS = pytest.mark.parametrize("gcs_server", ["service", "testbench"], indirect=True)
"""For a flow from end to end: once more where refusals are worded and timed as Google's own
storage-testbench does it, in buckets that keep old generations."""

ON_EACH_SERVICE = pytest.mark.parametrize("service", ["gcs", S3_SELDOM], indirect=True)
"""For what a folder cannot do: fail, refuse, count, answer late."""

ON_EVERY_SERVICE = pytest.mark.parametrize("service", ["gcs", "s3"], indirect=True)

ON_EACH_SERVICE_AND_DIALECT = pytest.mark.parametrize(
    "service", ["gcs", pytest.param("testbench", marks=pytest.mark.slow), S3_SELDOM], indirect=True
)


def server_of(bucket: Bucket, request: pytest.FixtureRequest) -> ObjectServer | None:
    """Return the service that a test's bucket lies on; none for a folder."""
    if bucket.uri.startswith("bucket+file:"):
        return None
    kind = "gcs" if bucket.uri.startswith("gs:") else "s3"
    server: ObjectServer = request.getfixturevalue(f"{kind}_server")
    return server
