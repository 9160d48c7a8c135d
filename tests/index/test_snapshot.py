"""An index that is filled from the bucket's snapshot is the one that is made of the bucket."""

import gzip
import io
import itertools
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from mlflow.store.tracking import file_store

from kaggleops.bucket import ABSENT, open_bucket
from kaggleops.index import sharing, snapshot
from kaggleops.index.database import ENTITIES, open_database, reading
from kaggleops.index.refresh import LISTING_EVERY, Index
from kaggleops.layout import INDEX_KEY, parse_key
from kaggleops.mlruns import (
    ChangeLog,
    Entity,
    EntityId,
    EntityStore,
    Kind,
    experiment,
    pack,
    run,
)
from kaggleops.mlruns.change_log import LOG_KEY
from kaggleops.mlruns.deletion import Belongings, forget
from kaggleops.mlruns.entity import dump_yaml
from tests.buckets import ON_EACH_SERVICE
from tests.fakes.object_server import ObjectServer
from tests.index.corpus import Row, fill, tables
from tests.index.worlds import HOME, MODEL, OTHER, RUN, World, cloud, world
from tests.mlruns.corpus import allowed
from tests.mlruns.entities import main_file

__all__ = ["allowed", "cloud", "world"]

NOW = 1_795_000_000.0
ENDED = {"status": 3, "end_time": 2}
TRACE = EntityId(Kind.TRACE, "7", "tr-" + "d" * 32)
REGISTERED = EntityId(Kind.REGISTERED_MODEL, "", "tweets / best".replace("/", "-"))
DATASET = EntityId(Kind.DATASET, "7", "e" * 32)
BROKEN = run("7", "f" * 32)


def everything(url: str) -> dict[str, list[Row]]:
    """Return all rows, and at which version each object is in the index."""
    engine = sa.create_engine(url)
    columns = (ENTITIES.c[name] for name in ("key", "version", "problem", "waits_for"))
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(sa.select(*columns))]
    engine.dispose()
    return {**tables(url), "entities": sorted(found)}


def packed(url: str, store: EntityStore) -> bytes:
    """Return a snapshot of an index."""
    into = io.BytesIO()
    engine = open_database(url, store.bucket.uri)
    with reading(engine) as connection:
        snapshot.save(connection, into, store.bucket.uri, store.artifact_root)
    engine.dispose()
    return into.getvalue()


def lines(content: bytes) -> list[Any]:
    return [json.loads(line) for line in gzip.decompress(content).splitlines()]


def gzipped(content: list[Any]) -> bytes:
    return gzip.compress("".join(json.dumps(line) + "\n" for line in content).encode())


def put(store: EntityStore, content: bytes) -> None:
    there = store.bucket.stat(INDEX_KEY)
    store.bucket.write(INDEX_KEY, content, expected=there.version if there else ABSENT)


def settle(world: World) -> None:
    """Put every kind of entity into a bucket, and some that are not settled."""
    world.store = EntityStore(world.bucket, ChangeLog(world.bucket))
    link = {"tags": {"mlflow.data.context": "train"}, "source_id": DATASET.name}
    dataset = {**link, "destination_id": "d", "destination_type": "RUN", "source_type": "DATASET"}
    model = {"tags": {}, "source_id": MODEL.name, "destination_id": MODEL.name, "step": 3}
    output = {**model, "source_type": "RUN_OUTPUT", "destination_type": "MODEL_OUTPUT"}
    world.put(HOME, {"tags/a": "ü\u2028\\ud800".encode()})
    world.put(
        RUN,
        {
            "metrics/loss": b"1 0.5 0\n2 nan 1\n",
            "metrics/f1": b"1 inf 0\n",
            "params/lr": b'0.1"\n',
            "tags/colour": b"",
            "inputs/i/meta.yaml": dump_yaml(dataset),
            f"outputs/{MODEL.name}/meta.yaml": dump_yaml(output),
        },
        **ENDED,
    )
    world.put(OTHER, {"tags/colour": b"red"})  # it runs
    world.put(DATASET)
    world.put(MODEL, {"metrics/f1": f"1 0.5 0 {RUN.name}\n".encode(), "params/a": b"b"})
    world.put(TRACE, {"tags/a": b"b", "request_metadata/c": b"d"})
    place = f"gs://b/artifacts/7/{RUN.name}/artifacts/model"
    version = {"name": REGISTERED.name, "version": 1, "creation_timestamp": 1, "source": place}
    world.put(
        REGISTERED,
        {
            "version-1/meta.yaml": dump_yaml(version),
            "version-1/tags/a": b"b",
            "aliases/best": b"1",
            "tags/x": b"y",
        },
    )
    world.put(run("0", "1" * 32), **ENDED)  # of the Default experiment, which has no object
    world.put(run("9", "2" * 32), **ENDED)  # its experiment is missing
    world.bucket.write(BROKEN.key, b"broken", expected=ABSENT)
    world.store.close()


