"""What the fake Cloud Storage holds: buckets of objects with generations, and preconditions."""

import base64
import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import google_crc32c

from tests.fakes.object_server import RefusedError


class ApiError(RefusedError):
    """A refusal, as it goes over the wire."""

    def __init__(self, status: int, message: str, reason: str = "invalid") -> None:
        super().__init__(status, message)
        self.reason = reason


def bad_request(message: str) -> ApiError:
    return ApiError(400, message)


@dataclass(frozen=True)
class FakeObject:
    """One version of an object. `fields` are what its owner may set (contentType, metadata, …)."""

    bucket: str
    key: str
    data: bytes
    generation: int
    metageneration: int = 1
    fields: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""
    updated: str = ""
    components: int | None = None
    deleted: str | None = None
    """When it became an old generation."""

    @property
    def version(self) -> str:
        """What this project calls its version."""
        return str(self.generation)

    # Once for each object: a large one is read in many ranges, and each answer names both.
    @cached_property
    def md5(self) -> str | None:
        """The MD5 in base64; composed objects have none."""
        return None if self.components else md5_of(self.data)

    @cached_property
    def crc32c(self) -> str:
        """The CRC-32C in base64, big-endian."""
        return crc32c_of(self.data)

    @property
    def etag(self) -> str:
        return base64.b64encode(f"{self.generation}/{self.metageneration}".encode()).decode()


def md5_of(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data).digest()).decode()


def crc32c_of(data: bytes) -> str:
    return base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()


@dataclass(frozen=True)
class Conditions:
    """The preconditions of one request; None where it does not name one."""

    generation: int | None = None
    not_generation: int | None = None
    metageneration: int | None = None
    not_metageneration: int | None = None

    NAMES = (
        "ifGenerationMatch",
        "ifGenerationNotMatch",
        "ifMetagenerationMatch",
        "ifMetagenerationNotMatch",
    )

    @classmethod
    def of(cls, query: Mapping[str, Any]) -> "Conditions":
        return cls(*(whole_number(name, query.get(name)) for name in cls.NAMES))

    def check(self, found: FakeObject | None, *, reading: bool = False) -> None:
        """Raise the 412 or, for a read that would bring nothing new, the 304."""
        generation = found.generation if found else 0
        metageneration = found.metageneration if found else 0
        if self.generation not in (None, generation):
            raise _failed("conditionNotMet")
        if self.metageneration not in (None, metageneration):
            raise _failed("conditionNotMet")
        if generation == self.not_generation or metageneration == self.not_metageneration:
            raise ApiError(304, "Not Modified", "notModified") if reading else _failed("notMet")


def _failed(reason: str) -> ApiError:
    message = "At least one of the pre-conditions you specified did not hold."
    return ApiError(412, message, reason)


