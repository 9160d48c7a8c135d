"""What a notebook left is checked before it is kept."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kaggleops.backends.downloads import Downloaded
from kaggleops.backends.lookup import backend_named
from tests.fakes.kaggle_uses import kernel_folder

from .world import World

SCRIPT = """
from pathlib import Path
Path("deep").mkdir()
Path("deep/model.bin").write_bytes(b"m" * 300_000)
for number in range({parts}):
    Path(f"part-{{number:03}}.csv").write_text(str(number))
"""


def ran(outside: World, folder: Path, parts: int) -> str:
    """Return a script that has ended, and left so many files and one more."""
    ref = f"ada/leaves-{parts}-files"
    pushed = kernel_folder(folder, ref, SCRIPT.format(parts=parts))
    outside.kaggle.api("ada").kernels_push(pushed)
    session = outside.kaggle.session(ref)
    session.start()
    assert session.wait() == "COMPLETE", session.text
    return ref


@pytest.fixture(scope="module")
def script(outside: World, tmp_path_factory: pytest.TempPathFactory) -> str:
    return ran(outside, tmp_path_factory.mktemp("push"), 3)


@pytest.fixture(autouse=True)
def healed(outside: World) -> Iterator[None]:
    yield
    outside.kaggle.heal()
    outside.kaggle.behaviour.output_name = str


def download(script: str, folder: Path) -> Downloaded:
    return backend_named("kaggle").download({"kaggle_notebook": script}, folder)


def test_every_file_of_every_page(outside: World, tmp_path: Path) -> None:
    brought = download(ran(outside, tmp_path / "push", 120), tmp_path / "home")
    assert brought.problems == []
    assert len(brought.files) == 121
    assert (tmp_path / "home/deep/model.bin").read_bytes() == b"m" * 300_000
    assert (tmp_path / "home/part-119.csv").read_text() == "119"
    assert sorted(path for path in (tmp_path / "home").rglob("*") if path.is_file()) == sorted(
        brought.files
    )


@pytest.mark.parametrize(("kind", "problem"), [(403, "no such thing"), ("truncate", "no answer")])
def test_an_error_or_half_a_file_is_not_kept(
    outside: World, script: str, tmp_path: Path, kind: int | str, problem: str
) -> None:
    outside.kaggle.fail(kind, op="output file", times=None, where=lambda r: "model" in r.path)
    brought = download(script, tmp_path / "home")
    (said,) = brought.problems
    assert said.startswith("downloading 'deep/model.bin'")
    assert problem in said
    assert len(brought.files) == 3
    assert not list((tmp_path / "home/deep").iterdir())


def test_a_file_of_another_size_than_was_listed_is_not_kept(
    outside: World, script: str, tmp_path: Path
) -> None:
    file = outside.kaggle.session(script).working / "deep/model.bin"
    whole = file.read_bytes()
    outside.kaggle.fail(
        "reset",
        op="output file",
        where=lambda request: "model" in request.path,
        then=lambda: file.write_bytes(whole + b"more"),
    )
    try:
        brought = download(script, tmp_path / "home")
    finally:
        file.write_bytes(whole)
    assert brought.problems == [
        "downloading 'deep/model.bin': 300004 bytes came of 300000. Try again."
    ]
    assert not list((tmp_path / "home/deep").iterdir())


@pytest.mark.parametrize("name", ["../model.bin", "/tmp/model.bin", "a/../../model.bin"])
def test_a_name_that_points_elsewhere_is_left_there(
    outside: World, script: str, tmp_path: Path, name: str
) -> None:
    outside.kaggle.behaviour.output_name = lambda own: name if "model" in own else own
    brought = download(script, tmp_path / "home")
    (said,) = brought.problems
    assert "leads out of the folder" in said
    assert not [path for path in tmp_path.rglob("*") if "model" in path.name]
    assert len(brought.files) == 3


def test_a_link_in_the_folder_leads_nothing_out_of_it(script: str, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "home/deep").symlink_to(tmp_path / "elsewhere")
    brought = download(script, tmp_path / "home")
    (said,) = brought.problems
    assert "a link leads it out" in said
    assert not list((tmp_path / "elsewhere").iterdir())
