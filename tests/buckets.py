"""On which kinds of bucket a test runs."""

import pytest

ON_GCS = pytest.mark.parametrize(
    "bucket", ["gcs", pytest.param("directory", marks=pytest.mark.slow)], indirect=True
)
"""For a test that starts processes, and takes seconds: a folder's turn is among the slow ones."""

EVERY_DIALECT = pytest.mark.parametrize("bucket", ["directory", "gcs", "testbench"], indirect=True)

BOTH_DIALECTS = pytest.mark.parametrize("gcs_server", ["service", "testbench"], indirect=True)
"""For a flow from end to end: once more where refusals are worded and timed as Google's own
storage-testbench does it, in buckets that keep old generations."""
