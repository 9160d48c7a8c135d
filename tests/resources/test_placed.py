"""The record of what was put on this disk: short to write, and of use to several processes."""

import json
from pathlib import Path

import pytest

from kaggleops.resources.files import Placed, checksum_of


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    made = [tmp_path / str(number) for number in range(3)]
    for file in made:
        file.write_text(file.name)
    return made


def the_record(state: Path) -> Path:
    (found,) = state.glob("resources/*.json")
    return found


def put(placed: Placed, *files: Path) -> None:
    for file in files:
        placed.right(file, checksum_of(file))
    placed.save()


def test_what_is_new_is_added(tmp_path: Path, files: list[Path], state_folder: Path) -> None:
    placed = Placed(tmp_path)
    put(placed, files[0])
    first = the_record(state_folder).read_text()
    put(placed, files[0], files[1])
    second = the_record(state_folder).read_text()
    assert second.startswith(first)
    assert list(json.loads(second.removeprefix(first))) == [str(files[1])]
    put(placed, files[1])
    assert the_record(state_folder).read_text() == second


def test_two_processes_undo_nothing_of_each_others(
    tmp_path: Path, files: list[Path], state_folder: Path
) -> None:
    one, other = Placed(tmp_path), Placed(tmp_path)
    put(one, files[0])
    put(other, files[1])
    put(one, files[2])
    assert all(Placed(tmp_path).is_ours(file) for file in files)
    assert not one.is_ours(files[1])
    with one.alone():  # as one of them would have had to wait for the other
        assert one.is_ours(files[1])


def test_half_a_line_spoils_no_other(tmp_path: Path, files: list[Path], state_folder: Path) -> None:
    put(Placed(tmp_path), files[0])
    with the_record(state_folder).open("a") as record:
        record.write('{"/half')  # its process was killed
    put(Placed(tmp_path), files[1])
    with the_record(state_folder).open("a") as record:
        record.write('[1]\nnonsense\n{"x": 3}\n')
    put(Placed(tmp_path), files[2])
    assert all(Placed(tmp_path).is_ours(file) for file in files)


def test_an_earlier_versions_record_counts(
    tmp_path: Path, files: list[Path], state_folder: Path
) -> None:
    put(Placed(tmp_path), *files[:2])
    record = the_record(state_folder)
    earlier = {}
    for line in record.read_text().splitlines():
        earlier |= json.loads(line or "{}")
    record.write_text(json.dumps(earlier))
    put(Placed(tmp_path), files[2])
    assert all(Placed(tmp_path).is_ours(file) for file in files)


def test_what_counts_no_more_is_left_out_in_time(
    tmp_path: Path, files: list[Path], state_folder: Path
) -> None:
    placed, other = Placed(tmp_path), Placed(tmp_path)
    put(placed, *files)
    for number in range(1100):
        placed.right(files[0], f"md5:{number}")
        placed.save()
    put(placed, files[0])
    size = the_record(state_folder).stat().st_size
    with placed.alone():
        assert the_record(state_folder).stat().st_size < size / 100
    put(placed, files[1])
    with other.alone():
        assert all(each.is_ours(file) for file in files for each in (placed, other))
