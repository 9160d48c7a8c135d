"""What can be imported: a file-store `mlruns`, in a folder or in a bucket.

- In a bucket it is laid out one object per file, as `gcloud storage rsync -r mlruns
  gs://bucket/mlruns` or `rclone copy` leaves it. Its entities are fetched to a temporary folder in
  as few requests as there are files; artifacts stay where they are until they are copied.
- A bucket of packed runs in a folder, as a notebook without internet leaves it in its output, is
  exported first.
- MLflow's file store reads more than it writes: other line ends, a `meta.yaml` without fields that
  came later. A file that was copied through an editor or another system, or written by MLflow 0.x,
  has that: it is brought as MLflow writes it today. Whatever else is not as MLflow writes it stays
  as it is, and is refused by validation.py.
- A run of stock MLflow has its commit in a tag that MLflow's UI can neither group by nor link: it
  gets the plain tags and the description of a run that was made here.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT

from kaggleops.bucket import Entry
from kaggleops.bucket.directory import DirectoryBucket
from kaggleops.errors import UsageError
from kaggleops.layout import (
    ARTIFACTS,
    MLRUNS,
    Kind,
    artifact_owner,
    is_experiment_id,
    is_run_id,
    parse_key,
)
from kaggleops.mlruns.archive import check_path
from kaggleops.mlruns.entity import META, BrokenEntityError, Entity, dump_yaml
from kaggleops.mlruns.export import export
from kaggleops.mlruns.folder import TRASH, entities_in
from kaggleops.mlruns.locations import artifact_path
from kaggleops.mlruns.places import Place, local_path
from kaggleops.mlruns.store import EntityStore
from kaggleops.mlruns.ui import END, commit_tags, described, with_note
from kaggleops.mlruns.validation import holds_points
from kaggleops.tags import NOTE, SHORT_COMMIT

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
        remote_artifacts: these, by the folder of their entity and their path in it.
    """

    name: str
    folder: Path
    problems: list[str] = field(default_factory=list)
    remote: Place | None = None
    remote_artifacts: dict[str, dict[str, Entry]] = field(default_factory=dict)

    def artifacts_in(self, folder: Path) -> tuple[Place, Mapping[str, Entry]]:
        """Return the artifacts in an entity's folder, by their path below its `artifacts`."""
        if self.remote is None:
            place = Place(folder / ARTIFACTS)
            found = dict(place.files()) if (folder / ARTIFACTS).is_dir() else {}
            self.problems += place.problems
            return place, found
        inside = folder.relative_to(self.folder).as_posix()
        return self.remote, self.remote_artifacts.get(inside, {})


@contextmanager
def opened(text: str, progress: Callable[[int, int], None] = lambda *_: None) -> Iterator[Source]:
    """Yield the `mlruns` that `text` names: a folder, a place in a bucket, or the folder above.

    A folder may also be a bucket of packed runs, or hold one called `bucket`. `progress` is called
    with how many files were fetched, and how many there are.

    Raises:
        UsageError: there is no `mlruns`.
        BucketError: it cannot be read.
    """
    doing = f"importing {text}"
    path = local_path(text)
    with tempfile.TemporaryDirectory(prefix="kaggleops-import-") as temporary:
        if path is None:
            yield _fetched(text, Path(temporary), doing, progress)
        elif (packed := _packed_bucket(path)) is None:
            yield _local(text, path, doing)
        else:
            folder = Path(temporary, MLRUNS)
            unpacked = export(
                EntityStore(DirectoryBucket(packed.absolute())), folder, artifacts=True
            )
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
    source = Source(text, path.absolute())
    source.problems += _torn(source.folder)
    _require_entities(source, [each.name for each in path.iterdir()], doing)
    return source


