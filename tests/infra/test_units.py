"""The unit files as systemd itself reads them, and the server as they start it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import unavailable
from tests.infra.world import SERVER

FILES = SERVER / "files"
UNITS = sorted(path.name for path in (FILES / "etc/systemd/system").iterdir())


@pytest.fixture
def units(tmp_path: Path) -> list[str]:
    """The units in a folder; what they start is there, as far as systemd looks."""
    if shutil.which("systemd-analyze") is None:
        unavailable("there is no systemd-analyze")
    for name in UNITS:
        text = (FILES / "etc/systemd/system" / name).read_text()
        for ours in ("/opt/kaggleops/current/bin/kaggleops", "/usr/local/sbin/kaggleops-server"):
            text = text.replace(ours, "/bin/true")
        (tmp_path / name).write_text(text)
    return [str(tmp_path / name) for name in UNITS]


def test_systemd_understands_them(units: list[str]) -> None:
    command = ["systemd-analyze", "verify", "--man=no", *units]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["kaggleops.service", "kaggleops-watch.service"])
def test_the_server_can_do_little(units: list[str], name: str) -> None:
    """1.5 of 10, where lower is better; what is left is the network and what all services see."""
    (server,) = (each for each in units if each.endswith(f"/{name}"))
    command = ["systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=16"]
    done = subprocess.run([*command, server], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-200:] + done.stderr


def test_what_is_installed_is_small_and_complete() -> None:
    assert UNITS == [
        "kaggleops-check.service",
        "kaggleops-check.timer",
        "kaggleops-swap.service",
        "kaggleops-watch.service",
        "kaggleops.service",
    ]
    journal = (FILES / "etc/systemd/journald.conf.d/kaggleops.conf").read_text()
    assert "SystemMaxUse=" in journal
    upgrades = (FILES / "etc/apt/apt.conf.d/52kaggleops").read_text()
    assert 'Unattended-Upgrade "1"' in upgrades
