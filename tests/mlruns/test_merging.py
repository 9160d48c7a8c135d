"""Two versions of one entity become one."""

from dataclasses import replace

import pytest
from hypothesis import given

from kaggleops.layout import EntityId
from kaggleops.mlruns import BrokenEntityError, Entity, Kind, Notes, merge, pack, unpack
from kaggleops.mlruns.entity import META, Stamp, dump_yaml
from kaggleops.mlruns.merge_rules import merge_onto, same_value

from .entities import RUN, run_meta, runs


@given(runs(), runs())
def test_commutative(a: Entity, b: Entity) -> None:
    assert merge(a, b) == merge(b, a)


@given(runs(), runs(), runs())
def test_associative(a: Entity, b: Entity, c: Entity) -> None:
    assert merge(merge(a, b), c) == merge(a, merge(b, c))


@given(runs(), runs())
def test_idempotent(a: Entity, b: Entity) -> None:
    merged = merge(a, b)
    assert merge(merged, a) == merged
    assert merge(merged, merged) == merged


@given(runs(), runs())
def test_no_metric_point_and_no_name_is_lost(a: Entity, b: Entity) -> None:
    merged = merge(a, b)
    for source in (a, b):
        for path, data in source.files.items():
            while path in merged.folders:
                path += ".self"
            if path.startswith("metrics/"):
                assert set(data.splitlines()) <= set(merged.files[path].splitlines())
            if path.startswith("params/"):
                assert same_value(data, merged.files[path])


@given(runs(), runs())
def test_every_machine_can_read_it(a: Entity, b: Entity) -> None:
    merged = merge(a, b)
    assert unpack(pack(merged), merged.id, "x") == merged


def version(notes: Notes | None = None, **changes: object) -> Entity:
    """Return a run whose meta.yaml has these fields."""
    return Entity(RUN, {META: dump_yaml(run_meta(**changes))}, notes=notes or Notes())


def with_file(path: str, data: bytes | None, at: int) -> Entity:
    """Return a run with a file written at a time, or deleted then (None)."""
    base = version()
    if data is None:
        return replace(base, notes=Notes(deleted={path: at}))
    return Entity(RUN, {**base.files, path: data}, notes=Notes(written={path: at}))


def test_points_of_two_writers_come_in_order_of_time() -> None:
    a = Entity(RUN, {**version().files, "metrics/loss": b"10 0.9 0\n30 0.7 2\n"})
    b = Entity(RUN, {**version().files, "metrics/loss": b"20 0.8 1\n"})
    assert merge(a, b).files["metrics/loss"] == b"10 0.9 0\n20 0.8 1\n30 0.7 2\n"


def test_an_equal_point_is_one_point() -> None:
    a = Entity(RUN, {**version().files, "metrics/loss": b"10 0.9 0\n10 0.9 0\n"})
    b = Entity(RUN, {**version().files, "metrics/loss": b"10 0.9 0\n"})
    assert merge(a, b).files["metrics/loss"] == b"10 0.9 0\n"


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((b"old", 1), (b"new", 2), b"new"),
        ((b"kept", 1), (None, 2), None),
        ((b"again", 3), (None, 2), b"again"),
        ((b"a", 2), (b"b", 2), b"b"),  # by content, so that every machine decides alike
    ],
)
def test_the_newest_tag_wins(
    a: tuple[bytes | None, int], b: tuple[bytes | None, int], expected: bytes | None
) -> None:
    merged = merge(with_file("tags/note", *a), with_file("tags/note", *b))
    assert merged.files.get("tags/note") == expected


def test_a_deleted_tag_stays_deleted() -> None:
    deleted, old = with_file("tags/note", None, 5), with_file("tags/note", b"old", 1)
    once = merge(deleted, old)
    assert "tags/note" not in merge(once, old).files


