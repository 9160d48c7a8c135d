"""Where a resource's files lie on this platform.

- Kaggle mounts what is attached to a notebook below /kaggle/input: it is used where it is.
- In Kaggle's image on another machine they go to /kaggle/input, as Kaggle would have mounted them.
  It is read-only there, as on Kaggle: the same folder is /kaggle/input-rw, too, where they arrive.
- A pod's own disk is gone with the pod, so there they go to the volume, once for all pods.
- Elsewhere they go to their destination below the project, or below the folder that
  `kaggleops run` names: a run is made in a fresh clone, and its data need not be fetched again.

Kaggle's mounts, below /kaggle/input, are

    tweets                     or  competitions/tweets
    embeddings                 or  datasets/ada/embeddings
    gemma/transformers/2b/1    or  models/google/gemma/transformers/2b/1

and what somebody has put into a dataset called as the resource is mounted as that dataset.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from kaggleops.platforms import detect
from kaggleops.resources.files import File, Placed, state_of
from kaggleops.resources.lock import Locked
from kaggleops.resources.manifest import Manifest, OnKaggle, Resource

DATA_ROOT = "KAGGLEOPS_DATA"
"""The environment variable for the folder below which destinations lie, if not the project's."""


_WRITABLE = "input-rw"  # beside `input`, in backends/docker.py and infra/kaggle-image


def data_root(project: Path) -> Path:
    """Return the folder below which the destinations of a project in a folder lie."""
    if named := os.environ.get(DATA_ROOT):
        return Path(named)
    platform = detect()
    return platform.folder / "kaggleops" if platform.name == "runpod" else project


def folder_for(resource: Resource, manifest: Manifest) -> Path:
    """Return the folder that a resource's files are fetched to; no other's are."""
    platform = detect()
    if platform.name == "kaggle-image" and platform.inputs:
        arrive = platform.inputs.with_name(_WRITABLE)
        inputs = arrive if arrive.is_dir() else platform.inputs
        return inputs / _folder_of(resource, manifest.resources.values())
    return data_root(manifest.project) / resource.destination


def as_read(path: Path) -> Path:
    """Return where people look for what lies in a resource's folder: below /kaggle/input."""
    inputs = detect().inputs
    if inputs and path.is_relative_to(inputs.with_name(_WRITABLE)):
        return inputs / path.relative_to(inputs.with_name(_WRITABLE))
    return path


def mounted_at(
    resource: Resource, locked: Locked, manifest: Manifest, placed: Placed
) -> Path | None:
    """Return the folder where the platform has mounted a resource; None if it has not.

    A folder counts that is called as the resource or as its source on Kaggle, and has all of the
    files with their sizes. Where it may as well be another's of the manifest, they are read.
    """
    platform = detect()
    if platform.name != "kaggle" or platform.inputs is None:
        return None
    others = {
        folder
        for other in manifest.resources.values()
        if other.address != resource.address
        for folder in _mounts_of(other, platform.inputs)
    }
    for folder in _mounts_of(resource, platform.inputs):
        if all(_is_there(folder, file) for file in locked.files) and (
            folder not in others
            or all(state_of(folder / file.name, file, placed) == "right" for file in locked.files)
        ):
            return folder
    return None


def _is_there(folder: Path, file: File) -> bool:
    path = folder / file.name
    return path.is_file() and path.stat().st_size == file.size


def _folder_of(resource: Resource, resources: Iterable[Resource]) -> PurePosixPath:
    """Return the folder below /kaggle/input that is one resource's alone, of all."""
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


def _mounts_of(resource: Resource, inputs: Path) -> Iterator[Path]:
    """Yield the folders below `inputs` that may be a resource's, the likely ones first."""
    for usual in (*reversed(_usual(resource)), PurePosixPath(resource.name)):
        if (inputs / usual).is_dir():
            yield inputs / usual
    for above in ("*", "*/*"):  # competitions, datasets/USER
        yield from sorted(inputs.glob(f"{above}/{resource.name}"))


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
