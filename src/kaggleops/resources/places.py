"""Where a resource's files lie on this platform.

- Kaggle mounts what is attached to a notebook below /kaggle/input: it is used where it is.
- In Kaggle's image on another machine they go to /kaggle/input, as Kaggle would have mounted them.
- A pod's own disk is gone with the pod, so there they go to the volume, once for all pods.
- Elsewhere they go to their destination below the project, or below the folder that
  `kaggleops run` names: a run is made in a fresh clone, and its data need not be fetched again.

Kaggle's mounts are

    tweets                     or  competitions/tweets
    embeddings                 or  datasets/ada/embeddings
    gemma/transformers/2b/1    or  models/google/gemma/transformers/2b/1

It has changed that more than once, so a mount is looked for: by the end of its path, unless what
stands before that names another owner, or another kind.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath, PurePosixPath

from kaggleops.platforms import Platform, detect
from kaggleops.resources.addresses import OnKaggle
from kaggleops.resources.files import File, Placed, state_of
from kaggleops.resources.lock import Locked
from kaggleops.resources.manifest import Manifest, Resource

DATA_ROOT = "KAGGLEOPS_DATA"
"""The environment variable for the folder below which destinations lie, if not the project's."""

_DEPTH = 6  # of the folders below /kaggle/input: models/owner/model/framework/variation/version


def data_root(project: Path, platform: Platform | None = None) -> Path:
    """Return the folder below which destinations lie.

    Args:
        project: the project's folder.
        platform: this machine's by default.
    """
    platform = platform or detect()
    if named := os.environ.get(DATA_ROOT):
        return Path(named)
    return platform.folder / "kaggleops" if platform.name == "runpod" else project


def folder_for(resource: Resource, manifest: Manifest, platform: Platform | None = None) -> Path:
    """Return the folder that a resource's files are fetched to; no other's are."""
    platform = platform or detect()
    if platform.name == "kaggle-image" and platform.inputs:
        return platform.inputs / folder_of(resource, manifest.resources.values())
    return data_root(manifest.project, platform) / resource.destination


def mounted_at(
    resource: Resource,
    locked: Locked,
    manifest: Manifest,
    placed: Placed,
    platform: Platform | None = None,
) -> Path | None:
    """Return the folder where the platform has mounted a resource; None if it has not.

    A folder counts that is called as the resource or as its source on Kaggle, and has all of the
    files with their sizes. Where it may as well be another's of the manifest, they are read.

    Args:
        resource: which.
        locked: what it came to.
        manifest: the manifest that declares it.
        placed: what is known of this disk.
        platform: this machine's by default.
    """
    platform = platform or detect()
    if platform.name != "kaggle" or platform.inputs is None:
        return None
    for folder in mounts_of(resource, platform.inputs):
        if all(_is_there(folder, file) for file in locked.files) and (
            not _may_be_anothers(folder.relative_to(platform.inputs), resource, manifest)
            or all(state_of(folder / file.name, file, placed) == "right" for file in locked.files)
        ):
            return folder
    return None


def _is_there(folder: Path, file: File) -> bool:
    path = folder / file.name
    return path.is_file() and path.stat().st_size == file.size


def _may_be_anothers(folder: Path, resource: Resource, manifest: Manifest) -> bool:
    return any(
        is_called(folder, other)
        for other in manifest.resources.values()
        if other.address != resource.address
    )


# -- Kaggle's mounts ------------------------------------------------------------------------------


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
