"""As much of systemd as our units need, over a folder that is `/`: start, stop, restart on failure.

    systemctl = install(folder, root, port)   # folder then goes onto the PATH

It reads the real unit files: what they start, with which environment, and when again. Strict: a
verb or a property that it does not know is an error. It does not contain what it starts.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

_OF_SH = ("PWD", "OLDPWD", "SHLVL", "_")
_PAUSE = 0.05  # seconds instead of the unit's RestartSec


def install(folder: Path, root: Path, port: int) -> Path:
    """Put a `systemctl` into a folder.

    Args:
        folder: where to.
        root: what the units take for `/`.
        port: which port they get where they ask for 5000.
    """
    command = folder / "systemctl"
    folder.mkdir(parents=True, exist_ok=True)
    call = shlex.join([sys.executable, __file__, str(root), str(port)])
    command.write_text(f'#!/bin/sh\nexec {call} "$@"\n')
    command.chmod(0o755)
    return command


class Unit:
    """A service's unit file under a root."""

    def __init__(self, root: Path, name: str, port: int = 5000) -> None:
        self.root = root
        self.port = port
        self.file = root / "etc/systemd/system" / name
        lines = [line.strip() for line in self.file.read_text().splitlines()]
        pairs = [line.split("=", 1) for line in lines if "=" in line and line[0] not in "#;"]
        self.settings = dict(pairs)
        files = [value for key, value in pairs if key == "EnvironmentFile"]
        self.environment_files = [root / each.lstrip("/") for each in files]
        self.state = root / "run" / f"{name}.json"

    def environment(self) -> dict[str, str]:
        """Return what it is started with, beside the tests' own."""
        state = str(self.root / "var/lib")
        words = shlex.split(self.settings.get("Environment", "").replace("%S", state))
        for file in self.environment_files:
            # Its quoting is the shell's, says systemd.exec(5).
            reading = ["env", "-i", "sh", "-ac", '. "$1" && env -0', "sh", str(file)]
            read = subprocess.run(reading, capture_output=True, text=True, check=True).stdout
            found = [word for word in read.split("\0") if word]
            words += [word for word in found if word.split("=")[0] not in _OF_SH]
        return dict(word.split("=", 1) for word in words)

    def command(self) -> list[str]:
        """Return its command line."""
        environment = self.environment()
        words: list[str] = []
        for word in self.settings["ExecStart"].replace("5000", str(self.port)).split():
            if word.startswith("${"):
                words.append(environment[word[2:-1]])
            elif word.startswith("$"):
                words += environment.get(word[1:], "").split()
            else:
                words.append(word)
        return [str(self.root / words[0].lstrip("/")), *words[1:]]

    def keep(self) -> None:
        """Run it until SIGTERM, again and again as it says."""
        folder = self.root / "var/lib" / self.settings["StateDirectory"]
        folder.mkdir(parents=True, exist_ok=True)
        process: subprocess.Popen[bytes] | None = None
        told = False

        def end(*_: object) -> None:
            nonlocal told
            told = True
            if process is not None:
                process.terminate()

        signal.signal(signal.SIGTERM, end)
        restarts = 0
        while not told:
            self.write(ActiveState="active", NRestarts=restarts, keeper=os.getpid())
            process = subprocess.Popen(
                self.command(), env={**os.environ, **self.environment()}, start_new_session=True
            )
            if told:
                process.terminate()
            code = process.wait()
            if told or code == 0 or self.settings["Restart"] != "on-failure":
                self.write(ActiveState="inactive", NRestarts=restarts)
                return
            if str(code) == self.settings.get("RestartPreventExitStatus"):
                self.write(ActiveState="failed", NRestarts=restarts)
                return
            restarts += 1
            self.write(ActiveState="activating", NRestarts=restarts, keeper=os.getpid())
            time.sleep(_PAUSE)

    def write(self, **state: object) -> None:
        """Note its state, whole."""
        invocation = self.read().get("InvocationID")
        if state["ActiveState"] == "active":
            invocation = uuid.uuid4().hex
        new = self.state.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps({"InvocationID": invocation, **state}))
        new.replace(self.state)

    def read(self) -> dict[str, object]:
        """Return its state."""
        try:
            found: dict[str, object] = json.loads(self.state.read_text())
        except FileNotFoundError:
            return {"ActiveState": "inactive", "NRestarts": 0}
        return found

    def stop(self) -> None:
        """End it and return when it has ended."""
        keeper = self.read().get("keeper")
        if isinstance(keeper, int):
            try:
                os.kill(keeper, signal.SIGTERM)
                while self.read().get("keeper"):
                    time.sleep(0.01)
            except ProcessLookupError:
                pass

    def start(self) -> None:
        """Begin to keep it, if it is wanted."""
        wanted = self.settings.get("ConditionPathExists", "/")
        if not (self.root / wanted.lstrip("/")).exists():
            return
        self.state.parent.mkdir(parents=True, exist_ok=True)
        log = (self.root / "run/journal").open("ab")
        command = [sys.executable, __file__, str(self.root), str(self.port), "KEEP", self.file.name]
        self.state.unlink(missing_ok=True)
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        while not self.state.exists():
            time.sleep(0.01)


def main(root: Path, port: int, verb: str, *arguments: str) -> None:
    """Do what `systemctl` is asked for."""
    options = [each for each in arguments if each.startswith("--")]
    names = [each for each in arguments if not each.startswith("--")]
    known = [path.name for path in (root / "etc/systemd/system").glob("*")]
    for name in names:
        if name not in known and name != "systemd-journald.service":
            sys.exit(f"Failed to {verb} {name}: Unit {name} not found.")
    if verb == "KEEP":
        Unit(root, names[0], port).keep()
    elif (verb, names, options) == ("daemon-reload", [], []):
        return
    elif verb == "enable" and not options:
        for name in names:
            if "[Install]" not in (root / "etc/systemd/system" / name).read_text():
                sys.exit(f"The unit file {name} has no installation config.")
    elif verb == "restart" and not options:
        for name in ("kaggleops.service", "kaggleops-watch.service"):
            if name in names:
                unit = Unit(root, name, port)
                unit.stop()
                unit.start()
    elif verb == "show" and options[1:] == ["--value"] and options[0].startswith("--property="):
        value = Unit(root, names[0], port).read()[options[0].removeprefix("--property=")]
        sys.stdout.write(f"{value}\n")
    else:
        sys.exit(f"Unknown: {verb} {arguments}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
