"""A marked secret of each kind, and where none of them may be found.

Every platform's own tests put them where that platform has them (a dataset, a secret, a private
file, the environment) and look here for what was left anywhere else: in the bucket, on disks, in
logs, notebooks, tags, and on the command lines of all processes meanwhile.
"""

import gzip
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from tests import secrets_of
from tests.fakes.gcs_server import GcsServer

MARKS = {
    "service-account key": "CANARYa1B2c3D4",
    "authorized user": "0gCANARYCANARY",
    "Kaggle key": secrets_of.HEX,
    "RunPod key": secrets_of.RUNPOD_KEY,
    "GitHub token": secrets_of.GITHUB_TOKEN,
    "Hugging Face token": secrets_of.HUGGING_FACE_TOKEN,
    "bearer header": "cAnArY.42x",
    "password of a database": "cAnArY-horse-battery",
}
"""What gives each away."""

ENVIRONMENT = {
    "GITHUB_TOKEN": secrets_of.GITHUB_TOKEN,
    "HF_TOKEN": secrets_of.HUGGING_FACE_TOKEN,
    "DATA_HEADER": secrets_of.BEARER,
    "KAGGLEOPS_INDEX": secrets_of.DATABASE,
}
"""What somebody has in the environment of a shell."""


def marks_in(content: str | bytes, more: Iterable[str] = ()) -> set[str]:
    """Return the kinds of the secrets in a text, or in a file as it is or unpacked."""
    data = content.encode(errors="replace") if isinstance(content, str) else content
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    marks = {**MARKS, **{value: value for value in more}}
    return {kind for kind, mark in marks.items() if mark.encode() in data}


def found_below(*folders: Path, more: Iterable[str] = ()) -> dict[str, set[str]]:
    """Return the files below folders that hold secrets, with their kinds."""
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    found = {str(file): marks_in(file.read_bytes(), more) for file in files}
    return {name: kinds for name, kinds in found.items() if kinds}


def found_in_bucket(
    server: GcsServer, bucket: str, more: Iterable[str] = ()
) -> dict[str, set[str]]:
    """Return the objects of a bucket that hold secrets, with their kinds."""
    objects = server.objects(bucket)
    found = {key: marks_in(key.encode() + stored.data, more) for key, stored in objects.items()}
    found |= {key: marks_in(stored.data, more) for key, stored in objects.items()}
    return {key: kinds for key, kinds in found.items() if kinds}


class CommandLines(threading.Thread):
    """Looks at the command lines of all processes of this machine for as long as a block runs."""

    def __init__(self, more: Iterable[str] = ()) -> None:
        super().__init__(daemon=True)
        self._over = threading.Event()
        self._more = tuple(more)
        self.looks = 0
        self.found: dict[str, set[str]] = {}
        """Those with secrets in them, with their kinds."""

    def __enter__(self) -> "CommandLines":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        """Look until the block is over."""
        over = False
        while not over:
            self.looks += 1
            for process in os.listdir("/proc"):  # noqa: PTH208 - often, and nothing but names
                if process.isdigit():
                    self._look(Path("/proc") / process / "cmdline")
            over = self._over.wait(0.02)

    def _look(self, file: Path) -> None:
        try:
            line = file.read_bytes()
        except OSError:
            return  # it has ended
        if kinds := marks_in(line, self._more):
            self.found[line.replace(b"\0", b" ").decode(errors="replace")] = kinds
