"""Files that came from elsewhere, each by itself, kept inside the folder they are meant for."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from kaggleops.errors import KaggleOpsError


def inside(directory: Path, name: str) -> Path:
    """Return where a file of that name lies in a folder.

    Args:
        directory: the folder; it need not be there yet.
        name: a relative path with forward slashes.

    Raises:
        KaggleOpsError: it would lie outside.
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
    """What was brought from a platform.

    Args:
        files: where they lie now.
        problems: one line for each file that was refused, or did not arrive whole.
    """

    files: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def keep(self, directory: Path, name: str, write: Callable[[IO[bytes]], object]) -> None:
        """Keep a file, which gets its name when all of it is written.

        Whatever is wrong with it (its name, its content, a full disk) is noted, and no half of it
        is left.

        Args:
            directory: nothing is written outside it.
            name: a relative path with forward slashes.
            write: writes the content; it may raise KaggleOpsError.
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
