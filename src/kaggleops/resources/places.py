"""Where a resource's files lie on this platform.

- Kaggle mounts what is attached to a notebook below /kaggle/input: it is used where it is.
- In Kaggle's image on another machine they go to /kaggle/input, as Kaggle would have mounted them.
- A pod's own disk is gone with the pod, so there they go to the volume, once for all pods.
- Elsewhere they go to their destination below the project, or below the folder that
  `kaggleops run` names: a run is made in a fresh clone, and its data need not be fetched again.
"""

import os
from pathlib import Path

from kaggleops.platforms import detect
from kaggleops.platforms.machine import Platform
from kaggleops.resources.fetching import state_of
from kaggleops.resources.files import File
from kaggleops.resources.lock import Locked
from kaggleops.resources.manifest import Manifest, Resource
from kaggleops.resources.mounts import folder_of, is_called, mounts_of
from kaggleops.resources.placed import Placed

DATA_ROOT = "KAGGLEOPS_DATA"
"""The environment variable for the folder below which destinations lie, if not the project's."""


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
