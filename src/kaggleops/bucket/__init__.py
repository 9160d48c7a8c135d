"""Objects with versions behind five verbs: read, write, stat, delete, list."""

from kaggleops.bucket.base import (
    ABSENT,
    AccessDeniedError,
    Bucket,
    BucketError,
    BucketNotFoundError,
    BucketUnavailableError,
    ConflictError,
    Entry,
    InvalidKeyError,
    ObjectNotFoundError,
    StoredObject,
    Version,
)
from kaggleops.bucket.location import open_bucket

__all__ = [
    "ABSENT",
    "AccessDeniedError",
    "Bucket",
    "BucketError",
    "BucketNotFoundError",
    "BucketUnavailableError",
    "ConflictError",
    "Entry",
    "InvalidKeyError",
    "ObjectNotFoundError",
    "StoredObject",
    "Version",
    "open_bucket",
]
