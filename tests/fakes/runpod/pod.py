"""A pod: its container's command, truly executed, and started again when it exits."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import kaggleops
from tests.fakes import platforms
from tests.fakes.kaggle.machines import add_gpus
from tests.fakes.processes import end_processes_of

ALIVE = ("PROVISIONING", "STARTING", "RUNNING")
_SECRET = re.compile(r"\{\{ RUNPOD_SECRET_(\w+) \}\}")
_SOURCES = str(Path(kaggleops.__file__).parents[1])
# What the image has installed. An environment made there sees it as the user's own packages, since
# of this interpreter it would see the one that that was made with.
_INSTALLED = f"root/.local/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"


class Pod:
    """One pod, from its creation until nothing of it is left.

    Args:
        id: its id.
        body: what it was created with.
        price: what it costs, in US dollars an hour.
        data_center: where it is.
        root: the folder of its machine; what is not on the volume is gone at each start.
        volume: the folder of its network volume, if it has one.
        surroundings: what its environment has beside that of the body.
        secrets: those of the account.
        image: the programs that its image has, by name; None for those of this machine.
        packages: the folders of the Python packages that its image has, beside KaggleOps.
        held: whether it stays PROVISIONING until `start`.
    """

    def __init__(
        self,
        id: str,
        body: Mapping[str, Any],
        price: float,
        data_center: str,
        root: Path,
        volume: Path | None,
        surroundings: Mapping[str, str],
        secrets: Mapping[str, str],
        image: Mapping[str, Path] | None,
        packages: Sequence[str],
        *,
        held: bool,
    ) -> None:
        self.id = id
        self.body = body
        self.price = price
        self.data_center = data_center
        self.volume = volume
        self.status = "PROVISIONING"
        self.starts = 0
        """How often its container was started."""
        self.log: list[tuple[str, str]] = []
        """When each line was printed, and the line."""
        self.created = _now()
        self._root = root
        self._surroundings = surroundings
        self._secrets = secrets
        self._image = image
        self._packages = [*packages, _SOURCES]
        self._changed = threading.Condition()
        self._released = not held
        self._gone = False
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._live)
        self._thread.start()

    # What a test asks of it

    def start(self) -> None:
        """Let it have a machine."""
        with self._changed:
            self._released = True
            self._changed.notify_all()

    def crash(self) -> None:
        """Kill what the container was started with, as one that runs out of memory is."""
        with self._changed:
            self._changed.wait_for(lambda: self._process is not None)
            assert self._process is not None
            self._process.kill()

    def stop(self) -> None:
        """Stop it, as its owner can."""
        self._end("EXITED")

    def delete(self) -> None:
        """Delete it, as its owner can, or it itself; returns at once."""
        self._end("TERMINATED")

    def wait(self, timeout: float = 240) -> None:
        """Return when it is deleted.

        Raises:
            TimeoutError: it is not after `timeout` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.status == "TERMINATED", timeout):
                raise TimeoutError(f"the pod is {self.status}; its log:\n{self.text}")
        self._thread.join()

    def wait_for_starts(self, times: int) -> None:
        """Return when its container was started so often."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.starts >= times, 60)

    def wait_for_log(self, text: str, timeout: float = 120) -> None:
        """Return when its log contains that.

        Raises:
            TimeoutError: the pod is gone, or so many seconds have passed, and it does not.
        """
        with self._changed:
            self._changed.wait_for(lambda: text in self.text or self._gone, timeout)
            if text not in self.text:
                raise TimeoutError(f"the pod is {self.status}; its log:\n{self.text}")

    @property
    def text(self) -> str:
        """Everything that it has printed."""
        return "\n".join(line for _, line in self.log)

    @property
    def alive(self) -> bool:
        """Whether it is paid for."""
        return self.status in ALIVE

    # What the server asks of it

    def events(self, after: str) -> Iterator[tuple[str, str]]:
        """Yield what it prints, from that moment on, until it ends."""
        shown = 0
        while new := self._behind(shown):
            shown += len(new)
            yield from (each for each in new if each[0] >= after)

    def _behind(self, shown: int) -> list[tuple[str, str]]:
        with self._changed:
            self._changed.wait_for(lambda: len(self.log) > shown or self._gone, 60)
            return self.log[shown:]

    # Its life

    def _end(self, status: str) -> None:
        with self._changed:
            self.status = status
            self._released = True
            self._changed.notify_all()

    def _enter(self, status: str) -> bool:
        with self._changed:
            if self.status in ALIVE:
                self.status = status
                self._changed.notify_all()
            return self.alive

    def _live(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._released)
        while self._enter("STARTING"):
            self._execute()
        shutil.rmtree(self._root, ignore_errors=True)
        with self._changed:
            self._gone = True
            self._changed.notify_all()

    def _execute(self) -> None:
        """Run the container until its command exits, or the pod ends."""
        shutil.rmtree(self._root, ignore_errors=True)
        environment = self._environment()
        if self.volume:
            shutil.rmtree(self._root / "workspace")
            (self._root / "workspace").symlink_to(self.volume)
        installed = self._root / _INSTALLED
        installed.mkdir(parents=True)
        (installed / "image.pth").write_text("\n".join(self._packages))
        # What an image of RunPod's starts by itself: sshd, for one.
        (self._root / "start.sh").write_text(f"env -0 > {self._root}/workspace/started-by-image\n")
        with self._changed:
            self.starts += 1
            self._changed.notify_all()
        try:
            process = subprocess.Popen(
                shlex.split(str(self.body["args"])),
                cwd=self._root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        except FileNotFoundError:  # in the image; it stays STARTING, and is paid for
            with self._changed:
                self._changed.wait_for(lambda: not self.alive, 0.05)
            return
        assert process.stdout is not None
        reader = threading.Thread(target=self._read, args=(process.stdout,))
        reader.start()
        self._process = process
        self._enter("RUNNING")
        with self._changed:
            while process.poll() is None and self.alive:
                self._changed.wait(0.05)
        # With a container's first process, all others go.
        end_processes_of(self._root)
        process.wait()
        reader.join()

    def _environment(self) -> dict[str, str]:
        def resolved(value: str) -> str:
            return _SECRET.sub(lambda found: self._secrets.get(found[1], found[0]), value)

        own = {name: resolved(value) for name, value in self.body["env"].items()}
        injected = {"RUNPOD_POD_ID": self.id, "RUNPOD_DC_ID": self.data_center}
        around = platforms.runpod(self._root)
        programs = self._root / "bin"
        programs.mkdir()
        if self._image is None:
            gpu = self.body["gpu"]
            add_gpus(programs, [gpu["id"]] * gpu.get("count", 1))
            around["PATH"] = os.pathsep.join([str(programs), around["PATH"]])
        else:
            for name, path in self._image.items():
                (programs / name).symlink_to(path)
            around["PATH"] = str(programs)
        return {**around, **self._surroundings, **own, **injected}

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                with self._changed:
                    text = line.decode(errors="replace").removesuffix("\n")
                    self.log.append((_now(), text))
                    self._changed.notify_all()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
