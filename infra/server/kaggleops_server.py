#!/usr/bin/python3
"""Puts `kaggleops serve` on a machine, and changes its version. As root:

    kaggleops-server boot              what a machine of Google's does when it starts
    kaggleops-server setup FILE.zip    the first release of any other machine: asks for the bucket
    kaggleops-server update [RELEASE]  install a release (default: the pinned one) and go over to it
    kaggleops-server rollback          go back to the one before
    kaggleops-server check             start the server again if it answers no more

A release is packages, unit files and this file, as publish.py packs them. Google's machine takes it
from the bucket, `server/RELEASE.zip`, so it needs no way to the internet. Any other machine takes a
file that its owner has copied there: a key of another service often may write the whole bucket, and
whoever holds one must not change what the machine runs as root.

The whole file is the start-up script of Google's machine, too (without arguments: boot), so it
needs nothing but Python's standard library. A release is a virtual environment of its own, and a
symbolic link says which one counts; one that does not answer is left again for the one before.
"""

import argparse
import getpass
import hashlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from base64 import b64decode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

METADATA = f"http://{os.environ.get('GCE_METADATA_HOST', 'metadata.google.internal')}"
STORAGE = os.environ.get("STORAGE_EMULATOR_HOST", "https://storage.googleapis.com")
SECRETS = os.environ.get("SECRET_MANAGER_HOST", "https://secretmanager.googleapis.com")
HEALTH = os.environ.get("KAGGLEOPS_HEALTH", "http://127.0.0.1:5000/kaggleops/health.json")

_UNIT = "kaggleops.service"
_TIMER = "kaggleops-check.timer"
_WATCH = "kaggleops-watch.service"
_MOST_RESTARTS = 5
SECONDS_TO_ANSWER = 900.0
"""An e2-micro brings 10,000 runs in within that; nobody waits for it but a person who looks."""


class ServerError(Exception):
    """Something that the person at the machine can understand."""


PROBLEMS = (ServerError, OSError, EOFError, http.client.HTTPException, ValueError)
"""What the network, the disk, people and Google's answers can be to blame for."""


class Machine:
    """A machine's files and what is installed there.

    Args:
        root: the folder that is `/`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "opt/kaggleops"
        self.settings = root / "etc/kaggleops/server.env"

    def release(self, link: str) -> str | None:
        """Return which release is the `current` or the `previous` one; None if there is none."""
        path = self.home / link
        return path.readlink().name if path.is_symlink() else None

    def install(self, release: str, fetch: Callable[[Path], object]) -> None:
        """Make a release ready beside those that are there, if it is not yet.

        Args:
            release: its name.
            fetch: puts its archive into a file.
        """
        folder = self.home / "releases" / release
        if (folder / "ready").exists():
            return
        shutil.rmtree(folder, ignore_errors=True)  # one that was broken off
        unpacked = self.home / "unpacked"
        shutil.rmtree(unpacked, ignore_errors=True)
        unpacked.mkdir(parents=True)
        try:
            archive = unpacked / "release.zip"
            fetch(archive)
            with zipfile.ZipFile(archive) as opened:
                opened.extractall(unpacked)
            archive.unlink()
            # Debian's venv comes without pip; the release brings one.
            run(sys.executable, "-m", "venv", "--clear", "--without-pip", folder)
            (pip,) = (unpacked / "wheels").glob("pip-*.whl")
            python = folder / "bin/python"
            offline = ("--no-index", "--find-links", unpacked / "wheels")
            wanted = (
                "--no-deps",
                "--require-hashes",
                "--requirement",
                unpacked / "requirements.txt",
            )
            run(python, pip / "pip", "install", "--quiet", "--no-cache-dir", *offline, *wanted)
            run(folder / "bin/kaggleops", "--version")
            shutil.move(unpacked / "files", folder / "files")
            shutil.move(unpacked / "kaggleops_server.py", folder / "kaggleops_server.py")
            (folder / "ready").touch()
        except (zipfile.BadZipFile, OSError, ValueError, subprocess.CalledProcessError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise ServerError(f"installing {release}: {error}") from error
        finally:
            shutil.rmtree(unpacked, ignore_errors=True)

    def go_to(self, release: str) -> None:
        """Run a release that is ready from now on; if it does not answer, the one before again."""
        before = self.release("current")
        try:
            self._start(release)
            wait_for_answer()
        except ServerError as error:
            if before is None or before == release:
                raise
            self._start(before)
            wait_for_answer()
            raise ServerError(f"{release} {error}; {before} is running again") from error
        if before not in (None, release):
            self._link("previous", str(before))
        for each in (self.home / "releases").iterdir():
            if each.name not in (self.release("current"), self.release("previous")):
                shutil.rmtree(each)

    def _start(self, release: str) -> None:
        folder = self.home / "releases" / release
        shutil.copytree(folder / "files", self.root, dirs_exist_ok=True)
        command = self.root / "usr/local/sbin/kaggleops-server"
        command.parent.mkdir(parents=True, exist_ok=True)
        replacement = command.with_suffix(".new")  # this very file may be running
        shutil.copy(folder / "kaggleops_server.py", replacement)
        replacement.chmod(0o755)
        replacement.replace(command)
        self._link("current", release)
        systemctl("daemon-reload")
        systemctl("enable", _UNIT, _TIMER, _WATCH)
        systemctl("restart", "systemd-journald.service", _TIMER, _UNIT, _WATCH)

    def _link(self, link: str, release: str) -> None:
        new = self.home / f"{link}.new"
        new.unlink(missing_ok=True)
        new.symlink_to(Path("releases") / release)
        new.replace(self.home / link)

    def write_settings(self, found: Mapping[str, str]) -> bool:
        """Write what the unit reads; return whether it has changed."""
        text = "".join(f'{name}="{_escaped(value)}"\n' for name, value in found.items())
        if self.settings.exists() and self.settings.read_text() == text:
            return False
        self.settings.parent.mkdir(parents=True, exist_ok=True)
        new = self.settings.with_suffix(".new")
        new.touch(0o600)  # the bucket's key, or an index's address with a password
        new.write_text(text)
        new.replace(self.settings)
        return True


def _escaped(value: str) -> str:
    return "".join(f"\\{each}" if each in '\\"`$' else each for each in value)


# -- what people and the machine ask for --------------------------------------------------------


def boot(machine: Machine) -> None:
    """Install the pinned release, however long it takes until it is there; later only look."""
    changed = keep_trying(lambda: machine.write_settings(of_metadata()))
    if machine.release("current") is None:
        keep_trying(lambda: update(machine, None))
    elif changed:
        systemctl("restart", _UNIT, _WATCH)


def setup(machine: Machine, file: str) -> None:
    """Install a release from a file on a machine of anybody's; ask for the bucket, and its key."""
    machine.write_settings(asked())
    update(machine, file)


