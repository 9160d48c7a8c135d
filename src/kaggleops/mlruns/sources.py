"""What can be imported: a file-store `mlruns`, on this disk or behind any address fsspec opens.

A bucket of packed runs on this disk, as a notebook without internet leaves it in its output, is
unpacked into one first.

One in a bucket is laid out one object per file, as `gsutil rsync mlruns gs://bucket/mlruns` leaves
it. Its entities are fetched to a temporary folder in as few requests as there are files; artifacts
stay where they are until they are copied.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kaggleops.bucket.directory import DirectoryBucket
from kaggleops.bucket.keys import is_key
from kaggleops.errors import UsageError
from kaggleops.mlruns.archive import check_path
from kaggleops.mlruns.entity import META, BrokenEntityError
from kaggleops.mlruns.export import export
from kaggleops.mlruns.folder import TRASH, entities_in
from kaggleops.mlruns.layout import (
    MLRUNS,
    artifact_owner,
    is_experiment_id,
    is_run_id,
    parse_key,
)
from kaggleops.mlruns.places import File, LocalPlace, Place, local_path, place_at
from kaggleops.mlruns.store import EntityStore

_HINT = "Name the mlruns folder itself: it holds one folder, with a meta.yaml, for each experiment."
_RUN_FOLDERS = ("metrics", "params", "tags", "artifacts")
_AT_ONCE = 256


@dataclass
class Source:
    """A file-store `mlruns` whose entities lie on this disk.

    Args:
        name: as the user named it.
        folder: where its entities lie.
        problems: what in it cannot be an entity, each with its name and the reason.
        remote: where its artifacts lie, if that is not in the folder.
        remote_artifacts: these, by the folder of their entity.
    """

    name: str
    folder: Path
    problems: list[str] = field(default_factory=list)
    remote: Place | None = None
    remote_artifacts: dict[str, list[File]] = field(default_factory=dict)

    def artifacts_in(self, folder: Path) -> tuple[Place, dict[str, File]]:
        """Return the artifacts in an entity's folder, by their path below its `artifacts`."""
        if self.remote is None:
            place = LocalPlace(folder / "artifacts")
            found = {file.path: file for file in place.files()}
            self.problems += map(linked, place.links)
            return place, found
        inside = folder.relative_to(self.folder).as_posix()
        files = self.remote_artifacts.get(inside, [])
        return self.remote, {file.path.removeprefix(f"{inside}/artifacts/"): file for file in files}


@contextmanager
def opened(text: str, progress: Callable[[int, int], None] = lambda *_: None) -> Iterator[Source]:
    """Yield the `mlruns` that `text` names.

    Args:
        text: a folder, or an address such as `gs://bucket/mlruns`; the folder above will do.
            A folder may also be a bucket of packed runs, or hold one called `bucket`.
        progress: called with how many files were fetched, and how many there are.

    Raises:
        UsageError: there is no `mlruns`.
        PlaceError: it cannot be read.
    """
    doing = f"importing {text}"
    path = local_path(text)
    if path is not None:
        packed = _packed_bucket(path)
        if packed is None:
            yield _local(text, path, doing)
            return
        with tempfile.TemporaryDirectory(prefix="kaggleops-import-") as folder:
            yield _unpacked(text, packed, Path(folder), doing)
        return
    with tempfile.TemporaryDirectory(prefix="kaggleops-import-") as folder:
        yield _fetched(text, Path(folder), doing, progress)


def _local(text: str, path: Path, doing: str) -> Source:
    if not path.exists():
        raise UsageError(doing, "it does not exist", "Check the path.")
    if not path.is_dir():
        raise UsageError(doing, "it is a file, and an mlruns is a folder", _HINT)
    if not any(path.iterdir()):
        raise UsageError(doing, "it is empty", _HINT)
    if not any(entities_in(path)) and any(entities_in(path / MLRUNS)):
        path = path / MLRUNS
    source = Source(text, path.absolute())
    source.problems += _torn(source.folder)
    _require_entities(source, [each.name for each in path.iterdir()], doing)
    return source


