"""What a server's process says on its way to people."""

from pathlib import Path

import pytest

from kaggleops.server.settings import Settings
from kaggleops.server.supervisor import Child
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
