"""Objects with versions behind five verbs: read, write, stat, delete, list."""

from kaggleops.bucket.base import (
    ABSENT,
    AT_MOST,
    AccessDeniedError,
    Bucket,
    BucketError,
    BucketNotFoundError,
    BucketUnavailableError,
    ConflictError,
    Entry,
    InvalidKeyError,
    ObjectNotFoundError,
    ObjectTooLargeError,
    StoredObject,
    Version,
)
from kaggleops.bucket.location import open_bucket

__all__ = [
    "ABSENT",
    "AT_MOST",
    "AccessDeniedError",
    "Bucket",
    "BucketError",
    "BucketNotFoundError",
    "BucketUnavailableError",
    "ConflictError",
    "Entry",
    "InvalidKeyError",
    "ObjectNotFoundError",
    "ObjectTooLargeError",
    "StoredObject",
    "Version",
    "open_bucket",
]
