"""What the commands print, on any terminal."""

import logging
import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO

import click
import pytest

from kaggleops.campaign.turn import Turn
from kaggleops.cli import main, output
from kaggleops.cli.output import LogLines, out, print_table, table
from kaggleops.cli.watch import _table


@pytest.mark.parametrize("columns", ["20", "80", "300"])
def test_a_table_is_whole_however_narrow_the_terminal(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    message = "Never cut a message, however long it is, 世界 included: somebody may want to copy it"
    rows = [["1", "6f12e4ab8d", "0.9154", message], ["2", "0c5b0a46b1", "0.87", "short"]]
    print_table(["#", "commit", "jaccard", "message"], rows)
    head, *shown = [line for line in capsys.readouterr().out.splitlines() if line]
    assert head.split() == ["#", "commit", "jaccard", "message"]
    assert [line.rstrip().split(maxsplit=3) for line in shown] == rows
    assert shown[0].index("0.9154") + 2 == shown[1].index("0.87")  # to the right


def test_a_warning_is_one_line_however_long_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = "reading s3://runs@host/" + "x" * 100 + ": the service cannot be reached"
    LogLines().handle(logging.makeLogRecord({"levelname": "WARNING", "levelno": 30, "msg": said}))
    assert capsys.readouterr().err == f"WARNING  {said}\n"


def test_only_a_command_is_told_with_the_path_by_which_we_were_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called = tmp_path / ".venv/bin/kaggleops"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(called)])
    output._program.cache_clear()
    with click.Context(main):
        told = output.as_typed("Log as kaggleops where it can: kaggleops data fetch")
        below = [[("silent for a day: kaggleops resume 3f2a91c0", "")]]
        narrow = output.as_typed(table(["Run"], [["x"]], below=below, width=48).plain)
        problem = "it fails: kaggleops resume 3f2a91c0 or kaggleops cancel 3f2a91c0"
        out.print(_table(Turn(problems=[problem])), width=48)
    output._program.cache_clear()
    assert max(map(len, narrow.splitlines())) <= 48
    assert "".join(capsys.readouterr().out.split()).endswith(".venv/bin/kaggleopscancel3f2a91c0")
    assert told == "Log as kaggleops where it can: .venv/bin/kaggleops data fetch"


@pytest.mark.parametrize("command", ["--help", "quota --help", "quota", "quota --json"])
def test_no_room_for_what_is_printed_is_one_line(command: str, tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "kaggleops", *command.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            text=True,
            timeout=280,
        )
    assert done.stderr == "error: writing the output: No space left on device.\n"
    assert done.returncode == 1


REDRAWN = """
import logging, sys
from kaggleops.cli import output
from kaggleops.cli.output import LogLines, err, progress_bar, redrawn
logging.getLogger("kaggleops").addHandler(LogLines())
output._WORTH_SHOWING = 0
with redrawn() as live:
    live.update("the table", refresh=True)
    logging.getLogger("kaggleops").warning("beside it")
    err.print("of ours")
    with err.status("asking"), progress_bar("reading") as update:
        update(1, 2)
    print("of a library", file=sys.stderr)
    live.update("the table", refresh=True)
"""


def test_what_is_said_stands_above_what_is_redrawn(cold_python: None) -> None:
    """Whether it can be redrawn a process sees when it begins: here, cold."""
    shown, erased = at_a_terminal(REDRAWN), "\x1b[2K"
    for said in ("WARNING  beside it", "of ours", "of a library"):
        assert erased in shown.partition(said)[0].rpartition("the table")[2], said
    assert erased in shown.rpartition("the table")[0].rpartition("of a library")[2]
    assert "asking" not in shown  # what shows that would move it
    assert "reading" not in shown


def test_what_is_logged_goes_where_stderr_does(cold_python: None, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        at_a_terminal(REDRAWN, log)
    assert (tmp_path / "log").read_text() == "WARNING  beside it\nof ours\nof a library\n"


def at_a_terminal(script: str, errors: IO[str] | None = None) -> str:
    """Return what a script writes to a terminal; `errors` is where its stderr goes if elsewhere."""
    reading, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color"}
    command = [sys.executable, "-c", script]
    subprocess.run(command, stdout=terminal, stderr=errors or terminal, env=environment, check=True)
    os.close(terminal)
    shown = b""
    with suppress(OSError):  # nobody writes there any more
        while more := os.read(reading, 1 << 16):
            shown += more
    os.close(reading)
    return shown.decode()