@pytest.fixture
def anew(world: World, tmp_path: Path, empty_index: Path) -> Iterator[Callable[..., Index]]:
    """Makes empty indexes of the world's bucket, as a machine has them that has none yet."""
    made: list[Index] = []

    def make(now: float = NOW, few: int = 0) -> Index:
        database = tmp_path / f"new{len(made)}.db"
        shutil.copyfile(empty_index, database)
        made.append(Index(f"sqlite:///{database}", world.store, lambda: now, few=few))
        return made[-1]

    yield make
    for index in made:
        index.close()


def url_of(index: Index) -> str:
    return index._engine.url.render_as_string(hide_password=False)


def test_an_index_of_every_kind_of_entity(world: World, anew: Callable[..., Index]) -> None:
    settle(world)
    world.index.close()
    world.index = Index(world.url, world.store, lambda: NOW, few=0)
    made = world.index.refresh()
    content = packed(world.url, world.store)
    head, *blocks, end = lines(content)
    assert (head["entities"], end["entities"], head["default"]) == (10, 7, True)
    assert set(end["unsettled"]) == {OTHER.key, BROKEN.key, run("9", "2" * 32).key}
    assert {block[0] for block in blocks} == {*Kind}
    assert world.store.artifact_root not in gzip.decompress(content).decode()
    put(world.store, content)
    index = anew()
    filled = index.refresh()
    assert (filled.listed, filled.problems) == (False, made.problems)
    assert everything(url_of(index)) == everything(world.url)
    # And it goes on as any other.
    world.put(RUN, {"tags/colour": b"blue"}, **ENDED)
    world.put(OTHER, **ENDED)
    for each in (index, world.index):
        assert each.refresh().changed == 2
    assert everything(url_of(index)) == everything(world.url)


