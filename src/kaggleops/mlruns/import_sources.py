"""What can be imported: a file-store `mlruns` in a folder.

- A bucket of packed runs in a folder, as a notebook without internet leaves it in its output, is
  exported first.
- A run of stock MLflow has its commit in a tag that MLflow's UI can neither group by nor link: it
  gets the plain tags and the description of a run that was made here.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from kaggleops.bucket.directory import DirectoryBucket
from kaggleops.bucket.location import local_path
from kaggleops.errors import UsageError
from kaggleops.layout import MLRUNS, Kind, is_experiment_id, is_run_id, parse_key
from kaggleops.mlruns.entity import META, Entity
from kaggleops.mlruns.export import export
from kaggleops.mlruns.folder import TRASH, entities_in
from kaggleops.mlruns.store import EntityStore
from kaggleops.mlruns.ui import END, commit_tags, described, with_note
from kaggleops.tags import NOTE, SHORT_COMMIT

_HINT = "Name the mlruns folder itself: it holds one folder, with a meta.yaml, for each experiment."
_RUN_FOLDERS = ("metrics", "params", "tags", "artifacts")


@dataclass
class Source:
    """A file-store `mlruns`."""

    name: str  # as the user named it
    folder: Path  # where it is
    # what in it cannot be an entity, each with its name and the reason
    problems: list[str] = field(default_factory=list)


@contextmanager
def opened(text: str) -> Iterator[Source]:
    """Yield the `mlruns` that `text` names: a folder, or the one above it.

    It may also be a bucket of packed runs, or hold one called `bucket`. Raises UsageError if there
    is no `mlruns`.
    """
    doing = f"importing {text}"
    path = local_path(text)
    if path is None:
        hint = "Copy it into a folder (gcloud storage rsync -r, rclone copy), and import that."
        raise UsageError(doing, "an import reads a folder", hint)
    if (packed := _packed_bucket(path)) is None:
        yield _local(text, path, doing)
        return
    with tempfile.TemporaryDirectory(prefix="kaggleops-import-") as temporary:
        folder = Path(temporary, MLRUNS)
        store = EntityStore(DirectoryBucket(packed.absolute()))
        unpacked = export(store, folder, artifacts=True)
        source = _local(text, folder, doing)
        source.problems += unpacked.problems
        yield source


def _local(text: str, path: Path, doing: str) -> Source:
    if not path.exists():
        raise UsageError(doing, "it does not exist", "Check the path.")
    if not path.is_dir():
        raise UsageError(doing, "it is a file, and an mlruns is a folder", _HINT)
    if not any(path.iterdir()):
        raise UsageError(doing, "it is empty", _HINT)
    if not any(entities_in(path)) and any(entities_in(path / MLRUNS)):
        path = path / MLRUNS
    if not any(entities_in(path)):
        raise UsageError(doing, "it is no file-store mlruns", _HINT)
    return Source(text, path.absolute(), list(_torn(path.absolute())))


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
            yield f"importing {home}: it has no {META}, so it is not an experiment. It was skipped."
            continue
        for run in inside:
            looks_like_one = any((run / name).is_dir() for name in _RUN_FOLDERS)
            if is_run_id(run.name) and looks_like_one and not (run / META).is_file():
                yield f"importing {run}: it has no {META}, so it is not a run. It was skipped."


def linked(path: str | Path) -> str:
    """Say that a link was passed over."""
    return f"importing {path}: it is a symbolic link out of its folder. It was skipped."


def _folders(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []


def _packed_bucket(path: Path) -> Path | None:
    """Return the root of the bucket of packed runs that a path means, if it means one."""
    for root in (path, path.parent, path / "bucket"):
        packed = (parse_key(f"{MLRUNS}/{file.name}") for file in (root / MLRUNS).glob("*.tar.gz"))
        if any(packed) and (root != path.parent or path.name == MLRUNS):
            return root
    return None


def with_commit(run: Entity) -> Entity:
    """Return a run with plain tags and a description that say which commit it is of.

    What it has of these already stays. The repository's address loses what it carries of
    credentials.
    """
    if run.id.kind is not Kind.RUN:
        return run
    tags = {
        path.removeprefix("tags/"): data.decode(errors="replace")
        for path, data in run.files.items()
        if path.startswith("tags/")
    }
    new, note = commit_tags(tags), tags.get(NOTE, "")
    if SHORT_COMMIT in new and END not in note:
        new[NOTE] = with_note(described({**tags, **new}), note)
    files = {f"tags/{tag}": value.encode() for tag, value in new.items()}
    return replace(run, files={**run.files, **files})
