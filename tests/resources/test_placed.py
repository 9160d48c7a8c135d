"""The record of what was put on this disk: short to write, and of use to several processes."""

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
    (found,) = state.glob("resources/*.db")
    return found


def put(placed: Placed, *files: Path) -> None:
    for file in files:
        placed.right(file, checksum_of(file))
    placed.save()


def test_what_is_new_is_added(tmp_path: Path, files: list[Path], state_folder: Path) -> None:
    placed = Placed(tmp_path)
    put(placed, *files[:2])
    content = the_record(state_folder).read_bytes()
    put(placed, files[1])
    assert the_record(state_folder).read_bytes() == content
    assert the_record(state_folder).stat().st_mode & 0o777 == 0o600


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


@pytest.mark.parametrize("content", [b"", b"nonsense", b"SQLite format 3\0" + bytes(500)])
def test_what_is_no_record_is_replaced(
    content: bytes, tmp_path: Path, files: list[Path], state_folder: Path
) -> None:
    put(Placed(tmp_path), files[0])
    the_record(state_folder).write_bytes(content)
    put(Placed(tmp_path), *files[1:])
    assert [Placed(tmp_path).is_ours(file) for file in files] == [False, True, True]


def test_a_file_that_was_put_again_is_known_by_the_last_time(
    tmp_path: Path, files: list[Path]
) -> None:
    placed, other = Placed(tmp_path), Placed(tmp_path)
    put(placed, files[0])
    with other.alone():
        assert other.is_ours(files[0])
    files[0].write_text("another")
    assert not other.is_ours(files[0])
    put(placed, files[0])
    with other.alone():
        assert other.is_ours(files[0])
