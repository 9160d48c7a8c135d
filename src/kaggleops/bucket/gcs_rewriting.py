"""Copying from one bucket on Cloud Storage to another without a byte coming here."""

from google.api_core import exceptions as answers

from kaggleops.bucket.base import ConflictError, Entry, ObjectNotFoundError, Version
from kaggleops.bucket.gcs import GcsBucket, content_type, generation_of

_TIMEOUT = (10.0, 120.0)
"""Seconds to connect and to wait: Cloud Storage copies for up to 30 s before it answers."""


def rewrite(entry: Entry, source: GcsBucket, target: GcsBucket, *, expected: Version) -> Version:
    """Copy an object, its key the same, and return the copy's version.

    Args:
        entry: the object, at the version that is to be copied, listed with its checksum.
        source: the bucket it lies in.
        target: the bucket it goes to, of whichever project and region.
        expected: the version that the copy replaces; `ABSENT` to create.

    Raises:
        ConflictError: one of the two is at another version.
        ObjectNotFoundError: the object is gone, or one of the buckets is.
    """
    doing = f"copying {source.object_uri(entry.key)} to {target.object_uri(entry.key)}"

    def attempt() -> Version:
        blob = target._blob(entry.key)
        blob.content_type = content_type(entry.key)
        token = None
        while True:  # a large one between two regions takes several requests
            token, _, _ = blob.rewrite(
                source._blob(entry.key),
                token=token,
                if_generation_match=generation_of(expected),
                if_source_generation_match=generation_of(entry.version),
                timeout=_TIMEOUT,
                retry=None,
            )
            if token is None:
                return str(blob.generation)

    try:
        return target._do(target._patience(attempt), doing)
    except answers.NotFound as error:
        raise ObjectNotFoundError(doing, "it is gone, or one of the buckets is") from error
    except answers.PreconditionFailed as error:
        there = next(target.list(entry.key, checksums=True), None)
        # The first answer may have been lost.
        if there and (there.key, there.crc32c) == (entry.key, entry.crc32c):
            return there.version
        raise ConflictError(doing, "somebody else has written one of the two") from error
