"""Files that came from elsewhere, each by itself, kept inside the folder they are meant for.

What a run has left comes into one folder: its artifacts at their own paths, and what its job left
on the platform below `output/`.
"""

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from kaggleops.errors import KaggleOpsError, explained, first_line

_AT_ONCE = 8  # files


def inside(directory: Path, name: str) -> Path:
    """Return where a file of that name (relative, with forward slashes) lies in a folder.

    The folder need not be there yet. Raises KaggleOpsError if the file would lie outside of it.
    """
    doing = f"downloading {name!r}"
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
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

        Whatever is wrong with it (its name, its content, a full disk) is noted, and no half of it
        is left.
        """
        temporary = None
        try:
            path = inside(directory, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                dir=path.parent, prefix=".kaggleops-", delete=False
            ) as file:
                temporary = Path(file.name)
                write(file)
            temporary.chmod(0o644)
            temporary.replace(path)
            self.files.append(path)
        except KaggleOpsError as error:
            self.problems.append(str(error))
        except Exception as error:  # noqa: BLE001 - a full disk, a bucket that does not answer
            said = getattr(error, "strerror", None) or first_line(explained(error) or error)
            self.problems.append(str(KaggleOpsError(f"downloading {name!r}", said)))
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)


def download_artifacts(client: MlflowClient, run_id: str, directory: Path) -> Downloaded:
    """Bring a run's artifacts into a folder; one that does not come is a problem of the result."""
    brought = Downloaded()
    try:
        run = client.get_run(run_id)
        repository = get_artifact_repository(run.info.artifact_uri, client.tracking_uri)
        names = list(_files(repository, None))
    except MlflowException as error:  # they are said to lie outside of the bucket, for one
        return Downloaded(problems=[str(error.message)])
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for name in names:
            pool.submit(brought.keep, directory, name, partial(_fetch, repository, name))
    brought.files.sort()
    brought.problems.sort()
    return brought


def _files(repository: ArtifactRepository, folder: str | None) -> Iterator[str]:
    for each in repository.list_artifacts(folder):
        if each.is_dir:
            yield from _files(repository, each.path)
        else:
            yield each.path


def _fetch(repository: ArtifactRepository, name: str, file: IO[bytes]) -> None:
    repository._download_file(name, file.name)
