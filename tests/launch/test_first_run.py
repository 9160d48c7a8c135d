"""The first minutes in a repository: what was printed works, and what we write is in no way."""

import subprocess
import sys
from pathlib import Path

import pytest

from kaggleops.git.commits import find_commit
from kaggleops.git.own_files import leave_out
from tests.command import kaggleops_here
from tests.fakes.git_server import Repository


def test_the_first_bucket_is_remembered_and_in_no_way(toy: Repository, tmp_path: Path) -> None:
    place = f"bucket+file://{toy.folder}/runs"
    done = kaggleops_here("run", "--bucket", "./runs", cwd=toy.folder)
    assert done.code == 0, done.errors
    assert f"Bucket  {place}\n        remembered in config/local.yaml\n" in done.errors
    assert done.output.splitlines()[-1].split()[2:] == ["kaggleops", "ui"]
    assert kaggleops_here("status", "--json", cwd=toy.folder).json["runs"]
    assert toy.git("status", "--porcelain") == ""

    elsewhere = tmp_path / "elsewhere"
    done = kaggleops_here("run", "--bucket", elsewhere, cwd=toy.folder)
    assert done.code == 0, done.errors
    assert "remembered" not in done.errors
    shown = done.output.splitlines()[-1].split()[2:]
    assert shown == ["kaggleops", "ui", "--bucket", f"bucket+file://{elsewhere}"]
    assert (toy.folder / "config/local.yaml").read_text().splitlines()[1:] == [f"bucket: {place}"]


def test_a_bucket_that_cannot_be_used_is_not_remembered(toy: Repository, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert kaggleops_here("run", "--bucket", tmp_path / "file", cwd=toy.folder).code == 1
    assert not (toy.folder / "config").exists()


def test_what_commands_write_is_in_no_way(toy: Repository) -> None:
    shas = []
    for alpha in (0.1, 0.2):
        toy.write(version_txt=str(alpha))
        shas.append(toy.commit(f"Set {alpha}"))
        ran = kaggleops_here("run", "--bucket", "runs", f"alpha={alpha}", cwd=toy.folder)
        assert ran.code == 0, ran.errors
    for command in (
        ("compare", *shas, "--html", "cmp.html"),
        ("run", "-b", "manual"),
        ("bundle", "--to", "bundles"),
        ("export", "plain"),
    ):
        done = kaggleops_here(*command, cwd=toy.folder)
        assert done.code == 0, done.errors
    assert {"cmp.html", "bundles", "plain"} <= {each.name for each in toy.folder.iterdir()}
    assert list(toy.folder.glob("run-*.ipynb"))
    assert find_commit(toy.folder).uncommitted == ()
    assert kaggleops_here("run", cwd=toy.folder).code == 0


@pytest.mark.parametrize(
    "command",
    [
        ("import", "{outside}/mlruns", "--bucket", "./other"),
        ("bundle", "--bucket", "other"),
        ("leaderboard", "--bucket", "{outside}/bucket", "--index", "sqlite:///rel.db"),
    ],
    ids=lambda command: command[0],
)
def test_a_bucket_and_an_index_in_the_repository_are_in_no_way(
    toy: Repository, tmp_path: Path, command: tuple[str, ...]
) -> None:
    place = ("--bucket", tmp_path / "bucket")
    assert kaggleops_here("run", *place, cwd=toy.folder).code == 0
    assert kaggleops_here("export", tmp_path / "mlruns", *place).code == 0
    given = [each.format(outside=tmp_path) for each in command]
    done = kaggleops_here(*given, cwd=toy.folder)
    assert done.code == 0, done.errors
    assert {"other", "rel.db"} & {each.name for each in toy.folder.iterdir()}
    assert find_commit(toy.folder).uncommitted == ()


def test_only_what_we_wrote_is_left_out(toy: Repository, tmp_path: Path) -> None:
    for name in ("a [draft]*.html", "a d.html", "version.txt"):
        (toy.folder / name).write_text("changed")
    leave_out(toy.folder / "a [draft]*.html")
    leave_out(toy.folder / "version.txt")  # git has it: a change of it is a change
    leave_out(tmp_path / "in no repository")
    assert find_commit(toy.folder).uncommitted == ("version.txt", "a d.html")


def test_commands_are_printed_as_they_can_be_typed(tmp_path: Path) -> None:
    script = tmp_path / "the bin/kaggleops"
    script.parent.mkdir()
    script.write_text("from kaggleops.cli import main\nmain()\n")
    command = [sys.executable, str(script), "data", "fetch"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "'the bin/kaggleops' data add NAME SOURCE" in done.stderr
