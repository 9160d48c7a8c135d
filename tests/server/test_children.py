"""What a server's process says on its way to people, and when it may be told to end."""

import signal
from pathlib import Path
from typing import Any

import pytest

from kaggleops.server.settings import Settings
from kaggleops.server.supervisor import Child, serve
from tests import secrets_of
from tests.canaries import marks_in


def test_no_process_shows_the_password_of_its_database(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # As a library would that fails in the midst of something.
    (tmp_path / "failing.py").write_text(f"raise ValueError({secrets_of.DATABASE!r})")
    settings = Settings("a bucket", secrets_of.DATABASE, str(tmp_path))
    with Child("failing", settings) as child:
        assert list(child.messages()) == []
    assert "ValueError: postgresql://ada:***@db.lab.org/runs" in child.reason
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert marks_in(child.reason + shown) == set()


def test_it_may_be_told_to_end_as_soon_as_it_hears_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear = signal.signal
    came: list[int] = []

    def hear_and_come(number: int, handler: Any) -> Any:
        before = hear(number, handler)
        # Not SIGTERM: this process's own thread would send it again (tracking/signals.py).
        if number == signal.SIGINT and not came:
            came.append(number)
            signal.raise_signal(number)
        return before

    handlers = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setattr(signal, "signal", hear_and_come)
    settings = Settings("a bucket", "an index", str(tmp_path / "scratch"))
    serve(settings, *[lambda *_: pytest.fail("it was told to end")] * 4)
    assert came
    assert {each: signal.getsignal(each) for each in handlers} == handlers
    assert not (tmp_path / "scratch").exists()
