"""Where Kaggle mounts a resource below /kaggle/input.

    tweets                     or  competitions/tweets
    embeddings                 or  datasets/ada/embeddings
    gemma/transformers/2b/1    or  models/google/gemma/transformers/2b/1

It has changed that more than once, so a mount is looked for: by the end of its path, unless what
stands before that names another owner, or another kind.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath, PurePosixPath

from kaggleops.resources.addresses import OnKaggle
from kaggleops.resources.manifest import Resource

_DEPTH = 6  # of the folders below /kaggle/input: models/owner/model/framework/variation/version


def folder_of(resource: Resource, resources: Iterable[Resource]) -> PurePosixPath:
    """Return the folder below /kaggle/input that is a resource's alone.

    Args:
        resource: which.
        resources: all that may go there.
    """
    taken = [
        folder
        for other in resources
        if other.name != resource.name
        for folder in (*_usual(other), PurePosixPath(other.name))
    ]
    for folder in _usual(resource):
        if not any(folder.is_relative_to(other) or other.is_relative_to(folder) for other in taken):
            return folder
    return PurePosixPath(resource.name)


def mounts_of(resource: Resource, inputs: Path) -> Iterator[Path]:
    """Yield the folders that may be a resource's, the likely ones first.

    Args:
        resource: which.
        inputs: the folder that everything is mounted below.
    """
    for usual in (*reversed(_usual(resource)), PurePosixPath(resource.name)):
        if (inputs / usual).is_dir():
            yield inputs / usual
    for folder in _folders(inputs):
        if is_called(folder.relative_to(inputs), resource):
            yield folder


def is_called(folder: PurePath, resource: Resource) -> bool:
    """Tell whether a folder is called as a resource, or as its source on Kaggle.

    Args:
        folder: relative to the one that everything is mounted below.
        resource: which.
    """
    if folder.name == resource.name:
        return True
    if not isinstance(resource.address, OnKaggle):
        return False
    # Kaggle writes a framework in small letters, its pages do not.
    parts = [part.lower() for part in folder.parts]
    short, full = (path.as_posix().lower().split("/") for path in _usual(resource))
    if parts[-len(short) :] != short:
        return False
    before = parts[: -len(short)]
    if before[-1:] == ["competitions"] or before[-2:-1] in (["datasets"], ["models"]):
        return parts[-len(full) :] == full
    return True


def _usual(resource: Resource) -> tuple[PurePosixPath, ...]:
    """Return where Kaggle mounts it: the short way, and the one that nothing else has."""
    address = resource.address
    if not isinstance(address, OnKaggle):
        return ()
    path = PurePosixPath(address.ref)
    if address.kind == "models":
        owner, model, framework, *version = path.parts
        path = PurePosixPath(owner, model, framework.lower(), *version)
    short = path if address.kind == "competitions" else path.relative_to(path.parts[0])
    return short, address.kind / path


def _folders(top: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """Yield the folders below one, the nearer first."""
    try:
        below = sorted(each for each in top.iterdir() if each.is_dir())
    except OSError:
        return
    yield from below
    if depth > 1:
        for each in below:
            yield from _folders(each, depth - 1)