def test_another_value_of_a_param_is_kept_beside_the_first() -> None:
    a = Entity(RUN, {**version().files, "params/lr": b"0.1"})
    b = Entity(RUN, {**version().files, "params/lr": b"0.2"})
    with pytest.raises(BrokenEntityError, match=r"'lr'.*'0\.1' and '0\.2'"):
        merge(a, b)
    merged, (said,) = merge_onto(a, b)
    assert (merged.files["params/lr"], merged.files["params/lr.2"]) == (b"0.1", b"0.2")
    assert (
        said == f"The param 'lr' of {RUN} is '0.1' already; '0.2', logged later, is kept as 'lr.2'."
    )
    assert merge_onto(merged, b)[0] == merged  # the same message once more
    third = Entity(RUN, {**version().files, "params/lr": b"0.3"})
    assert merge_onto(merged, third)[0].files["params/lr.3"] == b"0.3"


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        ("1e-4", "0.0001", True),
        ("16", "16.0", True),
        ("true", "True", True),
        ("null", "None", True),
        ("NaN", "nan", True),
        ("9007199254740993", "9007199254740992.0", False),
        ("0", "False", False),
        ("1", "one", False),
        ("", "0", False),
    ],
)
def test_one_value_in_two_notations(a: str, b: str, equal: bool) -> None:
    assert same_value(a.encode(), b.encode()) is equal
    if equal:
        first = Entity(RUN, {**version().files, "params/lr": a.encode()})
        second = Entity(RUN, {**version().files, "params/lr": b.encode()})
        assert merge(first, second) == merge(second, first)
        merged, said = merge_onto(first, second)
        assert (merged.files, said) == (first.files, [])


def status(status: int, *, round_: int = 0, at: int = 0, end_time: int | None = None) -> Entity:
    rank = {1: 1, 2: 0}.get(status, 2)
    notes = Notes(registers={"status": Stamp(round_, rank, at)})
    return version(notes, status=status, end_time=end_time)


RUNNING, SCHEDULED, FINISHED, FAILED, KILLED = 1, 2, 3, 4, 5


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (status(SCHEDULED, at=9), status(RUNNING, at=1), RUNNING),
        (status(FINISHED, at=1), status(RUNNING, at=9), FINISHED),
        (status(FINISHED, at=1), status(KILLED, at=2), KILLED),
        (status(FAILED, at=3), status(KILLED, at=2), FAILED),
        (status(FINISHED, at=9), status(RUNNING, round_=1, at=10), RUNNING),
        (status(FAILED, round_=1, at=1), status(FINISHED, at=9), FAILED),
    ],
)
def test_status(a: Entity, b: Entity, expected: int) -> None:
    assert merge(a, b).meta["status"] == expected


def test_the_end_time_comes_with_the_status() -> None:
    merged = merge(status(FINISHED, at=1, end_time=111), status(KILLED, at=2, end_time=222))
    assert (merged.meta["status"], merged.meta["end_time"]) == (KILLED, 222)


def test_a_name_that_is_a_file_here_and_a_folder_there_is_renamed() -> None:
    a = Entity(RUN, {**version().files, "metrics/loss": b"1 1 1\n"})
    b = Entity(RUN, {**version().files, "metrics/loss/train": b"1 1 1\n"})
    for first, second in [(a, b), (b, a)]:
        merged, (said,) = merge_onto(first, second)
        assert merged.files.keys() - a.files.keys() == {"metrics/loss.self", "metrics/loss/train"}
        assert "The metric 'loss'" in said
        assert "'loss.self'" in said
        more = Entity(RUN, {**version().files, "metrics/loss": b"2 1 2\n"})
        assert merge(merged, more).files["metrics/loss.self"] == b"1 1 1\n2 1 2\n"


def test_a_path_that_nobody_chose_is_a_file_or_a_folder() -> None:
    a = Entity(RUN, {**version().files, "inputs/x": b""})
    b = Entity(RUN, {**version().files, "inputs/x/meta.yaml": b"a: 1\n"})
    with pytest.raises(BrokenEntityError, match="both a file and a folder"):
        merge(a, b)


def test_an_experiment_keeps_its_first_creation_and_its_last_change() -> None:
    home = EntityId(Kind.EXPERIMENT, "7")

    def experiment(name: str, created: int, at: int) -> Entity:
        meta = {
            "name": name,
            "artifact_location": "gs://b/artifacts/7",
            "creation_time": created,
            "experiment_id": "7",
            "last_update_time": created,
            "lifecycle_stage": "active",
        }
        notes = Notes(registers={"name": Stamp(at=at)})
        return Entity(home, {META: dump_yaml(meta)}, notes=notes)

    merged = merge(experiment("new name", 20, at=5), experiment("old name", 10, at=1)).meta
    assert merged["name"] == "new name"
    assert (merged["creation_time"], merged["last_update_time"]) == (10, 20)
