"""From an entry of the manifest to where its files come from: each kind of source, by its address.

A run's artifacts are a source, too: of one run, or of the best of an experiment and a commit.

Of a bucket, every request names the object's version, so all of a file is of one state, whenever it
comes: what was overwritten meanwhile is not mixed in but missing. An object that was written anew
with the same content is taken, whatever its version.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kaggleops.bucket import Bucket, BucketNotFoundError, Entry, ObjectNotFoundError, open_bucket
from kaggleops.bucket.location import is_remote, tracking_uri
from kaggleops.errors import UsageError
from kaggleops.platforms.settings import default_bucket
from kaggleops.resources.files import File
from kaggleops.resources.manifest import InBucket, OfRun, OnKaggle, OnTheWeb, Resource
from kaggleops.resources.origins import (
    ChangedError,
    GoneError,
    Origin,
    Progress,
    chosen,
    literal_starts,
)
from kaggleops.tags import PARENT, UNCOMMITTED


def origin_of(resource: Resource, project: Path, locked: str = "") -> Origin:
    """Return where a resource comes from; KaggleOpsError if there is no such place.

    The settings of the `project`'s folder name the bucket of its runs. `locked` is the run that was
    the best when it was locked (`Locked.origin`); "" to look anew.
    """
    # Each kind is imported only where it is used: none needs what the others do.
    match resource.address:
        case InBucket(uri):
            return BucketOrigin(uri)
        case OnKaggle():
            from kaggleops.resources.kaggle import KaggleOrigin

            return KaggleOrigin(resource.address)
        case OnTheWeb(url):
            from kaggleops.resources.web import WebOrigin

            return WebOrigin(url, resource.checksum, resource.token)
        case OfRun():
            bucket = default_bucket(project)
            if bucket is None:
                hint = "Write `bucket: gs://BUCKET` into config/local.yaml."
                raise UsageError(f"looking for {resource.source}", "no bucket is named", hint)
            return _artifacts_of(resource, resource.address, bucket, locked)


def _artifacts_of(resource: Resource, address: OfRun, bucket: str, locked: str) -> Origin:
    """Return where the artifacts of a run in a bucket lie."""
    # Not at the top: MLflow takes a second to import.
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient(tracking_uri(bucket))
    doing = f"looking for {resource.source}"
    best = address.run == OfRun.BEST
    run_id = locked or (_best(client, resource, doing) if best else address.run)
    try:
        artifacts: str = client.get_run(run_id).info.artifact_uri
    except MlflowException as error:
        hint = "`kaggleops status` lists the last runs."
        raise GoneError(doing, f"there is no run {run_id}", hint) from error
    there = open_bucket(bucket)
    inside = artifacts.removeprefix(f"{there.artifact_uri}/")
    if inside == artifacts:
        raise UsageError(doing, f"its artifacts are at {artifacts}", "Use a run of the bucket.")
    origin = BucketOrigin(there.uri, f"{inside}/{address.path}".rstrip("/"))
    origin.name = run_id if best else ""
    return origin


def _best(client: Any, resource: Resource, doing: str) -> str:
    """Return the id of the run that the entry means."""
    experiment = client.get_experiment_by_name(resource.experiment)
    if experiment is None:
        problem = f"there is no experiment {resource.experiment!r}"
        raise UsageError(doing, problem, "Check `experiment` in the manifest.")
    conditions = ["attributes.status = 'FINISHED'"]
    if resource.commit:
        conditions.append(f"tags.`mlflow.source.git.commit` LIKE '{resource.commit}%'")
    order = "ASC" if resource.lower_is_better else "DESC"
    found = client.search_runs(
        [experiment.experiment_id],
        filter_string=" AND ".join(conditions),
        order_by=[f"metrics.`{resource.metric}` {order}"],
    )
    best = next((run for run in found if not _is_patched(client, run)), None)
    if best is None or resource.metric not in best.data.metrics:
        where = f" of commit {resource.commit}" if resource.commit else ""
        problem = f"no finished run of {resource.experiment}{where} has {resource.metric}"
        raise UsageError(doing, problem, "Check `commit` and `metric` in the manifest.")
    run_id: str = best.info.run_id
    return run_id


def _is_patched(client: Any, run: Any) -> bool:
    """Tell whether a run, or one above it, is of uncommitted changes: it stands for no commit."""
    from mlflow.exceptions import MlflowException

    seen: set[str] = set()
    with suppress(MlflowException):  # the one above is gone for good
        while UNCOMMITTED not in run.data.tags:
            above = run.data.tags.get(PARENT)
            if not above or above in seen:
                return False
            seen.add(above)
            run = client.get_run(above)
        return True
    return False


_PATIENCE = 60.0  # seconds that a passing fault is retried


class _Part(io.FileIO):
    """A file that grows, and tells by how much, what was there included."""

    def __init__(self, path: Path, progress: Progress) -> None:
        super().__init__(path, "ab")
        self._progress = progress
        progress(self.tell())

    def write(self, content: Any) -> int:
        written = super().write(content)
        self._progress(written)
        return written


class BucketOrigin(Origin):
    """The objects below a folder of a bucket (`uri`, as `open_bucket` takes it); "": all of it."""

    def __init__(self, uri: str, folder: str = "") -> None:
        self._bucket: Bucket = open_bucket(uri, patience=_PATIENCE)
        self._folder = f"{folder}/" if folder else ""
        # The versions of a folder are those of this machine, so a lock does not name them.
        self._pinned = self.resumes = self.hands_out_many = is_remote(self._bucket.uri)

    def list(self, patterns: Sequence[str]) -> list[File]:
        """Ask once, class A, for every 1,000 objects that begin as one of the patterns does."""
        doing = f"listing {self._bucket.object_uri(self._folder.rstrip('/'))}"
        with _explained(doing):
            starts = literal_starts(patterns)
            found = (self._bucket.list(self._folder + start, checksums=True) for start in starts)
            return chosen((self._file(each) for some in found for each in some), patterns, doing)

    def detail(self, file: File) -> File:
        """Ask once or twice, class B, where the listing told no checksum; read a folder's file."""
        if file.known:
            return file
        doing = f"looking for {self._bucket.object_uri(self._folder + file.name)}"
        with _explained(doing):
            there = self._bucket.stat(self._folder + file.name, checksum=True)
        if there is None:
            hint = "Ask the bucket's owner, or lock what is there now: `kaggleops data lock`."
            raise GoneError(doing, "it is gone at the source", hint)
        return self._file(there)

    def read(self, file: File, into: Path, progress: Progress) -> None:
        """Ask once, class B, for what is missing of it."""
        if not self._pinned:
            try:
                self._bucket.fetch(self._folder + file.name, into)
            except ObjectNotFoundError as error:
                raise GoneError(error.doing, "it is gone at the source") from error
            progress(file.size)
            return
        with _Part(into, progress) as part:
            # The checksum is verified when all of it is there.
            try:
                self._bucket.read_span(self._entry(file), part, part.tell())
            except ObjectNotFoundError:
                same = self._same_now(file)
                self._bucket.read_span(self._entry(same), part, part.tell())

    def read_many(self, files: Sequence[File], take: Callable[[File, bytes], None]) -> None:
        """Ask once, class B, for each."""
        listed = {self._entry(file): file for file in files}
        self._bucket.read_many(list(listed), lambda entry, content: take(listed[entry], content))

    def _entry(self, file: File) -> Entry:
        return Entry(self._folder + file.name, file.version, file.size, checksum=file.checksum)

    def _file(self, entry: Entry) -> File:
        version = entry.version if self._pinned else ""
        return File(entry.key.removeprefix(self._folder), entry.size, version, entry.checksum)

    def _same_now(self, file: File) -> File:
        """Return the file as it is at the source now, if that is the same content."""
        found = self.detail(File(file.name))
        if not found.same_content(file):
            doing = f"fetching {self._bucket.object_uri(self._folder + file.name)}"
            problem = "it has changed at the source since it was locked"
            hint = "`kaggleops data status` shows what changed; `kaggleops data lock` accepts it."
            raise ChangedError(doing, problem, hint)
        return found


@contextmanager
def _explained(doing: str) -> Iterator[None]:
    try:
        yield
    except BucketNotFoundError as error:
        raise GoneError(doing, error.problem, "Check the address in the manifest.") from error