def _fetched(text: str, folder: Path, doing: str, progress: Callable[[int, int], None]) -> Source:
    place = place_at(text)
    files = list(place.files())
    if not files:
        raise UsageError(doing, "nothing lies there", "Check the address.")
    if not any(_is_main_file(file.path) for file in files):
        below = [file for file in files if file.path.startswith(f"{MLRUNS}/")]
        if below:
            return _fetched(f"{text.rstrip('/')}/{MLRUNS}", folder, doing, progress)
    source = Source(text, folder, remote=place)
    wanted = []
    for file in files:
        owner = artifact_owner(file.path.removeprefix(f"{TRASH}/"))
        if owner is not None:
            inside = file.path[: file.path.index("/artifacts/")]
            source.remote_artifacts.setdefault(inside, []).append(file)
        elif not is_key(file.path):
            source.problems.append(f"{doing}: no file can have the name {file.path[:200]!r}.")
        elif file.path.count("/") and parse_key(f"{MLRUNS}/{file.path}") is None:
            wanted.append(file.path)
    for start in range(0, len(wanted), _AT_ONCE):
        for path, data in place.read(wanted[start : start + _AT_ONCE]).items():
            _put(source, path, data, doing)
        progress(min(start + _AT_ONCE, len(wanted)), len(wanted))
    source.problems += _torn(folder)
    _require_entities(source, [file.path for file in files], doing)
    return source


def _is_main_file(path: str) -> bool:
    parts = path.removeprefix(f"{TRASH}/").split("/")
    return len(parts) == 2 and parts[1] == META and is_experiment_id(parts[0])


def _put(source: Source, path: str, data: bytes, doing: str) -> None:
    try:
        check_path(path, f"{doing}/{path[:200]}")
        file = source.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    except (BrokenEntityError, OSError) as error:
        # Names that no folder could hold: "a" beside "a/b", "../x", a part of 300 bytes.
        source.problems.append(str(error))


def _torn(folder: Path) -> Iterator[str]:
    """Name the folders that would be experiments or runs, had they their `meta.yaml`."""
    for home in (*_folders(folder), *_folders(folder / TRASH)):
        if not is_experiment_id(home.name) and home.name != "models":
            continue
        if home.is_symlink():
            yield linked(home)
            continue
        inside = list(_folders(home))
        yield from (linked(each) for each in inside if each.is_symlink())
        if home.name == "models":
            continue
        if not (home / META).is_file() and inside:
            yield f"importing {home}: it has no {META}, so no experiment. It was passed over."
            continue
        for run in inside:
            looks_like_one = any((run / name).is_dir() for name in _RUN_FOLDERS)
            if is_run_id(run.name) and looks_like_one and not (run / META).is_file():
                yield f"importing {run}: it has no {META}, so no run. It was passed over."


def linked(path: str | Path) -> str:
    """Say that a link was passed over."""
    return f"importing {path}: it is a symbolic link out of its folder. It was passed over."


def _folders(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []


def _require_entities(source: Source, names: list[str], doing: str) -> None:
    if any(entities_in(source.folder)):
        return
    keys = [name if name.startswith(f"{MLRUNS}/") else f"{MLRUNS}/{name}" for name in names]
    if any(parse_key(key) for key in keys):
        hint = "Copy it to a folder first (gcloud storage rsync -r), and import that."
        raise UsageError(doing, "it is a bucket of packed runs, no file-store mlruns", hint)
    raise UsageError(doing, "it is no file-store mlruns", _HINT)


def _packed_bucket(path: Path) -> Path | None:
    """Return the root of the bucket of packed runs that a path means, if it means one."""
    for root in (path, path.parent, path / "bucket"):
        packed = (parse_key(f"{MLRUNS}/{file.name}") for file in (root / MLRUNS).glob("*.tar.gz"))
        if any(packed) and (root != path.parent or path.name == MLRUNS):
            return root
    return None


def _unpacked(text: str, root: Path, folder: Path, doing: str) -> Source:
    store = EntityStore(DirectoryBucket(root.absolute()))
    unpacked = export(store, folder / MLRUNS, artifacts=True)
    source = _local(text, folder / MLRUNS, doing)
    source.problems += unpacked.problems
    return source
