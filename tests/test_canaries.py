"""What looks for the marked secrets does find them, whatever they are wrapped in."""

import base64
import gzip
import io
import subprocess
import threading
import uuid
import zipfile
from pathlib import Path

import pytest

from tests import secrets_of
from tests.canaries import MARKS, CommandLines, found_below, marks_in

SECRET = secrets_of.RUNPOD_KEY


def zipped(content: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("deep/file", content)
    return packed.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        f"x{SECRET}x".encode(),
        gzip.compress(SECRET.encode()),
        zipped(SECRET),
        *(base64.b64encode(b"ada"[:some] + SECRET.encode() + b"..") for some in range(3)),
    ],
)
def test_a_secret_is_found_in_whatever_it_is_wrapped(content: bytes) -> None:
    assert marks_in(content) == {"RunPod key"}
    assert marks_in(b"ada") == set()


def test_files_that_come_and_go_meanwhile_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / SECRET).write_text("a name tells, too")
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            for number in range(20):
                (tmp_path / f"{number}/deep").mkdir(parents=True)
                (tmp_path / f"{number}/deep/file").write_text("x")
            for number in range(20):
                (tmp_path / f"{number}/deep/file").unlink()
                (tmp_path / f"{number}/deep").rmdir()
                (tmp_path / f"{number}").rmdir()

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        for _ in range(100):
            assert found_below(tmp_path) == {str(tmp_path / SECRET): {"RunPod key"}}
    finally:
        over.set()
        other.join()


def test_a_secret_is_found_on_a_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of this test's own: others, beside it, look at the same processes for theirs.
    monkeypatch.setitem(MARKS, "a key", mark := uuid.uuid4().hex)
    command = ["sh", "-c", "read line", mark]
    with subprocess.Popen(command, stdin=subprocess.PIPE), CommandLines() as command_lines:
        pass
    assert list(command_lines.found.values()) == [{"a key"}]
