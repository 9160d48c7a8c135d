"""Where a resource's files lie on this platform.

- Kaggle mounts what is attached to a notebook below /kaggle/input: it is used where it is.
- In Kaggle's image on another machine they go to /kaggle/input, as Kaggle would have mounted them.
- A pod's own disk is gone with the pod, so there they go to the volume, once for all pods.
- Elsewhere they go to their destination below the project, or below the folder that
  `kaggleops run` names: a run is made in a fresh clone, and its data need not be fetched again.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from kaggleops.platforms import detect
from kaggleops.platforms.machine import Platform
from kaggleops.resources.addresses import OnKaggle
from kaggleops.resources.files import File
from kaggleops.resources.lock import Locked
from kaggleops.resources.manifest import Resource

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


def folder_for(resource: Resource, project: Path, platform: Platform | None = None) -> Path:
    """Return the folder that a resource's files are fetched to."""
    platform = platform or detect()
    if platform.name == "kaggle-image" and platform.inputs:
        return platform.inputs / _called(resource)
    return data_root(project, platform) / resource.destination


def mounted_at(resource: Resource, locked: Locked, platform: Platform | None = None) -> Path | None:
    """Return the folder where the platform has mounted a resource; None if it has not.

    A folder counts that is called as the resource or as its source on Kaggle, and has all of the
    files with their sizes: where Kaggle mounts what has changed more than once.
    """
    platform = platform or detect()
    if platform.name != "kaggle" or platform.inputs is None:
        return None
    names = {resource.name, _called(resource)}
    return next(
        (
            folder
            for folder in _folders(platform.inputs)
            if folder.name in names and all(_is_there(folder, file) for file in locked.files)
        ),
        None,
    )


def _called(resource: Resource) -> str:
    """Return the last part of what a resource is called on Kaggle, or its name."""
    if isinstance(resource.address, OnKaggle):
        return resource.address.ref.rpartition("/")[2]
    return resource.name


def _is_there(folder: Path, file: File) -> bool:
    path = folder / file.name
    return path.is_file() and path.stat().st_size == file.size


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