def update(machine: Machine, release: str | None) -> None:
    """Go over to a release of the bucket, or in a file."""
    if release and release.endswith(".zip"):
        file = Path(release)
        with file.open("rb") as opened:  # the next one may be called the same
            content = hashlib.file_digest(opened, "sha256").hexdigest()
        release = f"{file.stem}-{content[:10]}"
        machine.install(release, lambda archive: shutil.copyfile(file, archive))
    else:
        bucket = attribute("kaggleops-bucket")
        release = release or read(bucket, "server/pinned").decode().strip()
        key = f"server/{release}.zip"
        machine.install(release, lambda archive: fetch(bucket, key, archive))
    machine.go_to(release)
    print(f"Running {release}.")


def rollback(machine: Machine) -> None:
    """Go back to the release before."""
    release = machine.release("previous")
    if release is None:
        raise ServerError("there is no release before this one")
    machine.go_to(release)
    print(f"Running {release}.")


def check(machine: Machine) -> None:
    """Restart a server that has answered since it was started and does so no more."""
    # A first import takes its time: one that has never answered yet is left alone.
    started = shown("InvocationID")
    seen = machine.root / "run/kaggleops-answered"
    if answer() is not None:
        seen.parent.mkdir(parents=True, exist_ok=True)
        seen.write_text(started)
    elif seen.exists() and seen.read_text() == started:
        print("It answers no more: started again.")
        systemctl("restart", _UNIT)


# -- the server ---------------------------------------------------------------------------------


def answer() -> dict[str, Any] | None:
    """Return what the health page says, whatever that is; None if nobody answers."""
    try:
        with urllib.request.urlopen(HEALTH, timeout=60) as response:
            content: dict[str, Any] = json.load(response)
    except urllib.error.HTTPError as error:
        return {"status": f"old ({error.code})"}  # it says itself that something is wrong
    except (OSError, ValueError):
        return None
    return content


def wait_for_answer() -> None:
    """Return when the server answers; raise `ServerError` when systemd has given it up."""
    deadline = time.monotonic() + SECONDS_TO_ANSWER
    while answer() is None:
        state, restarts = shown("ActiveState"), int(shown("NRestarts") or 0)
        gave_up = state == "failed" or restarts >= _MOST_RESTARTS
        if gave_up or time.monotonic() > deadline:
            raise ServerError(f"does not answer ({state}; see: journalctl -u kaggleops)")
        time.sleep(0.5)