@pytest.mark.usefixtures("allowed")
def test_from_one_database_to_the_other(
    postgresql_index: str,
    tmp_path: Path,
    empty_index: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = itertools.count(1)  # for which PostgreSQL's column has room
    monkeypatch.setattr(file_store, "_generate_unique_integer_id", lambda: next(ids))
    (tmp_path / "bucket").mkdir()
    store = EntityStore(open_bucket(str(tmp_path / "bucket")))
    fill(store, tmp_path / "mlruns")
    server = sa.create_engine(postgresql_index, isolation_level="AUTOCOMMIT")
    others = [sa.make_url(postgresql_index).set(database=f"copy{each}") for each in range(2)]
    admin = sa.create_engine(server.url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        for other in others:
            template = server.url.database
            connection.exec_driver_sql(f'CREATE DATABASE "{other.database}" TEMPLATE "{template}"')
    admin.dispose()
    server.dispose()
    files = [f"sqlite:///{tmp_path}/{each}.db" for each in range(3)]
    for each in range(3):
        shutil.copyfile(empty_index, tmp_path / f"{each}.db")
    for url in (files[0], postgresql_index):
        index = Index(url, store)
        assert index.refresh().problems == {}
        index.close()
    expected = everything(files[0])
    to_each = [files[1:], [each.render_as_string(hide_password=False) for each in others]]
    pairs = zip(*to_each, strict=True)
    for source, targets in zip((files[0], postgresql_index), pairs, strict=True):
        content = packed(source, store)
        assert lines(content)[-1]["entities"] > 10
        put(store, content)
        for target in targets:
            index = Index(target, store)
            assert index.refresh().problems == {}
            index.close()
            found = everything(target)
            for name, rows in expected.items():
                assert found[name] == rows, (source, target, name)


# -- it is never believed over the objects -----------------------------------------------------


@pytest.fixture
def shared(world: World) -> World:
    """A bucket with a log, two runs that have ended, and a snapshot of its index."""
    world.store = EntityStore(world.bucket, ChangeLog(world.bucket))
    world.put(HOME)
    for each in (RUN, OTHER):
        world.put(each, {"tags/colour": b"red"}, **ENDED)
    world.store.close()
    share(world)
    return world


def share(world: World, now: float = NOW) -> bytes:
    index = Index(world.url, world.store, lambda: now, few=0)
    index.refresh(full=True)
    index.close()
    content = packed(world.url, world.store)
    put(world.store, content)
    return content


def colours(index: Index) -> list[str]:
    rows = everything(url_of(index))["tags"]
    return sorted(row["value"] for row in map(dict, rows) if row["key"] == "colour")


def unannounced(world: World, entity_id: EntityId, colour: bytes) -> None:
    there = world.bucket.stat(entity_id.key)
    entity = Entity(entity_id, {**main_file(entity_id, **ENDED), "tags/colour": colour})
    EntityStore(world.bucket).write(entity, expected=there.version if there else ABSENT)


def test_what_was_announced_since_is_read(shared: World, anew: Callable[..., Index]) -> None:
    shared.put(RUN, {"tags/colour": b"blue"}, **ENDED)
    shared.store.delete(OTHER)
    index = anew()
    assert not index.refresh().listed
    assert colours(index) == ["blue"]


@pytest.mark.parametrize(
    ("what", "now", "listed"),
    [
        ("nothing", NOW + 1, False),
        ("a day has gone by", NOW + LISTING_EVERY, True),
        ("the clock is wrong", NOW - 1, True),
        ("another log", NOW + 1, True),
        ("no log", NOW + 1, True),
        ("an older log", NOW + 1, True),
    ],
)
def test_what_was_not_announced_is_found_by_a_listing(
    shared: World, anew: Callable[..., Index], what: str, now: float, listed: bool
) -> None:
    log = json.loads(shared.bucket.read(LOG_KEY).data)  # type: ignore[union-attr]
    unannounced(shared, RUN, b"blue")
    shared.bucket.delete(OTHER.key)
    if what.endswith(" log"):
        shared.bucket.delete(LOG_KEY)
    if what == "another log":
        shared.put(run("7", "c" * 32), **ENDED)
    if what == "an older log":
        log = {**log, "sequence": log["sequence"] - 1, "entries": log["entries"][:-1]}
        shared.bucket.write(LOG_KEY, json.dumps(log).encode(), expected=ABSENT)
    index = anew(now)
    assert index.refresh().listed == listed
    assert colours(index) == (["blue"] if listed else ["red", "red"])
    if not listed:
        index.refresh(full=True)
        assert colours(index) == ["blue"]
    reference = anew()
    shared.bucket.delete(INDEX_KEY)
    reference.refresh()
    assert everything(url_of(index)) == everything(url_of(reference))


def test_a_small_bucket_is_listed_whatever_it_says(
    shared: World, anew: Callable[..., Index]
) -> None:
    unannounced(shared, RUN, b"blue")
    index = anew(few=sharing.FEW)
    assert index.refresh().listed
    assert colours(index) == ["blue", "red"]


def test_one_that_was_restored_from_a_backup(shared: World, anew: Callable[..., Index]) -> None:
    before = shared.bucket.read(INDEX_KEY)
    assert before is not None
    shared.put(RUN, {"tags/colour": b"blue"}, **ENDED)
    shared.store.delete(OTHER)
    share(shared)
    put(shared.store, before.data)
    index = anew()
    assert not index.refresh().listed
    assert colours(index) == ["blue"]


def test_in_a_copy_of_the_bucket_locations_lead_there(
    shared: World, tmp_path: Path, empty_index: Path
) -> None:
    home = tmp_path / "copy"
    bucket = open_bucket(str(home))
    for entry in shared.bucket.list():
        found = shared.bucket.read(entry.key)
        assert found is not None
        bucket.write(entry.key, found.data, expected=ABSENT)
    shutil.copyfile(empty_index, tmp_path / "copy.db")
    url = f"sqlite:///{tmp_path}/copy.db"
    index = Index(url, EntityStore(bucket), lambda: NOW, few=0)
    refreshed = index.refresh()
    index.close()
    assert refreshed.listed  # it has a history of its own, from here on
    places = [dict(row)["artifact_uri"] for row in tables(url)["runs"]]
    assert len(places) == 2
    assert all(place.startswith(f"{home.as_uri()}/artifacts/7/") for place in places)


def test_two_that_fill_one_index_at_once(shared: World, anew: Callable[..., Index]) -> None:
    first = anew()
    second = Index(url_of(first), shared.store, lambda: NOW, few=0)
    engine = second._engine
    assert sharing.Sharing(engine, shared.store).take(NOW, lambda *_: None) is not None
    assert sharing.Sharing(engine, shared.store).take(NOW, lambda *_: None) is None
    first.refresh()
    second.refresh()
    assert colours(first) == ["red", "red"]
    second.close()


# -- who writes it, and when -------------------------------------------------------------------


def numbered(*numbers: int) -> list[EntityId]:
    return [run("7", f"{number:032x}") for number in range(*numbers)]


MANY = numbered(1, 231)


def add(server: ObjectServer, world: World, runs: list[EntityId]) -> None:
    """Write many runs, announced as they are everywhere, past the requests that takes."""
    world.store.announce(runs)
    for each in runs:
        files = {**main_file(each, **ENDED), "tags/n": each.name.encode()}
        server.put("our-bucket", each.key, pack(Entity(each, files)))
    world.store.close()


@pytest.fixture
def large(cloud: World, service: ObjectServer) -> World:
    """A bucket on Cloud Storage that is worth a snapshot."""
    cloud.store = EntityStore(cloud.bucket, ChangeLog(cloud.bucket))
    cloud.put(HOME)
    add(service, cloud, MANY)
    return cloud


@pytest.fixture
def clock() -> list[float]:
    return [NOW]


@pytest.fixture
def machine(
    large: World, clock: list[float], tmp_path: Path, empty_index: Path
) -> Iterator[Callable[[], Index]]:
    """Makes indexes of the bucket: each another machine's, or another process's of the first."""
    made: list[Index] = []

    def make(url: str = "") -> Index:
        database = tmp_path / f"machine{len(made)}.db"
        shutil.copyfile(empty_index, database)
        made.append(Index(url or f"sqlite:///{database}", large.store, lambda: clock[0], few=0))
        return made[-1]

    yield make
    for index in made:
        index.close()


def requests(server: ObjectServer) -> list[tuple[str, str]]:
    found = [(each.op, each.key or "") for each in server.requests]
    server.reset_counts()
    return found


def written(large: World) -> str | None:
    there = large.bucket.stat(INDEX_KEY)
    return there.version if there else None


@ON_EACH_SERVICE
def test_a_new_machine_asks_a_few_times(
    large: World, machine: Callable[..., Index], service: ObjectServer
) -> None:
    add(service, large, numbered(231, 631))  # more than the change log has room for
    first = machine()
    assert first.refresh().listed
    assert written(large)
    large.put(OTHER, **ENDED)
    service.reset_counts()
    second = machine()
    refreshed = second.refresh()
    found = requests(service)
    assert (refreshed.listed, refreshed.changed) == (False, 632)
    assert {key.rpartition("/")[2] for _, key in found} > {"index.jsonl.gz", "changes.json"}
    assert len(found) == 3, found  # and the run that may still be written
    first.refresh()
    assert everything(url_of(first)) == everything(url_of(second))


def test_who_has_one_that_differs_enough_writes_it(
    large: World, machine: Callable[..., Index], clock: list[float], service: ObjectServer
) -> None:
    server, laptop = machine(), machine()
    server.refresh()
    first = written(large)
    assert first
    laptop.refresh()
    server.refresh()
    assert written(large) == first
    # Neither a few new runs nor an hour are worth it; a day is to a process that goes on.
    large.put(OTHER, **ENDED)
    clock[0] += 3700
    server.refresh()
    machine(url_of(laptop)).refresh()
    assert written(large) == first
    clock[0] += 24 * 3600
    process = machine(url_of(laptop))
    process.refresh()
    assert written(large) == first
    server.refresh(full=True)  # as a server does once a day
    second = written(large)
    assert second != first
    # What another machine has written is looked at, and is as good as one's own.
    add(service, large, numbered(1000, 1210))
    server.refresh()
    assert written(large) == second  # within the hour
    clock[0] += 3700
    server.refresh()
    third = written(large)
    assert third != second
    requests(service)
    machine(url_of(laptop)).refresh()
    looked = [op for op, key in requests(service) if key.endswith(INDEX_KEY)]
    assert written(large) == third
    assert len(looked) == 2
    # A machine that is new after all that has everything.
    new = machine()
    assert not new.refresh().listed
    assert everything(url_of(new)) == everything(url_of(server))


def test_a_small_bucket_has_none(world: World) -> None:
    settle(world)
    world.refresh()
    world.refresh()
    assert world.bucket.stat(INDEX_KEY) is None


@pytest.mark.parametrize("fault", [403, 503])
@ON_EACH_SERVICE
def test_who_may_not_write_it_goes_on(
    large: World, machine: Callable[..., Index], service: ObjectServer, fault: int
) -> None:
    large.store = EntityStore(open_bucket(service.address("our-bucket"), patience=1))
    service.fail(fault, times=None, op="write")
    index = machine()
    assert index.refresh().changed == len(MANY) + 1
    service.heal()
    service.reset_counts()
    index.refresh()
    assert not [key for _, key in requests(service) if key.endswith(INDEX_KEY)]
    assert written(large) is None


def test_of_two_that_write_at_once_one_has_done_so(
    large: World, machine: Callable[..., Index]
) -> None:
    first, second = machine(), machine()
    first.refresh()
    large.bucket.delete(INDEX_KEY)
    engine = second._engine

    def meanwhile() -> None:
        second._refresh()
        put(large.store, b"another's")

    second._refresh()
    assert not sharing.Sharing(engine, large.store).give(meanwhile, NOW, lasting=False)
    found = large.bucket.read(INDEX_KEY)
    assert found is not None
    assert found.data == b"another's"


def test_one_of_another_release(large: World, machine: Callable[..., Index]) -> None:
    machine().refresh()
    found = large.bucket.read(INDEX_KEY)
    assert found is not None
    first, *rest = lines(found.data)
    for head, message, replaced in (
        ({"format": 99}, "a newer release", False),
        ({"format": 0}, "an older release", True),
        ({"columns": {}}, "another release", True),
        ({"log": {"id": "x"}}, "it is damaged", True),
    ):
        put(large.store, gzipped([{**first, **head}, *rest]))
        version = written(large)
        index = machine()
        assert index.refresh().listed
        assert (written(large) != version) == replaced, message
        with index._engine.connect() as connection:
            query = sa.select(ENTITIES.c.problem).where(ENTITIES.c.key == INDEX_KEY)
            problem = connection.scalar(query)
        assert (problem is None) == replaced
        assert replaced or message in problem


# -- what is forgotten -------------------------------------------------------------------------


def test_what_is_forgotten_is_not_in_it(
    large: World, machine: Callable[..., Index], clock: list[float]
) -> None:
    server = machine()
    server.refresh()
    gone = MANY[0]

    def holds() -> bool:
        found = large.bucket.read(INDEX_KEY, unless=ABSENT)
        return bool(found and found.data) and gone.name in gzip.decompress(found.data).decode()  # type: ignore[union-attr]

    assert holds()
    forget(large.store, Belongings((gone,)))
    assert not holds()
    # A new machine reads the runs, and writes it again without that one.
    new = machine()
    assert new.refresh().listed
    found = large.bucket.read(INDEX_KEY)
    assert found is not None
    assert lines(found.data)[-1]["entities"] == len(MANY)
    assert not holds()
    # Whoever was about to write what it had read before has seen another version of it, or none.
    large.bucket.delete(INDEX_KEY)
    late = machine()
    late._refresh()
    gone = MANY[1]
    sharer = sharing.Sharing(late._engine, large.store)
    assert not sharer.give(lambda: forget(large.store, Belongings((gone,))), NOW, lasting=True)
    assert not holds()
    # And whoever begins after that has polled after it was deleted.
    clock[0] += 7200
    late.refresh()
    found = large.bucket.read(INDEX_KEY)
    assert found is not None
    assert lines(found.data)[-1]["entities"] == len(MANY) - 1
    assert not holds()


# -- whatever stands in it ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample(
    tmp_path_factory: pytest.TempPathFactory, empty_index: Path
) -> tuple[World, list[Any], dict[str, list[Row]]]:
    """A bucket, a snapshot of its index, and what the index holds."""
    folder = tmp_path_factory.mktemp("sample")
    made = World(open_bucket(str(folder / "bucket")), folder, empty_index)
    settle(made)
    made.refresh()
    made.index.close()
    return made, lines(packed(made.url, made.store)), everything(made.url)


def check(sample: tuple[World, Any, dict[str, list[Row]]], content: bytes, empty: Path) -> bool:
    """Fill an index from a snapshot, list the bucket, compare; tell whether it was taken."""
    made, _, expected = sample
    put(made.store, content)
    database = made.database.with_name("checked.db")
    for each in database.parent.glob("checked.db*"):
        each.unlink()
    shutil.copyfile(empty, database)
    index = Index(f"sqlite:///{database}", made.store, lambda: NOW, few=0)
    index.refresh()
    index.refresh(full=True)
    index.close()
    found = everything(f"sqlite:///{database}")
    passed_over = [row for row in found["entities"] if row[0] == INDEX_KEY]
    found["entities"] = [row for row in found["entities"] if row[0] != INDEX_KEY]
    for name, rows in expected.items():
        assert found[name] == rows, name
    return not passed_over


def leaves(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(content, list | dict):
        for key in content if isinstance(content, dict) else range(len(content)):
            yield from leaves(content[key], (*path, key))


def mutated(content: list[Any], dice: random.Random) -> list[Any]:
    """Return the lines of a snapshot with something changed; of those objects, versions too."""
    content = json.loads(json.dumps(content))
    for block in content[1:-1]:
        block[2] = ["elsewhere"] * len(block[2])
    for _ in range(dice.choice([1, 1, 1, 2, 3])):
        paths = [each for each in leaves(content) if each]
        in_tables = [each for each in paths if each[1:2] == (3,)]
        *above, last = dice.choice(dice.choice([paths, in_tables, in_tables]))
        holder = content
        try:
            for key in above:
                holder = holder[key]
            match dice.randrange(5):
                case 0:
                    del holder[last]
                case 1 if isinstance(holder, list):
                    holder.insert(last, holder[last])
                case 2:
                    values = [None, True, -1, 2**70, 1.5, "", "x" * 300, "\ud800", [], {}, "a\0b"]
                    holder[last] = dice.choice([*values, RUN.key, RUN.name, "7", 7, "../../x"])
                case 3 if isinstance(holder, list):
                    other = dice.randrange(len(holder))
                    holder[last], holder[other] = holder[other], holder[last]
                case _:
                    *elsewhere, each = dice.choice([path for path in leaves(content) if path])
                    other = content
                    for key in elsewhere:
                        other = other[key]
                    holder[last] = json.loads(json.dumps(other[each]))
        except (LookupError, TypeError):
            continue
    return content


SEED = 20261129


@pytest.mark.parametrize("part", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3))])
def test_fields_that_were_changed(sample: Any, part: int, empty_index: Path) -> None:
    taken = 0
    for number in range(part, 160, 4):
        content = mutated(sample[1], random.Random(SEED + number))
        taken += check(sample, gzipped(content), empty_index)
    assert taken  # some of it does no harm


