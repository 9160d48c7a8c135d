"""An entity as a folder, and what the notes learn by looking at it."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from kaggleops.layout import EntityId
from kaggleops.mlruns import BrokenEntityError, Entity, Kind, merge
from kaggleops.mlruns.entity import META, NOTES, dump_yaml
from kaggleops.mlruns.folder import Base, read_base, read_folder, write_folder

from .entities import RUN, run_meta, runs


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(runs())
def test_round_trip_with_notes(tmp_path: Path, entity: Entity) -> None:
    folder = tmp_path / "run"
    write_folder(entity, folder)
    base = read_base(folder)
    assert base == Base(entity.notes, entity.meta)
    read = read_folder(RUN, folder, base)
    assert (read.files, read.notes) == (entity.files, _normal(entity).notes)


def _normal(entity: Entity) -> Entity:
    # A deletion of a file that is there again says nothing.
    notes = entity.notes.copy()
    for path in entity.files:
        notes.deleted.pop(path, None)
    return Entity(entity.id, entity.files, entity.folders, notes)


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(runs(), runs())
def test_a_folder_takes_any_version_after_any_other(tmp_path: Path, a: Entity, b: Entity) -> None:
    folder = tmp_path / "run"
    write_folder(a, folder)
    write_folder(b, folder)
    assert read_folder(RUN, folder).files == b.files


def written(folder: Path) -> Base:
    """Write a first version and return what is known of it."""
    entity = Entity(RUN, {META: dump_yaml(run_meta()), "tags/a": b"1", "tags/b": b"2"})
    write_folder(entity, folder)
    seen = read_folder(RUN, folder, Base())
    write_folder(seen, folder)
    return read_base(folder)


def test_looking_twice_changes_nothing(tmp_path: Path) -> None:
    base = written(tmp_path)
    assert read_folder(RUN, tmp_path, base).notes == base.notes


def test_a_written_tag_is_newer_even_if_the_clock_went_back(tmp_path: Path) -> None:
    base = written(tmp_path)
    (tmp_path / "tags/a").write_text("changed")
    os.utime(tmp_path / "tags/a", (0, 0))
    changed = read_folder(RUN, tmp_path, base)
    assert changed.notes.written["tags/a"] > base.notes.written["tags/a"]
    assert changed.notes.written["tags/b"] == base.notes.written["tags/b"]
    # The disk keeps what was decided, so that looking again decides nothing anew.
    again = read_folder(RUN, tmp_path, Base(changed.notes, changed.meta))
    assert again.notes == changed.notes


def test_a_tag_that_is_gone_was_deleted(tmp_path: Path) -> None:
    base = written(tmp_path)
    before = read_folder(RUN, tmp_path, base)
    (tmp_path / "tags/a").unlink()
    after = read_folder(RUN, tmp_path, base)
    assert after.notes.deleted["tags/a"] > base.notes.written["tags/a"]
    assert "tags/a" not in merge(before, after).files


def set_meta(folder: Path, **changes: object) -> None:
    (folder / META).write_bytes(dump_yaml(run_meta(**changes)))


def test_a_register_that_changed_is_stamped_and_no_other(tmp_path: Path) -> None:
    base = written(tmp_path)
    set_meta(tmp_path, run_name="shy-owl")
    changed = read_folder(RUN, tmp_path, base).notes.registers
    assert changed["name"] > base.notes.registers["name"]
    assert changed["status"] == base.notes.registers["status"]


def test_a_finished_run_that_runs_again_begins_a_new_round(tmp_path: Path) -> None:
    base = written(tmp_path)
    set_meta(tmp_path, status=3, end_time=5)
    finished = read_folder(RUN, tmp_path, base)
    set_meta(tmp_path, status=1)
    resumed = read_folder(RUN, tmp_path, Base(finished.notes, finished.meta))
    assert resumed.notes.registers["status"].round == 1
    assert merge(finished, resumed).meta["status"] == 1


def test_artifacts_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    base = written(tmp_path)
    (tmp_path / "artifacts").mkdir(exist_ok=True)
    (tmp_path / "artifacts/model.bin").write_bytes(b"weights")
    entity = read_folder(RUN, tmp_path, base)
    assert not any(path.startswith("artifacts/") for path in entity.files)
    write_folder(entity, tmp_path)
    assert (tmp_path / "artifacts/model.bin").read_bytes() == b"weights"


def test_an_experiments_folder_does_not_hold_its_runs(tmp_path: Path) -> None:
    (tmp_path / "tags").mkdir()
    (tmp_path / META).write_text("name: x\n")
    (tmp_path / "tags/owner").write_text("ada")
    (tmp_path / RUN.name).mkdir()
    (tmp_path / RUN.name / META).write_text("status: 1\n")
    entity = read_folder(EntityId(Kind.EXPERIMENT, "1"), tmp_path)
    assert set(entity.files) == {META, "tags/owner"}


def test_leftovers_of_a_kill_and_links_are_no_part_of_it(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / f"{NOTES}abc123").write_text("half")
    (tmp_path / "tags/link").symlink_to("/etc/hostname")
    assert set(read_folder(RUN, tmp_path).files) == {META, "tags/a", "tags/b"}


def test_an_empty_folder_is_no_entity(tmp_path: Path) -> None:
    with pytest.raises(BrokenEntityError, match="nothing is there"):
        read_folder(RUN, tmp_path)
