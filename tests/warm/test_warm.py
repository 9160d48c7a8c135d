"""What a test starts is forked, and nobody sees a difference but in the time it takes."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from tests.warm import VARIABLE, children, forked, passed_on

SOCKET = (socket.AF_UNIX, socket.SOCK_SEQPACKET)

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
    assert found.pop("process") == forked(process.pid)
    assert process.wait() == 3
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


@pytest.mark.parametrize(
    "how",
    [
        "print('all', end='')",
        "sys.exit('no luck')",
        "sys.exit(300)",
        "sys.exit(None)",
        "1 / 0",
        "raise KeyboardInterrupt",
        "os.close(1); os.open('/dev/full', os.O_WRONLY); print('all')",
        "os.close(1); os.open('/dev/full', os.O_WRONLY); print('all'); sys.exit(3)",
        "atexit.register(print, 'then'); threading.Timer(0.01, print, ['first']).start()",
        "os.fork() and sys.exit(os.waitstatus_to_exitcode(os.wait()[1])); sys.exit(7)",
    ],
)
def test_it_ends_by_itself_as_any_does(
    tmp_path: Path, how: str, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "train.py").write_text(f"import atexit, os, sys, threading\n{how}\n")

    def ended() -> tuple[int, str, list[str]]:
        done = subprocess.run(
            [sys.executable, tmp_path / "train.py"],
            env={name: each for name, each in os.environ.items() if name != "PYTHONUNBUFFERED"},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout, done.stderr.splitlines()[-2:]

    warm = ended()
    request.getfixturevalue("cold_python")
    assert warm == ended()


def test_what_is_said_without_a_buffer_is_read_at_once(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("print('half a li', end=''); input()")
    process = subprocess.Popen(
        [sys.executable, "-u", tmp_path / "train.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert os.read(process.stdout.fileno(), 100) == b"half a li"
    process.communicate(b"\n")
    assert process.returncode == 0


def test_what_it_starts_ends_with_its_process_group(tmp_path: Path) -> None:
    waits = "import signal, sys; print('waits', flush=True); signal.pause()"
    (tmp_path / "waits.py").write_text(waits)
    starts = "import subprocess, sys; subprocess.run([sys.executable, 'waits.py']); signal.pause()"
    (tmp_path / "train.py").write_text(f"import os, signal\n{starts}")
    process = subprocess.Popen(
        [sys.executable, "train.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waits\n"
    (started,) = children(process.pid)
    os.killpg(os.getpgid(forked(process.pid)), signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM
    assert psutil.wait_procs([started], timeout=60)[1] == []
    assert os.getpgrp() not in (started.pid, forked(process.pid))


def test_what_comes_before_the_fork_is_known_or_after_its_end_is_passed_on_or_left() -> None:
    # Who answers is this test.
    with tempfile.TemporaryDirectory() as folder, socket.socket(*SOCKET) as listening:
        listening.bind(f"{folder}/fake")
        listening.listen()
        fake = os.environ[VARIABLE].split(os.pathsep)
        fake[0] = f"{folder}/fake"
        process = subprocess.Popen(
            [sys.executable, "-m", "kaggleops"],
            env={**os.environ, VARIABLE: os.pathsep.join(fake)},
        )
        connection, _ = listening.accept()
        assert connection.recv(1 << 20)
        process.send_signal(signal.SIGTERM)
        fork = subprocess.Popen(["sleep", "60"])
        connection.send(b"%d" % fork.pid)
        assert fork.wait() == -signal.SIGTERM
        process.send_signal(signal.SIGTERM)
        connection.send(b"7")
        assert process.wait() == 7
        connection.close()


def test_what_a_platform_begins_with_runs(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import sys; print(sys.begun, 'mlflow' in sys.modules)")
    (tmp_path / "its").mkdir()
    (tmp_path / "its/sitecustomize.py").write_text("import sys; sys.begun = True")
    environment = {**os.environ, **passed_on(str(tmp_path / "its"))}
    said = [
        subprocess.run([sys.executable, *how], env=environment, capture_output=True).stdout
        for how in (["train.py"], ["-c", (tmp_path / "train.py").read_text()])
    ]
    assert said == [b"True True\n", b"True False\n"]


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