def test_bytes_that_were_changed(sample: Any, empty_index: Path) -> None:
    whole = gzipped(sample[1])
    assert check(sample, whole, empty_index)
    dice = random.Random(SEED)
    for _ in range(15):
        content = bytearray(whole)
        for _ in range(dice.randint(1, 3)):
            content[dice.randrange(len(content))] = dice.randrange(256)
        check(
            sample,
            bytes(content[: dice.choice([len(content), dice.randrange(len(content))])]),
            empty_index,
        )


def changed(sample: list[Any], table: str, column: str, value: Any) -> bytes:
    """Return a snapshot in which a column says something else, at the bucket's versions."""
    content = json.loads(json.dumps(sample))
    for kind, tables_of in content[0]["columns"].items():
        if table in tables_of:
            block = next(each for each in content[1:-1] if each[0] == kind)
            cells = block[3][[*tables_of].index(table)][1 + tables_of[table].index(column)]
            assert cells
            cells[-1] = value
    return gzipped(content)


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("runs", "artifact_uri", "file:///etc"),
        ("runs", "artifact_uri", "artifacts/../../etc"),
        ("runs", "artifact_uri", None),
        ("runs", "status", "RUNNING"),
        ("runs", "status", "BUSY"),
        ("runs", "start_time", 2**62),
        ("runs", "lifecycle_stage", "gone"),
        ("tags", "value", None),
        ("tags", "key", "a//b"),
        ("tags", "value", "\ud800"),
        ("latest_metrics", "value", 1),
        ("latest_metrics", "value", "0.5"),
        ("latest_metrics", "step", 2**63),
        ("latest_metrics", "is_nan", True),
        ("inputs", "source_id", OTHER.name),
        ("inputs", "source_type", "RUN"),
        ("input_tags", "input_uuid", "0" * 36),
        ("input_tags", "input_uuid", "00000000-0000-0000-0000-000000000000"),
        ("logged_models", "artifact_location", "gs://theirs/artifacts/7/models/m/artifacts"),
        ("logged_models", "status", 9),
        ("logged_model_metrics", "run_id", "0" * 32),
        ("model_versions", "source", "file:///etc"),
        ("model_versions", "version", 0),
        ("trace_tags", "key", "mlflow.trace.spansLocation"),
        ("trace_info", "status", "FINE"),
        ("experiments", "artifact_location", "gs://theirs/x"),
    ],
)
def test_a_value_that_no_object_could_bring(
    sample: Any, table: str, column: str, value: Any, tmp_path: Path, empty_index: Path
) -> None:
    made, whole, _ = sample
    engine = sa.create_engine(f"sqlite:///{shutil.copyfile(empty_index, tmp_path / 'new.db')}")
    content = io.BytesIO(changed(whole, table, column, value))
    with engine.connect() as connection, pytest.raises(snapshot.SnapshotError):
        snapshot.load(connection, content, made.bucket.uri, made.store.artifact_root, 0)
    engine.dispose()


