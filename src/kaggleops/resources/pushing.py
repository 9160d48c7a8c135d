"""Upload a folder and declare it: the link is written down before anyone needs it."""

from collections.abc import Callable, Set
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from kaggleops.bucket import ABSENT, Bucket, ConflictError, open_bucket
from kaggleops.bucket.keys import check_key
from kaggleops.errors import UsageError
from kaggleops.resources.editing import add_entries, with_entries
from kaggleops.resources.fetching import WORKERS
from kaggleops.resources.lock import Locked
from kaggleops.resources.locking import lock
from kaggleops.resources.manifest import MANIFEST, read_manifest
from kaggleops.resources.origins import Progress
from kaggleops.resources.slices import all_of
from kaggleops.resources.staging import FOLDER


def push(
    path: Path,
    folder: Path,
    uri: str,
    name: str,
    description: str = "",
    begin: Callable[[int], object] = lambda size: None,
    progress: Progress = lambda size: None,
) -> Locked:
    """Upload a folder's files, declare them in the manifest, and lock them.

    What is there already with the same content is left alone.

    Args:
        path: the manifest.
        folder: what to upload. Where it lies in the project, it is the destination, too.
        uri: where to, `gs://BUCKET/PREFIX`.
        name: what to call it.
        description: for people.
        begin: is called once, with the bytes that go.
        progress: is called with the bytes that have gone.

    Raises:
        UsageError: there is nothing to upload, the manifest has that name already, or what it
            would say is not right.
        ConflictError: something else is at that place.
    """
    doing = f"pushing {folder}"
    files = sorted(
        each for each in folder.rglob("*") if each.is_file() and FOLDER not in each.parts
    )
    if not files:
        raise UsageError(doing, "it holds no files" if folder.is_dir() else "there is no folder")
    if path.exists() and name in read_manifest(path).resources:
        raise UsageError(doing, f"{path} declares {name} already", "Choose another --name.")
    keys = {file: file.relative_to(folder).as_posix() for file in files}
    for key in keys.values():
        check_key(key, doing)
    bucket = open_bucket(uri)
    project = path.parents[len(MANIFEST.parts) - 1].resolve()
    inside = folder.resolve().is_relative_to(project) and folder.resolve() != project
    destination = folder.resolve().relative_to(project).as_posix() if inside else ""
    fields = {"source": bucket.uri, "destination": destination, "description": description}
    with_entries(path, {name: fields})  # before anything goes: what is not right is not declared
    bucket.prepare()
    _refuse_others(bucket, set(keys.values()), doing)
    begin(sum(file.stat().st_size for file in files))

    def upload(file: Path) -> None:
        try:
            bucket.write(keys[file], file, expected=ABSENT)
        except ConflictError as error:
            hint = "Push it to another place: what others have locked there must stay."
            raise ConflictError(error.doing, "another file is there already", hint) from error
        progress(file.stat().st_size)

    with ThreadPoolExecutor(WORKERS, thread_name_prefix="push") as pool:
        all_of(pool.submit(partial(upload, file)) for file in files)
    return lock(add_entries(path, {name: fields}), [name])[name]


def _refuse_others(bucket: Bucket, keys: Set[str], doing: str) -> None:
    """Refuse a place that holds anything else: the entry would mean that, too.

    Raises:
        ConflictError: it does.
    """
    other = next((entry.key for entry in bucket.list() if entry.key not in keys), None)
    if other is not None:
        problem = f"{bucket.uri} holds other files, such as {other}"
        raise ConflictError(doing, problem, f"Push it to a place of its own: {bucket.uri}/….")
