"""An entity's files, by the folders they lie in."""

from collections import defaultdict
from collections.abc import Mapping

from kaggleops.mlruns import Entity

Files = Mapping[str, bytes]


def by_folder(entity: Entity) -> Mapping[str, Files]:
    """Return the entity's files by the first part of their paths, then by the rest of them.

    A folder that is not there is empty.
    """
    folders: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
    for path, data in entity.files.items():
        folder, _, name = path.partition("/")
        folders[folder][name] = data
    return folders


def texts(files: Files) -> list[tuple[str, str]]:
    """Return params or tags: their keys and values."""
    return [(key, value.decode()) for key, value in files.items()]