def bomb(line: bytes) -> bytes:
    return gzip.compress(line + b" " * (8 << 20) + b"\n")


@pytest.mark.parametrize(
    "content",
    [
        b"\n",
        b"no gzip",
        b"twenty bytes, no gzip"[:20],
        gzip.compress(b"[" * 100_000 + b"\n"),
        gzip.compress(b"{}\n"),
        gzip.compress(b'{"format":1}\n'),
        gzip.compress(b"9" * 5000 + b"\n"),
        bomb(b"{}"),
    ],
    ids=range(8),
)
def test_what_is_no_snapshot(sample: Any, content: bytes, empty_index: Path) -> None:
    assert not check(sample, content, empty_index)


def test_one_that_grows_too_much_or_has_another_end(sample: Any, empty_index: Path) -> None:
    first, *blocks, end = lines(gzipped(sample[1]))
    at = next(place for place, block in enumerate(blocks) if block[0] == "run")
    tags = [*first["columns"]["run"]].index("tags")
    more = json.loads(json.dumps(blocks))
    for number in range(12):
        block = json.loads(json.dumps(blocks[at]))
        counts = [[0] * len(table[0]) for table in block[3][1:]]
        block[3][1:] = [
            [of, *([] for _ in table[1:])] for of, table in zip(counts, block[3][1:], strict=True)
        ]
        block[1] = [f"mlruns/7/{number:030x}{each:02}.tar.gz" for each in range(len(block[1]))]
        block[3][tags] = [[1] + [0] * (len(block[1]) - 1), ["a"], ["x" * (1 << 20)]]
        more.insert(at, block)
    whole = {**end, "entities": sum(len(block[1]) for block in more)}
    for content in ([first, *more, whole], [first, *blocks, end, end], [first, *blocks]):
        assert not check(sample, gzipped(content), empty_index)
    # It is the growth: with as many, and less in them, it would be taken.
    for block in more[at : at + 12]:
        block[3][tags][2] = ["x"]
    assert check(sample, gzipped([first, *more, whole]), empty_index)


