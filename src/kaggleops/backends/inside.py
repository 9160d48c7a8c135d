"""Names that came from elsewhere, kept inside the folder that they are meant for."""

from pathlib import Path, PurePosixPath

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
        raise KaggleOpsError(doing, "its name points out of the folder, so it is left there")
    path = directory.joinpath(*parts)
    if not path.resolve().is_relative_to(directory.resolve()):
        raise KaggleOpsError(doing, "a link leads it out of the folder, so it is left there")
    return path
