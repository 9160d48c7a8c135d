"""What Amazon's client reads for each session, a megabyte of JSON: here once for a process.

A test that asks an S3 makes a client, of which that is nine tenths of the processor time.
"""

from functools import cache

import botocore.loaders
import botocore.session


def read_once() -> None:
    """Let all sessions from now on share what they read: a release of botocore's own files."""
    if botocore.session.create_loader is botocore.loaders.create_loader:
        vars(botocore.session)["create_loader"] = cache(botocore.loaders.create_loader)