def test_what_others_need_is_there_and_theirs_alone(sample: Any, empty_index: Path) -> None:
    first, *blocks, end = lines(gzipped(sample[1]))
    without = [block for block in blocks if block[0] != "experiment"]
    fewer = {**end, "entities": end["entities"] - 1}
    assert not check(sample, gzipped([first, *without, fewer]), empty_index)
    # Another run whose inputs have the ids of the first one's.
    at = next(place for place, block in enumerate(blocks) if block[0] == "run")
    text = json.dumps(blocks[at]).replace(RUN.name, OTHER.name).replace("1" * 32, "3" * 32)
    copy = json.loads(text)
    copy[3][-1] = [[0] * len(copy[1]), [], [], []]  # without tags, which would be there twice
    text = json.dumps(copy)
    blocks.insert(at, copy)
    more = {**end, "entities": end["entities"] + len(blocks[at][1])}
    assert not check(sample, gzipped([first, *blocks, more]), empty_index)
    for number, link in enumerate(blocks[at][3][[*first["columns"]["run"]].index("inputs")][1]):
        text = text.replace(link, f"{number:08}-0000-0000-0000-000000000000")
    blocks[at] = json.loads(text)
    assert check(sample, gzipped([first, *blocks, more]), empty_index)


def test_a_run_that_one_machine_shows_as_lost(world: World, anew: Callable[..., Index]) -> None:
    world.put(HOME)
    world.put(RUN)
    for now in (NOW, NOW + 2 * 24 * 3600):
        index = Index(world.url, world.store, lambda: now, few=0)  # noqa: B023
        index.refresh(full=True)
        index.close()
    assert world.query("SELECT status FROM runs") == [("FAILED",)]
    content = packed(world.url, world.store)
    assert lines(content)[-1]["unsettled"] == [RUN.key]
    put(world.store, content)
    index = anew()
    index.refresh()
    assert [dict(row)["status"] for row in everything(url_of(index))["runs"]] == ["RUNNING"]


def test_its_key_names_no_entity() -> None:
    assert parse_key(INDEX_KEY) is None
    assert experiment("index").key != INDEX_KEY
