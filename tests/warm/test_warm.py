"""What a test starts is forked, and nobody sees a difference but in the time it takes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.warm import forked

SCRIPT = """
import json, os, signal, sys
print(json.dumps({
    "arguments": sys.argv, "name": __name__, "file": __file__, "place": sys.path[0],
    "folder": os.getcwd(), "umask": os.umask(0), "given": os.environ.get("GIVEN"),
    "warm": "mlflow" in sys.modules, "process": os.getpid(), "read": sys.stdin.readline(),
    "more": os.read(int(sys.argv[1]), 10).decode(),
}), flush=True)
if sys.argv[2] == "waits":
    signal.pause()
sys.exit(int(sys.argv[2]))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/train.py").write_text(SCRIPT)
    return tmp_path / "code/train.py"


def start(script: Path, then: str) -> "subprocess.Popen[str]":
    more, to = os.pipe()
    os.write(to, b"of a file")
    os.close(to)
    process = subprocess.Popen(
        [sys.executable, script, str(more), then],
        env={**os.environ, "GIVEN": "by the test"},
        cwd=script.parents[1],
        umask=0o027,
        pass_fds=[more],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    os.close(more)
    assert process.stdin is not None
    process.stdin.write("of its input\n")
    process.stdin.flush()
    return process


def said(process: "subprocess.Popen[str]") -> dict[str, object]:
    assert process.stdout is not None
    found: dict[str, object] = json.loads(process.stdout.readline())
    return found


@pytest.mark.parametrize("cold", [False, True])
def test_it_has_all_that_it_was_started_with(
    script: Path, cold: bool, request: pytest.FixtureRequest
) -> None:
    if cold:  # the same, to see that this test tells the truth
        request.getfixturevalue("cold_python")
    process = start(script, "3")
    found = said(process)
    assert process.wait() == 3
    assert found.pop("process") == forked(process.pid)
    assert found == {
        "arguments": [str(script), found["arguments"][1], "3"],  # type: ignore[index]
        "name": "__main__",
        "file": str(script),
        "place": str(script.parent),
        "folder": str(script.parents[1]),
        "umask": 0o027,
        "given": "by the test",
        "read": "of its input\n",
        "more": "of a file",
        "warm": not cold,
    }


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_it_ends_as_it_is_told(script: Path, how: signal.Signals) -> None:
    process = start(script, "waits")
    fork = psutil.Process(int(str(said(process)["process"])))
    assert fork.pid != process.pid
    process.send_signal(how)
    assert process.wait() == -how
    assert psutil.wait_procs([fork], timeout=60)[1] == []


def test_a_module_is_run_once_and_warns_of_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kaggleops", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "version" in done.stdout


def test_a_clones_own_code_comes_first(tmp_path: Path) -> None:
    package = tmp_path / "kaggleops"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text("print('of the clone')")
    done = subprocess.run(
        [sys.executable, "-m", "kaggleops"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "of the clone\n", done.stderr
