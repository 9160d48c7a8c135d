"""What the commands print, on any terminal."""

import logging

import pytest

from kaggleops.cli.output import LogLines, print_table


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
