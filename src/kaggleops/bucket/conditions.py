"""Whether a service honours conditional writes: proven by writes that must be refused.

Several services call themselves compatible with S3, take `If-Match` and `If-None-Match`, and write
all the same. There two writers would overwrite each other's runs without a word. So the first
writer of a bucket tries it, and leaves the answer in `.kaggleops/conditions.json` beside `mlruns`.
"""

import json
import os
import secrets
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from typing import Any

from kaggleops.bucket.base import (
    ABSENT,
    HIDDEN_FOLDER,
    AccessDeniedError,
    BucketError,
    BucketUnavailableError,
    ConflictError,
    ObjectTooLargeError,
    Version,
)

OWN_KEYS = f"{HIDDEN_FOLDER}/conditions"
"""What the keys start with that are written here, where no listing shows them."""

_ANSWER = f"{OWN_KEYS}.json"
_LONGEST = 1 << 16
_AT_ONCE = 8
_STALE = "0123456789abcdef" * 2

_known: dict[str, "Conditions"] = {}
_one_at_a_time = threading.Lock()


def _unlocked_after_fork() -> None:
    global _one_at_a_time
    _one_at_a_time = threading.Lock()


os.register_at_fork(after_in_child=_unlocked_after_fork)


class UnsafeServiceError(BucketError):
    """The service writes under a condition that does not hold: nothing may be kept there."""


@dataclass(frozen=True)
class Conditions:
    """Which conditions a service keeps, beside those of plain writes, without which nothing goes.

    `quotes` tells whether an ETag is known in its quotes, as HTTP has it. Ceph's gateway, and with
    it several services, know it only without.
    """

    endpoint: str  # the service's host
    bucket: str  # the bucket's name
    proven: str = ""  # when, as ISO 8601 in UTC
    multipart: bool = False  # whether those of a write in parts hold
    delete: bool = False  # whether those of a delete hold
    quotes: bool = True


Unproven = Any
"""An `S3Bucket`, whose service may ignore conditions."""


def conditions_of(bucket: Unproven) -> Conditions:
    """Return what was proven of a bucket's service, by anybody; else `prove` it."""
    with _one_at_a_time:
        if bucket.uri not in _known:
            _known[bucket.uri] = _kept(bucket) or prove(bucket)
        return _known[bucket.uri]


def _kept(bucket: Unproven) -> Conditions | None:
    try:
        stored = bucket.read(_ANSWER, unless=ABSENT, at_most=_LONGEST)
        told: Mapping[str, Any] = json.loads(stored.data) if stored else {}
        # What a later release says beside that is its own affair.
        names = [each.name for each in fields(Conditions) if each.name in told]
        kept = Conditions(**{name: told[name] for name in names})
    except (ObjectTooLargeError, ValueError, TypeError, RecursionError):
        return None
    # A bucket that was moved brings the answer of the service that it was moved from.
    return kept if (kept.endpoint, kept.bucket) == (bucket.service, bucket.name) else None


def prove(bucket: Unproven) -> Conditions:
    """Make writes that must be refused, and keep in the bucket what came of it.

    Of a service that fails nothing is kept, not even what it had proven before.

    It takes some 35 writes, and a second or two. What a service does with a version of an object
    that was deleted meanwhile is not asked: whoever still has that entity writes it anew anyway.

    Raises UnsafeServiceError if one of them wins, BucketError if the bucket cannot be written to.
    """
    doing = f"trying whether {bucket.service} honours conditional writes"
    key = f"{OWN_KEYS}/{secrets.token_hex(8)}"

    def write(content: bytes, expected: Version) -> Version | None:
        try:
            return bucket.write_unproven(key, content, expected=expected)
        except ConflictError:
            return None

    def at_once(expected: Version) -> Version:
        contents = [f"{expected}, then {number}".encode() for number in range(_AT_ONCE)]
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            tried = threads.map(lambda content: write(content, expected), contents)
            won = [version for version in tried if version is not None]
        if len(won) != 1:
            what = f"of {_AT_ONCE} writes at once on one version, {len(won)} were done"
            raise _unsafe(bucket, doing, what)
        return won[0]

    try:
        first = at_once(ABSENT)
        second = write(b"two", first)
        if second is None:
            bucket.quotes = False
            second = write(b"two", first)
        if second is None:
            raise BucketError(doing, "a write at the version that is there was refused")
        for content, expected, what in (
            (b"three", ABSENT, "creating an object that is there"),
            (b"four", first, "replacing a version that is not there any more"),
        ):
            if write(content, expected) is not None:
                raise _unsafe(bucket, doing, f"{what} was not refused")
        last = at_once(second)
        found = Conditions(
            bucket.service,
            bucket.name,
            time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            multipart=_keeps_multipart(bucket, key, last),
            delete=_keeps_delete(bucket, key),
            quotes=bucket.quotes,
        )
    except BaseException as error:
        lost = isinstance(error, UnsafeServiceError) and _known.pop(bucket.uri, True)
        for each in (key, _ANSWER) if lost else (key,):
            with suppress(BucketError):  # what is wrong is said already
                bucket.delete_unproven(each)
        raise
    bucket.delete_unproven(key)
    _keep(bucket, found)
    _known[bucket.uri] = found
    return found


def _keeps_multipart(bucket: Unproven, key: str, version: Version) -> bool:
    """Tell whether a write in parts is refused where it must be, and done where it must."""

    def is_done(expected: Version) -> bool:
        try:
            bucket.write_unproven(key, b"in parts", expected=expected, in_parts=True)
        except ConflictError:
            return False
        return True

    try:
        return [is_done(each) for each in (ABSENT, _STALE, version)] == [False, False, True]
    except (AccessDeniedError, BucketUnavailableError):  # which says nothing of the service
        raise
    except BucketError:  # it knows no such condition
        return False


def _keeps_delete(bucket: Unproven, key: str) -> bool:
    try:
        bucket.delete_unproven(key, expected=_STALE)
        return False
    except ConflictError:
        if there := bucket.stat(key):
            bucket.delete_unproven(key, expected=there.version)
        return there is not None and bucket.stat(key) is None
    except (AccessDeniedError, BucketUnavailableError):
        raise
    except BucketError:  # it knows no such condition
        return False


def _keep(bucket: Unproven, found: Conditions) -> None:
    content = (json.dumps(asdict(found), indent=2) + "\n").encode()
    there = bucket.stat(_ANSWER)
    with suppress(ConflictError):  # somebody else has proven it meanwhile
        bucket.write_unproven(_ANSWER, content, expected=there.version if there else ABSENT)


def _unsafe(bucket: Unproven, doing: str, what: str) -> UnsafeServiceError:
    problem = f"it does not: {what}, so that runs would overwrite each other"
    hint = f"Use a service that does (docs/buckets.md has a list); {bucket.service} is not safe."
    return UnsafeServiceError(doing, problem, hint)
