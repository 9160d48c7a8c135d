"""A marked secret of each kind, and where none of them may be found.

Every platform's own tests put them where that platform has them (a dataset, a secret, a private
file, the environment) and look here for what was left anywhere else: in the bucket, on disks, in
logs, notebooks, tags, and on the command lines of all processes meanwhile.
"""

import gzip
import io
import os
import threading
import zipfile
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from tests import secrets_of

if TYPE_CHECKING:
    from tests.fakes.object_server import ObjectServer

MARKS = {
    "service-account key": "CANARYa1B2c3D4",
    "authorized user": "0gCANARYCANARY",
    "Kaggle key": secrets_of.HEX,
    "RunPod key": secrets_of.RUNPOD_KEY,
    "S3 access key": secrets_of.S3_SECRET,
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


def marks_in(content: str | bytes) -> set[str]:
    """Return the kinds of the secrets in a text or a file: as it is, unpacked, or in base64."""
    data = _unpacked(content.encode(errors="replace") if isinstance(content, str) else content)
    return {kind for kind, mark in MARKS.items() if any(each in data for each in _forms(mark))}


@cache
def _forms(mark: str) -> tuple[bytes, ...]:
    """Return a mark, and what of it stands in the base64 of whatever has it in it."""
    encoded = []
    for before, begins in enumerate((0, 2, 3)):
        whole = b64encode(bytes(before) + mark.encode())
        encoded.append(whole[begins : (before + len(mark)) * 8 // 6])
    return mark.encode(), *encoded


def _unpacked(data: bytes) -> bytes:
    if data[:2] == b"\x1f\x8b":
        return gzip.decompress(data)
    if data[:4] == b"PK\x03\x04":
        with suppress(zipfile.BadZipFile), zipfile.ZipFile(io.BytesIO(data)) as packed:
            return b"\n".join(map(packed.read, packed.namelist()))
    return data


def found_below(*folders: Path) -> dict[str, set[str]]:
    """Return the files below folders that hold secrets, with their kinds.

    What lives in the folders goes on meanwhile: a file that has just gone is none.
    """
    found = {}
    for file in (file for folder in folders for file in _files_below(folder)):
        with suppress(FileNotFoundError):
            found[str(file)] = marks_in(str(file).encode(errors="replace") + b"\n")
            found[str(file)] |= marks_in(file.read_bytes())
    return {name: kinds for name, kinds in found.items() if kinds}


def _files_below(folder: Path) -> Iterator[Path]:
    for above, _, names in os.walk(folder):
        yield from (file for name in names if (file := Path(above, name)).is_file())


def open_to_others(state: Path) -> set[str]:
    """Return what others may read or enter of what is below a state folder.

    MLflow's own file store writes the files of a working copy with the training's umask; the
    folder of the working copy is closed.
    """
    found = set()
    for path in sorted(state.rglob("*")):
        inside = path.relative_to(state)
        if path.is_symlink() or (inside.parts[0] == "outbox" and "mlruns" in inside.parts[3:]):
            continue
        if path.stat().st_mode & 0o077:
            found.add(str(inside))
    return found


def found_in_bucket(server: "ObjectServer", bucket: str) -> dict[str, set[str]]:
    """Return the objects of a bucket that hold secrets, with their kinds."""
    objects = server.objects(bucket)
    found = {key: marks_in(key) | marks_in(stored.data) for key, stored in objects.items()}
    return {key: kinds for key, kinds in found.items() if kinds}


class CommandLines(threading.Thread):
    """Looks at the command lines of all processes of this machine for as long as a block runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._over = threading.Event()
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
            over = self._over.wait(0.05)

    def _look(self, file: Path) -> None:
        try:
            line = file.read_bytes()
        except OSError:
            return  # it has ended
        if kinds := marks_in(line):
            self.found[line.replace(b"\0", b" ").decode(errors="replace")] = kinds
