"""A process goes on where an earlier one had come to in the change log, and misses nothing."""

from collections.abc import Callable

import pytest

from kaggleops.bucket import BucketError, open_bucket
from kaggleops.index.refresh import LISTING_EVERY, ONE_LISTING, Index
from kaggleops.mlruns import ChangeLog, Entity, EntityId, EntityStore
from kaggleops.mlruns.change_log import LOG_KEY
from tests.buckets import ON_EACH_SERVICE
from tests.fakes.object_server import ObjectServer
from tests.index.worlds import HOME, OTHER, RUN, World, cloud, world
from tests.mlruns.entities import main_file

__all__ = ["cloud", "world"]

Process = Callable[..., Index]


@pytest.fixture
def process(world: World, request: pytest.FixtureRequest) -> Process:
    """Makes the index of a new process, one that takes no bucket for small."""

    def begin(now: float = 1e9, few: int = 0) -> Index:
        made = Index(world.url, world.store, lambda: now, few=few)
        request.addfinalizer(made.close)
        return made

    return begin


@pytest.fixture
def writer(world: World) -> EntityStore:
    """Announces what it writes."""
    return EntityStore(world.bucket, ChangeLog(world.bucket))


def write(writer: EntityStore, entity_id: EntityId, colour: str) -> None:
    there = writer.bucket.stat(entity_id.key)
    files = {**main_file(entity_id), "tags/colour": colour.encode()}
    writer.write(Entity(entity_id, files), expected=there.version if there else "0")


def colours(world: World) -> list[str]:
    return [row[0] for row in world.query("SELECT value FROM tags WHERE key = 'colour'")]


def test_the_next_process_reads_what_was_announced_since(
    world: World, writer: EntityStore, process: Process
) -> None:
    writer.write(Entity(HOME, main_file(HOME)), expected="0")
    write(writer, RUN, "red")
    assert process().refresh().listed
    assert not process().refresh().listed
    write(writer, RUN, "green")
    write(writer, OTHER, "blue")
    refreshed = process().refresh()
    assert (refreshed.listed, refreshed.changed) == (False, 2)
    assert sorted(colours(world)) == ["blue", "green"]
    writer.delete(OTHER)
    assert process().refresh().removed == 1


def test_what_was_open_is_looked_at_by_the_next_one(
    world: World, writer: EntityStore, process: Process
) -> None:
    writer.write(Entity(HOME, main_file(HOME)), expected="0")
    write(writer, RUN, "red")
    process().refresh()
    world.put(RUN, {"tags/colour": b"green"})  # announced for hours: not once more
    assert process().refresh().changed == 1
    assert colours(world) == ["green"]
    writer.close()
    process().refresh()
    world.put(RUN, {"tags/colour": b"white"})  # by nobody who announces
    assert process().refresh().changed == 0


@pytest.mark.parametrize(
    ("now", "few"), [(1e9 + LISTING_EVERY, 0), (1e9 - 1, 0), (1e9, ONE_LISTING)]
)
def test_once_a_day_and_where_it_is_one_request_it_lists(
    world: World, writer: EntityStore, process: Process, now: float, few: int
) -> None:
    writer.write(Entity(HOME, main_file(HOME)), expected="0")
    process().refresh()
    world.put(RUN, {"tags/colour": b"white"})  # by nobody who announces
    assert not process().refresh().listed
    assert process(now, few).refresh().listed
    assert colours(world) == ["white"]
    assert not process(now).refresh().listed


def test_a_log_that_was_lost_means_a_listing(
    world: World, writer: EntityStore, process: Process
) -> None:
    writer.write(Entity(HOME, main_file(HOME)), expected="0")
    process().refresh()
    world.bucket.delete(LOG_KEY)
    world.put(RUN, {"tags/colour": b"white"})
    assert process().refresh().changed == 1


@ON_EACH_SERVICE
def test_a_refresh_that_dies_half_way_does_not_move_it(cloud: World, service: ObjectServer) -> None:
    store = EntityStore(cloud.bucket, ChangeLog(cloud.bucket))
    store.write(Entity(HOME, main_file(HOME)), expected="0")
    impatient = EntityStore(open_bucket(cloud.bucket.uri, patience=1))
    first = Index(cloud.url, impatient, few=0)
    first.refresh()
    for entity_id in (RUN, OTHER):
        write(store, entity_id, "red")
    store.close()  # from now on only the log tells of them, and it is read once
    service.fail(503, key=OTHER.key, times=None)
    for index in (first, Index(cloud.url, impatient, few=0)):
        with pytest.raises(BucketError):
            index.refresh()
        index.close()
    service.heal()
    last = Index(cloud.url, cloud.store, few=0)
    assert not last.refresh().listed
    assert colours(cloud) == ["red", "red"]
    last.close()
