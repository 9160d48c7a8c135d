"""Kaggle's client in a process: imported anew where that failed, and used by threads at once."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kaggleops.platforms.kaggle.http import _lock as quiet_lock
from kaggleops.platforms.kaggle.http import quiet

FAILED_ONCE = """
import os, sys
from kaggleops.errors import UsageError
from kaggleops.platforms.kaggle import sign_in
for os.environ["HOME"] in sys.argv[1:]:
    try:
        print(sign_in().user)
    except UsageError as error:
        print(error)
"""


def test_an_import_that_failed_once_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("KAGGLE_CONFIG_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAGGLE_USERNAME", "ada")
    monkeypatch.setenv("KAGGLE_KEY", "0" * 32)
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-c", FAILED_ONCE, str(tmp_path / "file"), str(tmp_path)]
    first, second = subprocess.check_output(command, text=True).splitlines()
    assert first.startswith("using Kaggle: its client cannot make its folder (Not a directory: ")
    assert first.endswith("Name one in KAGGLE_CONFIG_DIR.")
    assert second == "ada"


FASTER = """
import os

def by_another_process(folder):
    os.makedirs = make
    make(folder)
    raise FileExistsError(17, "File exists", folder)

make, os.makedirs = os.makedirs, by_another_process
from kaggleops.platforms.kaggle.client import Client
print(os.makedirs is make)
"""


@pytest.mark.usefixtures("cold_python")
def test_two_processes_make_its_folder_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "of kaggle"))
    monkeypatch.setenv("KAGGLE_USERNAME", "ada")
    monkeypatch.setenv("KAGGLE_KEY", "0" * 32)
    assert subprocess.check_output([sys.executable, "-c", FASTER], text=True) == "True\n"


# `kaggleops status` asks about eight runs at a time.
def test_two_that_are_quiet_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    first_in, second_in, first_out = (threading.Event() for _ in range(3))

    def first() -> None:
        with quiet():
            first_in.set()
            second_in.wait()
            sys.stdout.write("something of the client's\n")
        first_out.set()

    def second() -> None:
        first_in.wait()
        with quiet():
            second_in.set()
            first_out.wait()
            sys.stdout.write("something more\n")

    threads = [threading.Thread(target=each) for each in (first, second)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    sys.stdout.write("a result\n")
    assert capsys.readouterr().out == "a result\n"


def test_a_process_that_is_forked_meanwhile_is_not_quiet_for_ever() -> None:
    before, inside, enough = sys.stdout, threading.Event(), threading.Event()

    def ask() -> None:
        with quiet(), quiet_lock:
            inside.set()
            enough.wait()

    thread = threading.Thread(target=ask)
    thread.start()
    inside.wait()
    child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)
        with quiet():
            pass
        os._exit(sys.stdout is not before)
    enough.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