def shown(name: str) -> str:
    """Return a property of the unit, as systemd has it."""
    return systemctl("show", f"--property={name}", "--value", _UNIT).strip()


def systemctl(*arguments: str) -> str:
    """Ask systemd for something; return what it says."""
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise ServerError(f"systemctl {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def run(*command: object) -> None:
    """Run a command whose output belongs to this one's."""
    subprocess.run([str(each) for each in command], check=True, stdin=subprocess.DEVNULL)


# -- what it serves -----------------------------------------------------------------------------


def asked() -> dict[str, str]:
    """Ask whoever installs it. What is typed for the key is not shown, and on no command line."""
    found = {
        "KAGGLEOPS_BUCKET": input("Bucket (s3://BUCKET@HOST/PREFIX): ").strip(),
        "AWS_ACCESS_KEY_ID": input("Access key ID: ").strip(),
        "AWS_SECRET_ACCESS_KEY": getpass.getpass("Secret access key (not shown): ").strip(),
        # The port is this machine's own: people come through SSH, which asks who they are.
        "KAGGLEOPS_OPTIONS": "--host 127.0.0.1",
    }
    if missing := [name for name, value in found.items() if not value]:
        raise ServerError(f"setting up: no {' and no '.join(missing)} was given")
    return found


def of_metadata() -> dict[str, str]:
    """Return what Terraform has set for a machine of Google's."""
    found = {
        "KAGGLEOPS_BUCKET": attribute("kaggleops-bucket"),
        "KAGGLEOPS_OPTIONS": attribute("kaggleops-options"),
    }
    if secret := attribute("kaggleops-index-secret"):
        found["KAGGLEOPS_INDEX"] = read_secret(secret)
    return found


# -- Google's -----------------------------------------------------------------------------------


def attribute(name: str) -> str:
    """Return an attribute of the machine, as Terraform has set it; "" if it has none."""
    try:
        return _metadata(f"attributes/{name}").decode()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return ""
        raise


def read_secret(name: str) -> str:
    """Return the newest version of a secret of Secret Manager."""
    found = json.loads(_authorized(f"{SECRETS}/v1/{name}/versions/latest:access").read())
    return b64decode(found["payload"]["data"]).decode()


def read(bucket: str, key: str) -> bytes:
    """Return the content of a small object."""
    content: bytes = _object(bucket, key).read()
    return content


def fetch(bucket: str, key: str, path: Path) -> None:
    """Download an object into a file."""
    with _object(bucket, key) as response, path.open("wb") as file:
        shutil.copyfileobj(response, file)


def _object(bucket: str, key: str) -> Any:
    name, _, prefix = bucket.removeprefix("gs://").partition("/")
    whole = urllib.parse.quote(f"{prefix}/{key}" if prefix else key, safe="")
    try:
        return _authorized(f"{STORAGE}/storage/v1/b/{name}/o/{whole}?alt=media")
    except urllib.error.HTTPError as error:
        hint = "; publish one: python infra/server/publish.py" if error.code == 404 else ""
        raise ServerError(f"{bucket}/{key}: {error}{hint}") from error


def _authorized(url: str) -> Any:
    token = json.loads(_metadata("service-accounts/default/token"))["access_token"]
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    return urllib.request.urlopen(request, timeout=60)


def _metadata(path: str) -> bytes:
    url = f"{METADATA}/computeMetadata/v1/instance/{path}"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    with urllib.request.urlopen(request, timeout=10) as response:
        content: bytes = response.read()
    return content


def keep_trying(step: Callable[[], Any]) -> Any:
    """Return what a step returns once it succeeds, asking ever more slowly."""
    pause = 1.0
    while True:
        try:
            return step()
        except PROBLEMS as error:
            print(f"{error}. Again in {pause:.0f} s.", file=sys.stderr, flush=True)
        time.sleep(pause)
        pause = min(2 * pause, 60.0)


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(description="Install and update kaggleops on this machine.")
    parser.add_argument("--root", type=Path, default=Path("/"), help="Another folder that is /.")
    commands = parser.add_subparsers(dest="command")
    for each in (boot, rollback, check):
        commands.add_parser(each.__name__, help=each.__doc__)
    one = commands.add_parser("setup", help=setup.__doc__)
    one.add_argument("file", help="A release, as publish.py --file writes it.")
    one = commands.add_parser("update", help=update.__doc__)
    named = "As in the bucket's server/, or a file. Default: the pinned."
    one.add_argument("release", nargs="?", help=named)
    given = parser.parse_args()
    machine = Machine(given.root)
    try:
        if given.command == "setup":
            setup(machine, given.file)
        elif given.command == "update":
            update(machine, given.release)
        else:
            globals()[given.command or "boot"](machine)
    except PROBLEMS as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