def whole_number(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if not str(value).isdecimal():
        raise bad_request(f"Invalid value for {name}: {value!r}")
    return int(value)


@dataclass
class Bucket:
    name: str
    fields: dict[str, Any]
    objects: dict[str, FakeObject] = field(default_factory=dict)
    versioned: bool = False
    """Whether what is replaced or deleted stays as an old generation."""
    old: dict[tuple[str, int], FakeObject] = field(default_factory=dict)
    soft_deleted: dict[tuple[str, int], FakeObject] = field(default_factory=dict)
    """What was deleted for good, of a bucket that has a policy for it (`softDeletePolicy`)."""
    denied: dict[str, int] = field(default_factory=dict)
    """Status by "read" and "write"."""


class Store:
    """All buckets. Whoever reads and then writes holds `lock` meanwhile."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.buckets: dict[str, Bucket] = {}
        self.testbench = False
        """Whether to answer as Google's storage-testbench does where that differs."""
        # Of a real one's size, as those have tripped up clients that take them for floats.
        self._generation = 1_700_000_000_000_000

    def create_bucket(self, name: str, fields: dict[str, Any]) -> Bucket:
        with self.lock:
            if name in self.buckets:
                message = "Your previous request to create the named bucket succeeded."
                raise ApiError(409, message, "conflict")
            made = Bucket(name, {**fields, "timeCreated": now()}, versioned=self.testbench)
            return self.buckets.setdefault(name, made)

    def bucket(self, name: str, access: str) -> Bucket:
        """Return the bucket, if it exists and may be accessed to "read" or "write"."""
        with self.lock:
            if name not in self.buckets:
                raise ApiError(404, "The specified bucket does not exist.", "notFound")
            status = self.buckets[name].denied.get(access)
        if status == 401:
            refused = ApiError(401, "Invalid Credentials", "authError")
            refused.headers = [("WWW-Authenticate", 'Bearer realm="https://accounts.google.com/"')]
            raise refused
        if status:
            verb = "get" if access == "read" else "create"
            message = (
                f"caller does not have storage.objects.{verb} access to the Google Cloud Storage "
                f"object. Permission 'storage.objects.{verb}' denied on resource "
                "(or it may not exist)."
            )
            raise ApiError(status, message, "forbidden")
        return self.buckets[name]

    def find(
        self, bucket: str, key: str, conditions: Conditions, generation: int | None = None
    ) -> FakeObject:
        """Return the object to read, also an old generation of it."""
        place = self.bucket(bucket, "read")
        found = place.objects.get(key)
        if generation is not None and (found is None or found.generation != generation):
            found = place.old.get((key, generation))
        return self._checked(bucket, key, found, conditions, generation, reading=True)

    def put(
        self,
        bucket: str,
        key: str,
        data: bytes,
        fields: Mapping[str, Any],
        conditions: Conditions,
        components: int | None = None,
    ) -> FakeObject:
        with self.lock:
            place = self.bucket(bucket, "write")
            there = place.objects
            if self.testbench and key not in there and conditions.generation:
                raise self.no_such_object(bucket, key)
            conditions.check(there.get(key))
            self._retire(place, there.get(key))
            self._generation += 1
            moment = now()
            made = FakeObject(
                bucket, key, data, self._generation, 1, dict(fields), moment, moment, components
            )
            there[key] = made
            return made

    def amend(
        self, bucket: str, key: str, fields: Mapping[str, Any], query: Mapping[str, Any]
    ) -> FakeObject:
        with self.lock:
            self.bucket(bucket, "write")
            found = self._live(bucket, key, query)
            made = replace(
                found, metageneration=found.metageneration + 1, fields=dict(fields), updated=now()
            )
            self.buckets[bucket].objects[key] = made
            return made

    def delete(self, bucket: str, key: str, query: Mapping[str, Any]) -> None:
        with self.lock:
            place = self.bucket(bucket, "write")
            generation = whole_number("generation", query.get("generation"))
            if gone := place.old.pop((key, generation or 0), None):
                self._delete_softly(place, gone)
                return
            found = self._live(bucket, key, query)
            if generation is None:
                self._retire(place, found)
            else:  # a generation that is named is deleted for good
                self._delete_softly(place, found)
            del place.objects[key]

    def restore(self, bucket: str, key: str, generation: int) -> FakeObject:
        """Make a softly deleted object live again, as a new generation."""
        with self.lock:
            found = self.bucket(bucket, "write").soft_deleted.get((key, generation))
            if found is None:
                raise self.no_such_object(bucket, key)
            return self.put(bucket, key, found.data, found.fields, Conditions())

    @staticmethod
    def _delete_softly(place: Bucket, gone: FakeObject) -> None:
        if place.fields.get("softDeletePolicy"):
            place.soft_deleted[gone.key, gone.generation] = gone

    def _retire(self, place: Bucket, replaced: FakeObject | None) -> None:
        if replaced and place.versioned:
            place.old[replaced.key, replaced.generation] = replace(replaced, deleted=now())
        elif replaced:
            self._delete_softly(place, replaced)

    def _live(self, bucket: str, key: str, query: Mapping[str, Any]) -> FakeObject:
        found = self.buckets[bucket].objects.get(key)
        generation = whole_number("generation", query.get("generation"))
        return self._checked(bucket, key, found, Conditions.of(query), generation)

    def _checked(
        self,
        bucket: str,
        key: str,
        found: FakeObject | None,
        conditions: Conditions,
        generation: int | None,
        *,
        reading: bool = False,
    ) -> FakeObject:
        """Return what was found, if it is that generation and the conditions hold."""
        if found or (conditions.generation is not None and not self.testbench):
            conditions.check(found, reading=reading)
        if found is None or generation not in (None, found.generation):
            raise self.no_such_object(bucket, key)
        return found

    def no_such_object(self, bucket: str, key: str) -> ApiError:
        if self.testbench:
            return ApiError(404, f"Live version of object {bucket}/{key} does not exist.")
        return ApiError(404, f"No such object: {bucket}/{key}", "notFound")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
