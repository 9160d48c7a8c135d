"""Kaggle's image on a machine of your own, as a backend.

A run's container is called after the run, so whoever submits it again finds it there. The engine
keeps its state and its log until `kaggleops cleanup`; /kaggle/working is a folder of the host, and
everything else that the container wrote goes with it.
"""

import codecs
import functools
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, ClassVar

from kaggleops.backends.base import Backend, RefusedError
from kaggleops.backends.docker.config import DockerConfig
from kaggleops.backends.docker.engine import GoneError, connect, explained
from kaggleops.backends.inside import inside
from kaggleops.backends.jobs import UNKNOWN, JobState
from kaggleops.backends.remote_run import Downloaded
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.platforms.sign_in import KEY_FILE

CONTAINER = "container"
"""The tag of a run that names its container."""

ENGINE = "container_engine"
"""The tag of a run with the id of the engine that has its container."""

WORKING = "/kaggle/working"
_INPUT = "/kaggle/input"
_NOTEBOOK = "/kaggle/src/run.ipynb"
_KEY = f"/{KEY_FILE}"

_STATUSES = {
    "created": "SCHEDULED",
    "running": "RUNNING",
    "paused": "RUNNING",
    "restarting": "RUNNING",
}


class DockerBackend(Backend[DockerConfig]):
    """Runs commits in Kaggle's image."""

    name: ClassVar[str] = "docker"
    config_type = DockerConfig

    @functools.cached_property
    def _engine(self) -> Any:
        return connect()

    # -- submitting ---------------------------------------------------------------------------

    def check(self, tracking_uri: str, config: DockerConfig) -> None:
        """Make sure that there are an engine, the image and the bucket's key."""
        doing = "submitting to a container"
        if not tracking_uri.startswith("gs://"):
            hint = "Take a bucket of Cloud Storage: --bucket gs://BUCKET; or run without -b."
            raise UsageError(doing, f"it cannot reach {tracking_uri}", hint)
        if not config.key_file.is_file():
            problem = f"there is no key of the bucket, {config.key_file}"
            raise UsageError(doing, problem, "Make it: `kaggleops credentials create docker`.")
        engine = self._engine
        try:
            with explained(doing):
                engine.images.get(config.image_name)
        except GoneError:
            # It is tens of gigabytes: nobody should wait for it unasked.
            problem = f"the image {config.image_name} is not on this machine"
            raise UsageError(doing, problem, f"docker pull {config.image_name}") from None

    def place(self, run_id: str, config: DockerConfig) -> dict[str, str]:
        """Return the tags that name the container, and the engine that has it."""
        return {CONTAINER: f"kaggleops-{run_id}", ENGINE: self._engine_id()}

    def _engine_id(self) -> str:
        engine = self._engine
        with explained("asking the container engine"):
            return str(engine.info()["ID"])

    def send(self, tags: Mapping[str, str], notebook: str, config: DockerConfig) -> None:
        """Start a container, unless one of this run is at work."""
        name = tags[CONTAINER]
        try:
            there = self._container(tags)
            if there.status not in _STATUSES:  # it has ended: this is another attempt
                with explained(f"removing the container {name}"):
                    there.remove(v=True)
                there = None
        except GoneError:
            there = None
        if there is None:
            there = self._created(name, notebook, config)
        if there.status == "created":
            try:
                with explained(f"starting the container {name}"):
                    there.start()
            except RefusedError:
                with explained(f"removing the container {name}"):
                    there.remove(v=True)
                raise

    def _created(self, name: str, notebook: str, config: DockerConfig) -> Any:
        from docker.types import DeviceRequest, Mount

        kept = config.output_folder / name
        source = kept / "notebook"
        try:
            for folder in (config.input_folder, kept / "working", source):
                folder.mkdir(parents=True, exist_ok=True)
            (source / Path(_NOTEBOOK).name).write_text(notebook)
        except OSError as error:
            raise KaggleOpsError(f"preparing {kept}", str(error)) from error
        # Not by the short syntax: for a folder that is missing, it would make an empty one.
        mounts = [
            Mount(WORKING, str(kept / "working"), type="bind"),
            Mount(str(Path(_NOTEBOOK).parent), str(source), type="bind"),
            Mount(_INPUT, str(config.input_folder), type="bind", read_only=True),
            Mount(_KEY, str(config.key_file), type="bind", read_only=True),
        ]
        gpus = [DeviceRequest(count=config.gpu_count, capabilities=[["gpu"]])]
        streams = ["--stdout-file", "/dev/stdout", "--stderr-file", "/dev/stderr"]
        with explained(f"creating the container {name}"):
            return self._engine.containers.create(
                config.image_name,
                # As Kaggle runs it; the copy with its outputs takes the notebook's place.
                ["python3", "-m", "papermill", _NOTEBOOK, _NOTEBOOK, "--no-progress-bar", *streams],
                name=name,
                entrypoint=["/usr/bin/env"],
                working_dir=WORKING,
                environment={"GOOGLE_APPLICATION_CREDENTIALS": _KEY},
                mounts=mounts,
                shm_size=config.shm_size,
                device_requests=gpus if config.gpu_count else None,
                init=True,  # a training's children are reaped, and a signal reaches it
            )

    def remove(self, tags: Mapping[str, str]) -> bool:
        """Delete the container with its log; what is in /kaggle/working stays on the host."""
        try:
            container = self._container(tags)
            with explained(f"removing the container {tags[CONTAINER]}"):
                container.remove(v=True, force=True)
        except GoneError:
            return False
        return True

    def _container(self, tags: Mapping[str, str]) -> Any:
        doing = f"looking for the container {tags[CONTAINER]}"
        if tags[ENGINE] != self._engine_id():
            raise KaggleOpsError(
                doing,
                "the engine of this machine does not have it",
                "Ask on the machine that it was submitted from.",
            )
        with explained(doing):
            return self._engine.containers.get(tags[CONTAINER])

    # -- watching -----------------------------------------------------------------------------

    def state(self, tags: Mapping[str, str]) -> JobState | None:
        """Return how far the container is, None on another machine than the engine's."""
        if tags[ENGINE] != self._engine_id():
            return None
        said = self._container(tags).attrs["State"]
        status, code = said["Status"], said["ExitCode"]
        if status not in ("exited", "dead"):
            return JobState(_STATUSES.get(status, UNKNOWN), status)
        if code == 0:
            return JobState("FINISHED", status)
        reason = "the machine's memory was full" if said.get("OOMKilled") else f"exit code {code}"
        return JobState("FAILED", status, said.get("Error") or reason)

    def page(self, tags: Mapping[str, str]) -> str:
        """Return "": an engine has no page."""
        return ""

    def logs(self, tags: Mapping[str, str], follow: bool) -> Iterator[str]:
        """Yield the lines that the container printed."""
        container = self._container(tags)
        with explained(f"reading the log of {tags[CONTAINER]}"):
            yield from _lines(container.logs(stream=True, follow=follow))

    # -- bringing home ------------------------------------------------------------------------

    def download(self, tags: Mapping[str, str], directory: Path) -> Downloaded:
        """Bring what the container left in /kaggle/working, as this user's own files."""
        container = self._container(tags)
        with tempfile.TemporaryFile() as archive:
            with explained(f"copying {WORKING} of {tags[CONTAINER]}"):
                chunks, _ = container.get_archive(WORKING)
                archive.writelines(chunks)
            archive.seek(0)
            return _unpacked(archive, directory)


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    line = ""
    for chunk in chunks:
        *whole, line = (line + decoder.decode(chunk)).split("\n")
        yield from whole
    if line:
        yield line


def _unpacked(archive: IO[bytes], directory: Path) -> Downloaded:
    files: list[Path] = []
    problems: list[str] = []
    with tarfile.open(fileobj=archive) as tar:
        for member in tar:
            name = member.name.partition("/")[2]  # below the folder's own name
            if member.isdir():
                continue
            try:
                path = inside(directory, name)
                if not member.isfile():
                    problem = "it is a link or a device, so it is left there"
                    raise KaggleOpsError(f"downloading {name!r}", problem)
                path.parent.mkdir(parents=True, exist_ok=True)
                source = tar.extractfile(member)
                assert source is not None  # noqa: S101 - it is a file
                with source, path.open("wb") as target:
                    shutil.copyfileobj(source, target)
                files.append(path)
            except KaggleOpsError as error:
                problems.append(str(error))
    return Downloaded(files, problems)