def _fetched(text: str, folder: Path, doing: str, progress: Callable[[int, int], None]) -> Source:
    place = Place(text)
    files = dict(place.files())
    if not files:
        raise UsageError(doing, "nothing lies there", "Check the address.")
    if not any(map(_is_main_file, files)) and any(path.startswith(f"{MLRUNS}/") for path in files):
        return _fetched(f"{text.rstrip('/')}/{MLRUNS}", folder, doing, progress)
    source = Source(text, folder, place.problems, remote=place)
    wanted = []
    for path, entry in files.items():
        if artifact_owner(path.removeprefix(f"{TRASH}/")) is not None:
            owner, _, inside = path.partition(f"/{ARTIFACTS}/")
            source.remote_artifacts.setdefault(owner, {})[inside] = entry
        elif path.count("/") and parse_key(f"{MLRUNS}/{path}") is None:
            wanted.append(entry)
    for start in range(0, len(wanted), _AT_ONCE):
        for path, data in place.read(wanted[start : start + _AT_ONCE]):
            _put(source, path, data, doing)
        progress(min(start + _AT_ONCE, len(wanted)), len(wanted))
    source.problems += _torn(folder)
    _require_entities(source, list(files), doing)
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


def _require_entities(source: Source, names: list[str], doing: str) -> None:
    if any(entities_in(source.folder)):
        return
    keys = [name if name.startswith(f"{MLRUNS}/") else f"{MLRUNS}/{name}" for name in names]
    if any(parse_key(key) for key in keys):
        hint = "Copy it to a folder first (rclone copy), and import that."
        raise UsageError(doing, "it is a bucket of packed runs, no file-store mlruns", hint)
    raise UsageError(doing, "it is no file-store mlruns", _HINT)


def _packed_bucket(path: Path) -> Path | None:
    """Return the root of the bucket of packed runs that a path means, if it means one."""
    for root in (path, path.parent, path / "bucket"):
        packed = (parse_key(f"{MLRUNS}/{file.name}") for file in (root / MLRUNS).glob("*.tar.gz"))
        if any(packed) and (root != path.parent or path.name == MLRUNS):
            return root
    return None


def modernized(entity: Entity) -> Entity:
    """Return an entity as MLflow would write it now: itself, where it is that already."""
    changed: dict[str, bytes] = {}
    if entity.id.kind in (Kind.RUN, Kind.LOGGED_MODEL):
        for path, data in entity.files.items():
            if path.startswith("metrics/") and not holds_points(entity.id.kind, data):
                changed[path] = _points(data)
    if META in entity.files:
        changed[META] = _meta(entity)
    changed = {path: data for path, data in changed.items() if data != entity.files[path]}
    return replace(entity, files={**entity.files, **changed}) if changed else entity


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
    # MLflow 0.x kept it in the run's own file.
    sha = tags.get(MLFLOW_GIT_COMMIT, "").strip() or str(run.meta.get("source_version") or "")
    new = commit_tags({**tags, MLFLOW_GIT_COMMIT: sha})
    note = tags.get(NOTE, "")
    if SHORT_COMMIT in new:
        new[MLFLOW_GIT_COMMIT] = sha
        if END not in note:
            new[NOTE] = with_note(described({**tags, **new}), note)
    files = {f"tags/{tag}": value.encode() for tag, value in new.items()}
    return replace(run, files={**run.files, **files})


def _points(data: bytes) -> bytes:
    """Return a metric's file with the line ends that MLflow writes, and no other blanks."""
    return b"".join(line.strip() + b"\n" for line in data.splitlines() if line.strip())


def _meta(entity: Entity) -> bytes:
    try:
        meta = entity.meta
    except BrokenEntityError:
        return entity.files[META]
    new = {**meta, **_lacking(entity, meta)}
    return entity.files[META] if new == meta else dump_yaml(new)


def _lacking(entity: Entity, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that a `meta.yaml` of an older MLflow has no or another word for."""
    if entity.id.kind is Kind.EXPERIMENT:
        return {} if "lifecycle_stage" in meta else {"lifecycle_stage": "active"}
    if entity.id.kind is not Kind.RUN:
        return {}
    found: dict[str, Any] = {}
    if "run_id" not in meta and "run_uuid" in meta:
        found["run_id"] = meta["run_uuid"]
    if "end_time" not in meta:
        found["end_time"] = None
    if not isinstance(meta.get("artifact_uri"), str):
        found["artifact_uri"] = MLRUNS + artifact_path(entity.id)
    return found
