"""A bucket, an index of it, and what is in them at first."""

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kaggleops.bucket import ABSENT, Bucket, open_bucket
from kaggleops.index.refresh import Index, Refreshed
from kaggleops.mlruns import Entity, EntityId, EntityStore, Kind, experiment, run
from tests.fakes.object_server import ObjectServer
from tests.index.corpus import Row, tables
from tests.mlruns.entities import main_file

HOME = experiment("7")
RUN = run("7", "a" * 32)
OTHER = run("7", "b" * 32)
MODEL = EntityId(Kind.LOGGED_MODEL, "7", "m-" + "c" * 32)
POINTS = {"metrics/loss": b"1 0.5 0\n2 0.25 1\n", "params/lr": b"0.1", "tags/colour": b"red"}


class World:
    """A bucket, and an index of it."""

    def __init__(self, bucket: Bucket, folder: Path, empty: Path) -> None:
        bucket.prepare()
        self.bucket = bucket
        self.store = EntityStore(bucket)
        self.database = folder / "index.db"
        self.url = f"sqlite:///{self.database}"
        shutil.copyfile(empty, self.database)
        self.index = Index(self.url, self.store)

    def put(self, entity_id: EntityId, files: dict[str, bytes] | None = None, **meta: Any) -> None:
        """Write an entity into the bucket, whatever is there of it."""
        there = self.bucket.stat(entity_id.key)
        content = {**main_file(entity_id, **meta), **(files or {})}
        self.store.write(Entity(entity_id, content), expected=there.version if there else ABSENT)

    def refresh(self, **options: Any) -> Refreshed:
        """Bring the index up to date; what was written past the change log is found too."""
        return self.index.refresh(full=True, **options)

    def query(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the database."""
        connection = sqlite3.connect(self.database)
        rows = connection.execute(query).fetchall()
        connection.close()
        return rows

    def tables(self) -> dict[str, list[Row]]:
        """Return all of MLflow's tables."""
        return tables(self.url)


@pytest.fixture
def world(bucket: Bucket, tmp_path: Path, empty_index: Path) -> Iterator[World]:
    made = World(bucket, tmp_path, empty_index)
    yield made
    made.index.close()


@pytest.fixture
def cloud(service: ObjectServer, tmp_path: Path, empty_index: Path) -> Iterator[World]:
    """On a service: Cloud Storage's, unless the test says otherwise."""
    service.create_bucket("our-bucket")
    made = World(open_bucket(service.address("our-bucket"), patience=5), tmp_path, empty_index)
    yield made
    made.index.close()
