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


class ApiError(Exception):
    """A refusal, as it goes over the wire."""

    def __init__(self, status: int, message: str, reason: str = "invalid") -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.reason = reason
        self.headers: list[tuple[str, str]] = []


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
    SOURCE_NAMES = tuple(f"ifSource{name[2:]}" for name in NAMES)

    @classmethod
    def of(cls, query: Mapping[str, Any], names: tuple[str, ...] = NAMES) -> "Conditions":
        return cls(*(whole_number(name, query.get(name)) for name in names))

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
    denied: dict[str, int] = field(default_factory=dict)
    """Status by "read" and "write"."""


class Store:
    """All buckets. Whoever reads and then writes holds `lock` meanwhile."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.buckets: dict[str, Bucket] = {}
        self.slow_rewrites = False
        # Of a real one's size, as those have tripped up clients that take them for floats.
        self._generation = 1_700_000_000_000_000

    def create_bucket(self, name: str, fields: dict[str, Any]) -> Bucket:
        with self.lock:
            if name in self.buckets:
                message = "Your previous request to create the named bucket succeeded."
                raise ApiError(409, message, "conflict")
            return self.buckets.setdefault(name, Bucket(name, {**fields, "timeCreated": now()}))

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
        """Return the object to read."""
        found = self.bucket(bucket, "read").objects.get(key)
        if found is None and conditions.generation is None:
            raise no_such_object(bucket, key)
        conditions.check(found, reading=True)
        if found is None or generation not in (None, found.generation):
            raise no_such_object(bucket, key)
        return found

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
            there = self.bucket(bucket, "write").objects
            conditions.check(there.get(key))
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
            self.bucket(bucket, "write")
            self._live(bucket, key, query)
            del self.buckets[bucket].objects[key]

    def _live(self, bucket: str, key: str, query: Mapping[str, Any]) -> FakeObject:
        found = self.buckets[bucket].objects.get(key)
        conditions = Conditions.of(query)
        if found or conditions.generation is not None:
            conditions.check(found)
        generation = whole_number("generation", query.get("generation"))
        if found is None or generation not in (None, found.generation):
            raise no_such_object(bucket, key)
        return found


def no_such_object(bucket: str, key: str) -> ApiError:
    return ApiError(404, f"No such object: {bucket}/{key}", "notFound")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
