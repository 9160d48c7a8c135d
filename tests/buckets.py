"""On which kinds of bucket a test runs."""

import pytest

ON_GCS = pytest.mark.parametrize(
    "bucket", ["gcs", pytest.param("directory", marks=pytest.mark.slow)], indirect=True
)
"""For a test that starts processes, and takes seconds: a folder's turn is among the slow ones."""
