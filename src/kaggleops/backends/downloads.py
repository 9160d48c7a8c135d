"""Files that came from elsewhere, each by itself, kept inside the folder they are meant for.

What a run has left comes into one folder: its artifacts at their own paths, and what its job left
on the platform below `output/`.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from kaggleops.errors import KaggleOpsError, explained, first_line


def inside(directory: Path, name: str) -> Path:
    """Return where a file of that name (relative, with forward slashes) lies in a folder.

    The folder need not be there yet. Raises KaggleOpsError if the file would lie outside of it.
    """
    doing = f"downloading {name!r}"
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        raise KaggleOpsError(doing, "its name leads out of the folder, so it is left there")
    path = directory.joinpath(*parts)
    if not path.resolve().is_relative_to(directory.resolve()):
        raise KaggleOpsError(doing, "a link leads it out of the folder, so it is left there")
    return path


@dataclass(frozen=True)
class Downloaded:
    """What was brought from a platform."""

    files: list[Path] = field(default_factory=list)  # where they lie now
    # one line for each file that was refused, or did not arrive whole
    problems: list[str] = field(default_factory=list)

    def keep(self, directory: Path, name: str, write: Callable[[IO[bytes]], object]) -> None:
        """Keep a file below a directory; it gets its name (as for `inside`) when all is written.

        Whatever is wrong with it (its name, its content, a full disk, a KaggleOpsError that `write`
        raises) is noted, and no half of it is left.
        """
        temporary = None
        try:
            path = inside(directory, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".kaggleops-")
            with os.fdopen(handle, "wb") as file:
                write(file)
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
            self.files.append(path)
        except KaggleOpsError as error:
            self.problems.append(str(error))
        except OSError as error:
            problem = error.strerror or str(error)
            self.problems.append(str(KaggleOpsError(f"downloading {name!r}", problem)))
        finally:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)


def download_artifacts(client: MlflowClient, run_id: str, directory: Path) -> Downloaded:
    """Bring a run's artifacts into a folder; one that does not come is a problem of the result."""
    try:
        if not client.list_artifacts(run_id):
            return Downloaded()
    except MlflowException as error:  # they are said to lie outside of the bucket, for one
        return Downloaded(problems=[str(error.message)])
    directory.mkdir(parents=True, exist_ok=True)
    problems = []
    with tempfile.TemporaryDirectory(dir=directory, prefix=".kaggleops-") as scratch:
        try:
            client.download_artifacts(run_id, "", scratch)
        except Exception:  # noqa: BLE001 - whatever it was, which file it was is seen one by one
            problems = list(_one_by_one(client, run_id, "", Path(scratch)))
        came = sorted(path for path in Path(scratch).rglob("*") if path.is_file())
        files = [inside(directory, path.relative_to(scratch).as_posix()) for path in came]
        for path, file in zip(came, files, strict=True):
            file.parent.mkdir(parents=True, exist_ok=True)
            path.replace(file)
    return Downloaded(files, problems)


def _one_by_one(client: MlflowClient, run_id: str, path: str, directory: Path) -> Iterator[str]:
    """Download the artifacts below a path; yield what is wrong with each that does not come."""
    for each in client.list_artifacts(run_id, path or None):
        if each.is_dir:
            yield from _one_by_one(client, run_id, each.path, directory)
            continue
        try:
            kept = inside(directory, each.path)
            kept.unlink(missing_ok=True)  # it may be half of it
            with tempfile.TemporaryDirectory(dir=directory, prefix=".kaggleops-") as folder:
                came = client.download_artifacts(run_id, each.path, folder)
                kept.parent.mkdir(parents=True, exist_ok=True)
                Path(came).replace(kept)
        except Exception as error:  # noqa: BLE001 - a full disk, a bucket that does not answer
            said = first_line(explained(error) or error)
            yield str(KaggleOpsError(f"downloading {each.path!r}", said))
